"""What the checks of reliability would overlook, were they written carelessly."""

import signal

import numpy as np
import pytest

from experiments.reliability import __main__ as reliability
from experiments.reliability import processes


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
    with pytest.raises(RuntimeError, match="no checkpoint came"):
        reliability.one_of_two_dies(victim)(tmp_path, "seed", 1)


def test_a_run_that_starts_again_at_0_does_not_pass_for_a_resumed_one(fake, tmp_path):
    fake.code = 0
    reliability._finish(tmp_path / "run", "seed", 20)
    for name in ("5", "10", "15.orbax-checkpoint-tmp"):
        (tmp_path / "run" / "checkpoints" / name).mkdir(parents=True)
    for said in ("", "train: going on from step 5 of 20 in run"):
        fake.says = said
        with pytest.raises(RuntimeError, match="did not go on from step 10"):
            reliability._finish(tmp_path / "run", "seed", 20)
    fake.says = "train: going on from step 10 of 20 in run"
    reliability._finish(tmp_path / "run", "seed", 20)
