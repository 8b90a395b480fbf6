"""One run a workdir, and one run in all processes. What a workdir says of its run: tests/test_train.py."""

import pytest

from seed_jax.errors import UserError
from seed_jax.train import workdir


def test_a_workdir_is_of_one_run_at_a_time(tmp_path):
    for _ in range(2):
        with workdir.hold(tmp_path / "run"):
            with (
                pytest.raises(
                    UserError, match=f"^Another run is under way in {tmp_path}/run: wait for it.*remove "
                ),
                workdir.hold(tmp_path / "run"),
            ):
                pass
            with workdir.hold(tmp_path / "other"):
                pass


def test_a_workdir_that_cannot_be_a_folder(tmp_path):
    (tmp_path / "file").write_text("")
    with (
        pytest.raises(UserError, match="--workdir=.*file/run cannot be made .Not a directory.: give another"),
        workdir.hold(tmp_path / "file" / "run"),
    ):
        pass


DIFFERENT = """
import sys
import jax
import tiny
from seed_jax import parallel
from seed_jax.train import workdir

parallel.start()
raw = tiny.get_config("seed")
if jax.process_index():
    raw.data.dir, raw.data.workers, raw.log.tensorboard = "elsewhere", 3, not raw.log.tensorboard
facts = {"data": {"images": 5, "fingerprint": "aa"}, "teacher": {"file": f"{jax.process_index()}.pth"}}
with parallel.ending_with_the_others("start again"):
    workdir.agree("run", raw, facts)
    print("agreed", file=sys.stderr)
    if jax.process_index():
        raw.optim.lr, raw.log.every_steps, facts["data"]["fingerprint"] = 0.5, 7, "bb"
        facts["teacher"]["licence"] = "MIT"  # only here
    workdir.agree("run", raw, facts)
"""


def test_processes_of_different_runs_end(two_processes):
    """A stale copy of the data on one host would train on with other samples there."""
    for text in two_processes(DIFFERENT):
        assert "agreed" in text
        (sentence,) = [line for line in text.splitlines() if line.startswith("The processes are not of one")]
        for key, there, here in [
            ("data.fingerprint", "aa", "bb"),
            ("log.every_steps", "1", "7"),
            ("optim.lr", "0.1", "0.5"),
            ("teacher.licence", "absent", "MIT"),
        ]:
            assert f"{key} is {there} in process 0 and {here} in process 1" in sentence
        assert sentence.count(" in process 1") == 4


ONE_FAILS = """
import jax
from seed_jax import parallel
from seed_jax.errors import UserError

def start():
    if jax.process_index():
        raise UserError("there is no folder here.")

parallel.start()
with parallel.ending_with_the_others("start again"):
    parallel.together(start)
"""


def test_a_process_that_cannot_start_ends_the_others(two_processes):
    """They would wait for it until JAX counts it as dead, and aborts them."""
    first, second = two_processes(ONE_FAILS)
    assert "Another process cannot start, and says why" in first
    assert "there is no folder here." in second
