"""One run per workdir, and the same run in all processes; `test_loop.py` tests resuming from a workdir."""

import pytest

from seed_jax.errors import UserError
from seed_jax.train import workdir


def test_a_workdir_has_one_run_at_a_time(tmp_path):
    for _ in range(2):
        with workdir.hold(tmp_path / "run"):
            with (
                pytest.raises(UserError, match=f"^Another run is using {tmp_path}/run: wait for it.*remove "),
                workdir.hold(tmp_path / "run"),
            ):
                pass
            with workdir.hold(tmp_path / "other"):
                pass


def test_a_workdir_that_cannot_be_created(tmp_path):
    (tmp_path / "file").write_text("")
    with (
        pytest.raises(
            UserError, match="--workdir=.*file/run cannot be created .Not a directory.: use another"
        ),
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
        facts["teacher"]["licence"] = "MIT"  # only in this process
    workdir.agree("run", raw, facts)
"""


def test_processes_of_different_runs_end(two_processes):
    """With a stale copy of the data, one host would train on other samples than the rest."""
    for text in two_processes(DIFFERENT):
        assert "agreed" in text
        (sentence,) = [
            line for line in text.splitlines() if line.startswith("The processes do not belong to one")
        ]
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
    """Otherwise they would wait until JAX counts it as dead and aborts them."""
    first, second = two_processes(ONE_FAILS)
    assert "Another process cannot start, and printed why" in first
    assert "there is no folder here." in second
