"""One run per workdir, and the same run in all processes; `test_loop.py` tests resuming from a workdir."""

import json
import subprocess

import pytest

from seed_jax.data.sources import EMBEDDED
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
        pytest.raises(UserError, match="^/.*file/run cannot be created .Not a directory.: use another"),
        workdir.hold(tmp_path / "file" / "run"),
    ):
        pass


def test_a_resume_compares_the_data_and_not_the_names_of_its_classes(tmp_path):
    (tmp_path / "checkpoints" / "3").mkdir(parents=True)
    workdir._write(tmp_path / "manifest.json", {"data": {"fingerprint": "aa"}, "class_names": ["cat"]})
    workdir.write_manifest(tmp_path, data={"fingerprint": "aa"}, class_names=["cats"])
    with pytest.raises(UserError, match="changed: data.fingerprint was aa and is bb: restore"):
        workdir.write_manifest(tmp_path, data={"fingerprint": "bb"}, class_names=["dog"])


def test_the_commit_is_of_this_code(tmp_path, monkeypatch):
    """A package in a virtual environment may be inside a repository that has nothing to do with it."""
    package = tmp_path / "venv" / "seed_jax" / "train"
    package.mkdir(parents=True)
    monkeypatch.setattr(workdir, "__file__", str(package / "workdir.py"))

    def commit(root):
        git = ["git", "-C", str(root), "-c", "user.name=a", "-c", "user.email=a@b"]
        subprocess.run([*git, "init", "-q"], check=True)
        subprocess.run([*git, "commit", "-q", "--allow-empty", "-m", "first"], check=True)
        shown = subprocess.run([*git, "rev-parse", "HEAD"], check=True, capture_output=True, text=True)
        return shown.stdout.strip()

    commit(tmp_path)
    assert workdir._commit() == "unknown"
    own = commit(tmp_path / "venv")
    assert own.startswith(workdir._commit())
    monkeypatch.setenv("PATH", str(tmp_path))
    assert workdir._commit() == "unknown"


def test_sides_of_packaged_images():
    sides = {name: {source()[i].image.shape[:2] for i in (0, -1)} for name, source in EMBEDDED.items()}
    assert sides == {name: {(side, side)} for name, side in workdir.SIDES.items()}


@pytest.mark.parametrize(
    ("data", "said"),
    [
        ({"source": "npz", "image_size": 224}, True),
        ({"source": "", "image_size": 224}, True),
        ({"source": "npz", "image_size": 224, "resize": 1.0}, False),
        ({"source": "digits", "image_size": 32}, False),
        ({"source": "digits", "image_size": 64}, False),
    ],
)
def test_a_run_older_than_resize(tmp_path, caplog, data, said):
    (tmp_path / "config.json").write_text(json.dumps({"data": data}))
    workdir.warn_of_resize(tmp_path)
    words = "evaluation now resizes images of exactly 224 pixels, too, to a short side of 256 before"
    assert (words in caplog.text) == said == bool(caplog.records)


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
