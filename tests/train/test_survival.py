"""A run resumed after signals, crashes and full disks, or on other devices, equals an uninterrupted run."""

import functools
import json
import os
import re
import shutil
import signal
import subprocess
import sys

import chex
import jax
import pytest
import tiny

from experiments.reliability.processes import (
    EVERY,
    PASS,
    ROOT,
    Processes,
    after,
    checkpoint,
    differences,
    half_written,
    newest_checkpoint,
    rows,
)
from seed_jax import models, parallel, report
from seed_jax.data.pipeline import eval_batches
from seed_jax.evals import base
from seed_jax.train import loop, monitor
from seed_jax.train.stop import Stopped, StopRequest

LENGTH = {
    "train.steps": 20,
    "train.checkpoint_epochs": EVERY / PASS,
}  # the same compiled program in all tests


@pytest.fixture(autouse=True)
def tiny_model(monkeypatch):
    monkeypatch.setitem(models.MODELS, "tiny", tiny.Tiny)


def run(directory, **changes):
    raw = tiny.get_config("seed")
    raw.update_from_flattened_dict(LENGTH | changes)
    return loop.run(raw, directory)


def steps_kept(directory):
    return sorted(int(path.name) for path in (directory / "checkpoints").iterdir())


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """An uninterrupted run of 20 steps on 8 devices."""
    directory = tmp_path_factory.mktemp("whole") / "run"
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(models.MODELS, "tiny", tiny.Tiny)
        run(directory)
    return directory


@pytest.fixture
def send(monkeypatch):
    """`send(number, step)`: the run sends itself this signal, once, during this step."""
    original = monitor.Monitor.step

    def at(number, step):
        due = [step]

        def note(self, now, *args, **options):
            if [now] == due:
                due.clear()
                os.kill(os.getpid(), number)
            original(self, now, *args, **options)

        monkeypatch.setattr(monitor.Monitor, "step", note)

    return at


def test_stopped_run_saves_and_resumes_bitwise(tmp_path, send, whole, capsys):
    before = signal.getsignal(signal.SIGTERM), signal.getsignal(signal.SIGINT)
    for number, step, code in ((signal.SIGTERM, 7, 0), (signal.SIGINT, 12, 130)):
        send(number, step)
        with pytest.raises(Stopped) as stopped:
            run(tmp_path / "cut")
        assert stopped.value.code == code
        printed = capsys.readouterr().out
        assert f"stopped at step {step} of 20; the same command resumes there" in printed
        assert ("resuming from step 7 of 20" in printed) == (step == 12)
        assert steps_kept(tmp_path / "cut")[-1] == step
        assert (signal.getsignal(signal.SIGTERM), signal.getsignal(signal.SIGINT)) == before
    run(tmp_path / "cut")
    assert "resuming from step 12 of 20" in capsys.readouterr().out
    chex.assert_trees_all_equal(checkpoint(tmp_path / "cut", 20), checkpoint(whole, 20))
    assert rows(tmp_path / "cut") == rows(whole)


PROBED = {
    "evals.names": ("knn",),
    "evals.every_epochs": 4 / PASS,  # probes at multiples of 4, and of 5 with the checkpoints
    "evals.bank_size": 32,
    "evals.batch_size": 64,
}


@pytest.fixture(scope="module")
def probed(tmp_path_factory):
    """`probed(every)`: an uninterrupted run with probes, and windows of `every` steps."""

    @functools.cache
    def make(every):
        directory = tmp_path_factory.mktemp("probed") / "run"
        with pytest.MonkeyPatch.context() as patch:
            patch.setitem(models.MODELS, "tiny", tiny.Tiny)
            run(directory, **PROBED, **{"log.every_steps": every})
        return directory

    return make


@pytest.fixture
def crash(monkeypatch):
    """`crash(step)`: the run raises a RuntimeError, once, after this step."""
    original = monitor.Monitor.step

    def at(step):
        due = [step]

        def note(self, now, *args, **options):
            original(self, now, *args, **options)
            if [now] == due:
                due.clear()
                raise RuntimeError("power cut")

        monkeypatch.setattr(monitor.Monitor, "step", note)

    return at


def best(directory):
    """Step to score of the checkpoints that have one."""
    paths = (directory / "checkpoints").glob("*/metrics/metrics")
    return {int(path.parent.parent.name): json.loads(path.read_text())["score"] for path in paths}


@pytest.mark.parametrize(
    ("every", "stops"),
    [
        (7, (2, 3, 4, 10)),  # within a window, two in the same; at a probe; at a checkpoint
        # Crashes too, with and without an unfinished window.
        pytest.param(5, (-7, 13, -14), marks=pytest.mark.long),
        pytest.param(50, (8, 20), marks=pytest.mark.long),
    ],
)
def test_metrics_are_those_of_an_uninterrupted_run(tmp_path, send, crash, probed, capsys, every, stops):
    """SIGTERM at each of the steps, or a crash where the step is negative."""
    log = {"log.every_steps": every}
    for step in stops:
        (send if step > 0 else crash)(*([signal.SIGTERM, step] if step > 0 else [-step]))
        with pytest.raises(Stopped if step > 0 else RuntimeError):
            run(tmp_path / "cut", **PROBED, **log)
    score = run(tmp_path / "cut", **PROBED, **log)
    said = [line for line in capsys.readouterr().out.splitlines() if line.startswith("train: At ")]
    early = report.milestones(probed(every))
    assert [*early] == [4, 8]  # the first probes at or after 10 % and 30 % of 20 steps
    assert said == [f"train: {sentence}" for sentence in early.values()]
    assert rows(tmp_path / "cut") == rows(probed(every))
    assert score == rows(probed(every))[-1]["knn"]
    assert max(best(tmp_path / "cut").values()) == max(best(probed(every)).values())
    chex.assert_trees_all_equal(checkpoint(tmp_path / "cut", 20), checkpoint(probed(every), 20))


@pytest.mark.parametrize(
    "probe",
    [
        pytest.param(4, marks=pytest.mark.long),  # neither the first nor the last
        10,  # with a checkpoint
        pytest.param(20, marks=pytest.mark.long),  # the last
    ],
)
def test_a_stop_abandons_a_probe_and_the_resumed_run_repeats_it(tmp_path, monkeypatch, probed, capsys, probe):
    asked = []

    def batches(*args, **options):
        for i, batch in enumerate(eval_batches(*args, **options)):
            if newest_line(tmp_path / "cut") == probe:
                asked.append(i)
                if len(asked) == 2:
                    os.kill(os.getpid(), signal.SIGTERM)
            yield batch

    monkeypatch.setattr(base, "eval_batches", batches)
    options = {"log.every_steps": 50}
    with pytest.raises(Stopped) as stopped:
        run(tmp_path / "cut", **PROBED, **options)
    assert (stopped.value.code, asked) == (0, [0, 1])
    assert f"stopped at step {probe} of 20" in capsys.readouterr().out
    assert "knn" not in rows(tmp_path / "cut")[-1]
    assert steps_kept(tmp_path / "cut")[-1] == probe
    run(tmp_path / "cut", **PROBED, **options)
    assert rows(tmp_path / "cut") == rows(probed(50))
    assert best(tmp_path / "cut").items() >= {20: rows(probed(50))[-1]["knn"]}.items()
    scores = {row["step"]: row["knn"] for row in rows(probed(50)) if "knn" in row}
    assert best(tmp_path / "cut").items() <= scores.items()


def newest_line(directory):
    """The step of the last line of a run's metrics; None without a line."""
    path = directory / "metrics.jsonl"
    return rows(directory)[-1]["step"] if path.exists() and path.stat().st_size else None


def test_stop_before_the_first_new_step_saves_nothing(tmp_path, monkeypatch):
    monkeypatch.setattr(StopRequest, "reached", lambda self, step: True)
    with pytest.raises(Stopped):
        run(tmp_path)
    assert steps_kept(tmp_path) == []


def test_second_signal_ends_at_once():
    with StopRequest() as stop:
        assert not stop.reached(0)
        os.kill(os.getpid(), signal.SIGTERM)
        assert stop.reached(1)
        assert signal.getsignal(signal.SIGTERM) == signal.getsignal(signal.SIGINT) == signal.SIG_DFL


# main.py, with one function that stays in native code for minutes, where Python runs no handler
NATIVE = """
import hashlib, importlib, runpy, sys, threading
place, name, call = sys.argv[1:4]
del sys.argv[1:4]
module = importlib.import_module(place)
original, calls = getattr(module, name), []

def native(*args, **options):
    calls.append(1)
    if len(calls) < int(call):
        return original(*args, **options)
    threading.Timer(1.0, print, ["in native code"], {"flush": True}).start()
    hashlib.pbkdf2_hmac("sha256", b"", b"", 2**31 - 1)

setattr(module, name, (lambda *args, **options: native) if name == "make_step" else native)
runpy.run_path("main.py", run_name="__main__")
"""
STOPPED = "Stopped, with nothing to save: the same command starts or resumes the run."
ENDED = "Ended without saving: the same command resumes from the newest checkpoint."


@pytest.mark.parametrize(
    ("place", "signals", "code", "sentence"),
    [
        (("seed_jax.train.build", "prepare", 1), [signal.SIGTERM], 0, STOPPED),
        pytest.param(  # traced, as if compiled
            ("seed_jax.train.build", "make_step", 1), [signal.SIGINT], 130, STOPPED, marks=pytest.mark.long
        ),
        (("seed_jax.train.loop", "_scores", 1), [signal.SIGINT], 130, STOPPED),
        (("seed_jax.train.loop", "_scores", 2), [signal.SIGINT, signal.SIGINT], 130, ENDED),
        (("seed_jax.train.state", "served", 2), [signal.SIGTERM, signal.SIGTERM], 143, ENDED),  # saving
    ],
)
def test_signals_act_while_native_code_runs(tmp_path, place, signals, code, sentence):
    """At once where there is nothing to save, else at the second one."""
    with subprocess.Popen(
        [
            sys.executable,
            "-c",
            NATIVE,
            *map(str, place),
            "--config=tests/tiny.py:seed",
            f"--workdir={tmp_path / 'run'}",
        ],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        try:
            assert any("in native code" in line for line in process.stdout), process.stderr.read()
            *first, last = signals
            for number in first:
                process.send_signal(number)
                with pytest.raises(subprocess.TimeoutExpired):
                    process.wait(0.5)
            process.send_signal(last)
            assert process.wait(30.0) == code  # the native code takes longer
            assert process.stderr.read() == f"\n{sentence}\n"
        finally:
            process.kill()


# main.py, killed when the checkpoint of step 10 is complete except for its name
KILLED = """
import os, runpy, signal
rename = os.rename

def kill(source, target, **options):
    if os.path.basename(target) == "10":
        os.kill(os.getpid(), signal.SIGKILL)
    rename(source, target, **options)

os.rename = kill
runpy.run_path("main.py", run_name="__main__")
"""


def test_process_killed_while_it_writes_a_checkpoint(tmp_path, whole, capsys):
    length = [f"--config.{key}={value}" for key, value in LENGTH.items()]
    process = subprocess.run(
        [
            sys.executable,
            "-c",
            KILLED,
            "--config=tests/tiny.py:seed",
            f"--workdir={tmp_path / 'cut'}",
            *length,
        ],
        cwd=ROOT,
        env={**os.environ, "JAX_NUM_CPU_DEVICES": "8"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert process.returncode == -signal.SIGKILL, process.stderr
    assert half_written(tmp_path / "cut")
    run(tmp_path / "cut")
    assert "resuming from step 5 of 20" in capsys.readouterr().out
    assert differences(tmp_path / "cut", whole, 20) == {"network": 0, "train state": 0, "metrics": 0}


def test_a_folder_that_becomes_unwritable_ends_the_process(tmp_path):
    """With an orderly exit, Orbax's threads would delay it for minutes."""
    workdir = tmp_path / "run"
    with Processes(workdir, "seed", 200) as process:
        assert process.reached(newest_checkpoint)
        (workdir / "checkpoints").rename(workdir / "elsewhere")
        (workdir / "checkpoints").write_text("")
        assert process.wait(timeout=60.0) == [1]
        assert "cannot be written to" in process.said().splitlines()[-1]


def test_damaged_checkpoint_is_named_and_the_previous_one_is_used(tmp_path, whole, capsys):
    shutil.copytree(whole, tmp_path / "run")
    for file in (tmp_path / "run" / "checkpoints" / "20" / "model" / "d").iterdir():
        file.write_bytes(file.read_bytes()[:50])
    run(tmp_path / "run")
    printed = capsys.readouterr().out
    assert f"The checkpoint {tmp_path / 'run'}/checkpoints/20 is damaged" in printed
    assert f"moved to {tmp_path / 'run'}/damaged-20" in printed
    assert "resuming from step 15 of 20" in printed
    chex.assert_trees_all_equal(checkpoint(tmp_path / "run", 20), checkpoint(whole, 20))


def test_metrics_are_kept_when_the_checkpoints_are_gone(tmp_path, whole):
    shutil.copytree(whole, tmp_path / "run")
    before = (tmp_path / "run" / "metrics.jsonl").read_text()
    (tmp_path / "run" / "checkpoints").rename(tmp_path / "elsewhere")
    run(tmp_path / "run")
    assert (tmp_path / "run" / "metrics.jsonl.old").read_text() == before


def test_resume_on_other_numbers_of_devices(tmp_path, whole, send, monkeypatch, capsys):
    """8, then 2, then 1: equal within rounding, so the queue has the same order."""
    make, devices = parallel.make_mesh, jax.devices()
    for count, stop in ((8, 6), (2, 13)):
        monkeypatch.setattr(parallel, "make_mesh", lambda count=count: make(devices[:count]))
        send(signal.SIGTERM, stop)
        with pytest.raises(Stopped):
            run(tmp_path / "cut")
    monkeypatch.setattr(parallel, "make_mesh", lambda: make(devices[:1]))
    run(tmp_path / "cut")
    assert re.findall(r"resuming from step (\d+) of 20", capsys.readouterr().out) == ["6", "13"]
    chex.assert_trees_all_close(checkpoint(tmp_path / "cut", 20), checkpoint(whole, 20), rtol=0, atol=1e-5)


def test_two_processes_are_one_run(tmp_path, whole):
    with Processes(tmp_path / "two", "seed", 20, count=2) as both:
        assert both.wait() == [0, 0], both.said(0)
    assert max(differences(tmp_path / "two", whole, 20).values()) < 1e-5


@pytest.mark.long
def test_two_processes_end_together(tmp_path):
    """One is killed, and the other ends and says so. Resumed, one gets SIGTERM, and both save and end."""
    with Processes(tmp_path / "run", "seed", 100_000, count=2) as both:
        assert both.when(newest_checkpoint, signal.SIGKILL, process=1)
        codes = both.wait()
        assert codes[0] not in (0, -signal.SIGKILL), both.said(0)
        # The loop, JAX or Gloo notices it first. Gloo aborts if a device of process 0 that has lost its
        # neighbour sends its next message to one that still expects the one before.
        words = "Process 0 of 2 ends because another one ended|another task died|data size doesn't match"
        assert re.search(words, both.said(0))
    with Processes(tmp_path / "run", "seed", 100_000, count=2) as both:
        assert both.when(after(rows(tmp_path / "run")[-1]["step"] + 1), signal.SIGTERM, process=1)
        assert both.wait() == [0, 0], both.said(0)
        assert both.went_on(), both.said(0)
    begun, stopped = re.search(
        r"resuming from step (\d+) .* stopped at step (\d+)", both.said(0), re.S
    ).groups()
    assert int(begun) < int(stopped) == steps_kept(tmp_path / "run")[-1] == rows(tmp_path / "run")[-1]["step"]
