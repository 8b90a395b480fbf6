"""What the checks of reliability would overlook, were they written carelessly."""

import json
import signal
import subprocess
import sys

import numpy as np
import pytest

from experiments.reliability import __main__ as reliability
from experiments.reliability import checks, processes


class Fake:
    """A process with this exit code, or one that goes on for ever; it says this."""

    code, says = None, ""

    def __init__(self, command, *, stdout, **options):
        stdout.write(self.says)

    def poll(self):
        return self.code

    def wait(self, timeout=None):
        return self.code

    def kill(self):
        pass


@pytest.fixture
def fake(monkeypatch):
    class Here(Fake):
        pass

    monkeypatch.setattr(processes.subprocess, "Popen", Here)
    return Here


@pytest.mark.parametrize("position", [0, 1, 2])
def test_nan_is_an_infinite_difference(position):
    one = {"a": np.zeros(2), "b": np.zeros(1), "c": np.ones(3)}
    other = {name: x.copy() for name, x in one.items()}
    other["abc"[position]][-1] = np.nan
    assert processes._largest(one, other) == float("inf")
    assert processes._largest(one, one) == 0
    assert processes._worst([0.0, 3.0, 1.0]) == 3


def test_a_moment_that_never_comes_has_a_deadline(fake, tmp_path):
    with processes.Processes(tmp_path / "run", "seed", 20) as running:
        assert not running.when(processes.after(1), signal.SIGKILL, timeout=0)


@pytest.mark.parametrize("victim", [0, 1])
def test_processes_that_never_start_do_not_pass_for_ones_that_die_together(fake, tmp_path, victim):
    fake.code = 1
    with pytest.raises(checks.Failed, match="no checkpoint came"):
        checks.one_of_two_dies(victim)(tmp_path, "seed", 1)


def test_a_run_that_starts_again_at_0_does_not_pass_for_a_resumed_one(fake, tmp_path):
    fake.code = 0
    checks.finish(tmp_path / "run", "seed", 20)
    for name in ("5", "10", "15.orbax-checkpoint-tmp"):
        (tmp_path / "run" / "checkpoints" / name).mkdir(parents=True)
    for said in ("", "train: resuming from step 5 of 20 in run"):
        fake.says = said
        with pytest.raises(checks.Failed, match="did not go on from step 10"):
            checks.finish(tmp_path / "run", "seed", 20)
    fake.says = "train: resuming from step 10 of 20 in run"
    checks.finish(tmp_path / "run", "seed", 20)


class Ended:
    """A run whose processes ended with these codes."""

    def __init__(self, workdir, codes):
        self.workdir, self.codes = workdir, codes

    def wait(self, timeout):
        return self.codes

    def said(self, process):
        return f"words of {process}"


def test_an_end_counts_if_it_is_in_time_and_no_success(tmp_path):
    assert checks._ended(Ended(tmp_path, [-9, 1]), 60, {0: -9}) < 60
    for codes, limit, expected, sentence in (
        ([-9, 0], 60, {0: -9}, r"ended with \[-9, 0\]"),
        ([1, 1], 60, {0: -9}, r"ended with \[1, 1\]"),
        ([-9, -9], 0, {0: -9}, "killed after 0 s"),
    ):
        with pytest.raises(checks.Failed, match=rf"(?s){sentence}.*words of 1"):
            checks._ended(Ended(tmp_path, codes), limit, expected)


def test_what_differs_is_told(tmp_path, monkeypatch):
    losses = {"one": [(1, 0.5), (2, 0.25), (2, 0.125), (3, 4.0)], "other": [(1, 0.5), (2, 0.75), (3, np.nan)]}
    states = {"one": np.ones((2, 3)), "other": np.ones((2, 3)) + 1e-3}
    for name, found in losses.items():
        (tmp_path / name).mkdir()
        lines = [
            json.dumps({"step": s, "loss": None if np.isnan(x) else x, "data_wait": s}) for s, x in found
        ]
        (tmp_path / name / "metrics.jsonl").write_text("\n".join(lines) + "\n")
    monkeypatch.setattr(
        processes,
        "checkpoint",
        lambda run, step: {"model": {"w": states[run.name]}, "train": {"queue": {"slots": np.ones(1)}}},
    )
    one, other = tmp_path / "one", tmp_path / "other"
    alone, *rest = processes.explain(one, other, 3, 0.01)
    assert alone == "a row of one alone: {'step': 2, 'loss': 0.125}"
    assert rest == [
        "step 2 of one and other: loss 0.25 and 0.75",
        "step 3 of one and other: loss 4.0 and nan",
    ]
    assert processes.explain(one, other, 3, 1e-5)[-1] == "['model']['w'] differs by 0.000999"
    assert processes.explain(one, other, 3, 0.01, most=1) == [alone, "and 2 more"]
    assert processes.explain(one, one, 3, 0.0) == []
    assert processes.contents(one, 3) == "3 steps: losses (4 rows), parameters, train state with 1 queue"
    assert not checks.compare(one, other, 3, 0.01).kept
    assert checks.compare(one, one, 3, 0.0).kept


def test_what_a_state_carries_is_told(tmp_path, monkeypatch):
    (tmp_path / "metrics.jsonl").write_text('{"step": 1, "loss": 2.0}\n')
    x = np.ones(2)
    ema = {"params": x}
    for aux, words in (
        ({"queue": {"slots": x}, "ema": ema}, "1 queue and a moving average"),
        ({"ema": ema, "center": x}, "a moving average and a centre"),
        ({"one": {"slots": x}, "two": {"slots": x}}, "2 queues"),
    ):
        monkeypatch.setattr(processes, "checkpoint", lambda run, step, aux=aux: {"train": {"aux": aux}})
        assert processes.contents(tmp_path, 1).endswith(f"train state with {words}")


@pytest.fixture
def real(monkeypatch):
    """`real(code)`: processes run this Python instead of main.py; the list that it gives has all of them."""
    popen = subprocess.Popen

    def run(code):
        started = []

        def start(command, **options):
            started.append(popen([sys.executable, "-c", code], **options))
            return started[-1]

        monkeypatch.setattr(processes.subprocess, "Popen", start)
        return started

    return run


def interrupted(*unused, **options):
    raise KeyboardInterrupt


def test_ctrl_c_leaves_no_process(real, tmp_path, monkeypatch):
    started = real("import time; time.sleep(100)")
    with pytest.raises(KeyboardInterrupt), processes.Processes(tmp_path / "run", "seed", 1, count=2) as both:
        both.reached(interrupted)
    start = processes.subprocess.Popen
    monkeypatch.setattr(
        processes.subprocess, "Popen", lambda *a, **k: interrupted() if len(started) == 3 else start(*a, **k)
    )
    with pytest.raises(KeyboardInterrupt):
        processes.Processes(tmp_path / "run", "seed", 1, count=2)
    assert [process.poll() for process in started] == [-signal.SIGKILL] * 3


@pytest.mark.skipif(sys.platform != "linux", reason="limits of another process")
def test_a_limit_makes_writes_fail_as_a_full_disk(real, tmp_path):
    real(f"while True: open({str(tmp_path / 'file')!r}, 'ab', 0).write(bytes(100))")
    with processes.Processes(tmp_path / "run", "seed", 1) as running:
        assert running.reached(lambda run: (tmp_path / "file").exists())
        running.limit_files(50_000, 0)
        assert running.wait(timeout=30) == [1]
        assert "File too large" in running.said()


@pytest.fixture
def command(monkeypatch, tmp_path):
    """`command(arguments, checks)`: exit code of the command with these checks of SEED and MoCo."""
    before = signal.getsignal(signal.SIGTERM)
    monkeypatch.setenv("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0.2")
    monkeypatch.setattr(reliability, "METHODS", {"SEED": "seed", "MoCo v2": "moco"})
    monkeypatch.setattr(reliability, "STATES", {})

    def run(each, once, *arguments):
        monkeypatch.setattr(reliability, "EACH", each)
        monkeypatch.setattr(reliability, "ONCE", once)
        return reliability.main(["--out", str(tmp_path / "table.md"), *arguments])

    yield run
    signal.signal(signal.SIGTERM, before)


def good(folder, variant, repeats):
    return checks.Result("20 steps", {"network": (0.0, 0.0), "seconds": (3.0, 60.0)}, [])


def different(folder, variant, repeats):
    return checks.Result("20 steps", {"metrics": (float("nan"), 1e-5)}, ["step 3: loss 1 and nan"])


def failed(folder, variant, repeats):
    raise checks.Failed("it ended with [1]:\nits words")


def test_the_command_tells_what_runs_and_what_differed_and_goes_on(command, capsys, tmp_path):
    assert command({"good": good}, {"different": different, "failed": failed}) == 1
    said = capsys.readouterr().out
    for sentence in (
        "[1 of 4, 2.0 minutes left] SEED, good\n    network 0, seconds 3; kept: yes (0 s)",
        "SEED, different\n    metrics nan; kept: NO (0 s)\n    step 3: loss 1 and nan\n",
        "SEED, failed\n    a run failed; kept: NO\n    it ended with [1]:\n    its words\n",
        "| MoCo v2, good | 20 steps | network 0, seconds 3 | bitwise, 60 s | yes |\n\n4 checks, 2 missed",
    ):
        assert sentence in said, said
    assert "4 checks, 2 missed" in (tmp_path / "table.md").read_text()


def test_other_kinds_of_state_are_killed_alone_and_not_in_the_quick_form(command, capsys, monkeypatch):
    monkeypatch.setattr(reliability, "STATES", {"SwAV": "swav"})
    monkeypatch.setattr(reliability, "KILLED", {"killed": good})
    assert command({"good": good}, {}) == 0
    said = capsys.readouterr().out
    assert "3 checks, 0 missed" in said and "| SwAV, killed |" in said and "SwAV, good" not in said
    assert command({"good": good}, {}, "--quick") == 0
    assert "1 checks, 0 missed" in capsys.readouterr().out


def test_the_command_takes_a_name_and_stops(command, capsys):
    assert command({"good": good}, {"failed": failed}, "--only", "GOOD") == 0
    assert "2 checks, 0 missed" in capsys.readouterr().out
    assert command({"good": good}, {"failed": failed}, "--quick") == 1
    assert "2 checks, 1 missed" in capsys.readouterr().out
    with pytest.raises(SystemExit, match="(?s)'better' in its name.*MoCo v2, good"):
        command({"good": good}, {}, "--only", "better")
    assert command({"good": good}, {"stopped": interrupted}) == 130
    said = capsys.readouterr().out
    assert "Stopped after 1 of 3 checks." in said
    assert "1 checks, 0 missed" in said
