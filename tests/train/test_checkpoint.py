"""Checkpoints are restored exactly, in the requested shardings; the newest and the best are kept."""

import functools
import json
import resource
import shutil

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.experimental import multihost_utils

from seed_jax import parallel
from seed_jax.errors import UserError
from seed_jax.methods import queue
from seed_jax.train import state
from seed_jax.train.checkpoint import Checkpoints, load_model, step_of


def make(step, features=3):
    """A state whose values depend on its step."""
    full = jnp.full((features, 2), step, jnp.float32)
    # Large enough that each process writes a separate file for it.
    noise = queue.init(32, 16, 256, start="noise", rng=jax.random.key(step))
    return state.TrainState(
        step=jnp.int32(step),
        params={"w": full},
        model_state={"batch_stats": {"mean": full[0]}},
        opt_state=(full, jnp.int32(step)),
        aux={"queue": queue.enqueue(noise, jnp.full((16, 256), step / 7))},
    )


def sharded(step, features=3):
    fresh = functools.partial(make, step, features)
    return jax.jit(fresh, out_shardings=state.shardings(parallel.make_mesh(), jax.eval_shape(fresh)))()


def test_restores_bitwise_in_the_requested_shardings(tmp_path):
    checkpoints = Checkpoints(tmp_path, keep=2)
    assert checkpoints.latest() is None
    saved = sharded(5)
    checkpoints.save(saved, 5, None)
    checkpoints.wait()
    assert checkpoints.latest() == 5
    restored = checkpoints.restore(sharded(0))
    chex.assert_trees_all_equal(jax.device_get(restored), jax.device_get(saved))
    slots = restored.aux["queue"].slots
    assert slots.sharding.is_equivalent_to(saved.aux["queue"].slots.sharding, slots.ndim)
    assert len(slots.sharding.device_set) == 8
    checkpoints.close()


def test_the_newest_and_the_best_are_kept(tmp_path):
    directory = tmp_path / "checkpoints"
    checkpoints = Checkpoints(directory, keep=2)
    for step, score in [(1, 0.3), (2, 0.9), (3, None), (4, 0.5), (5, None), (6, 0.8)]:
        checkpoints.save(make(step), step, score)
    checkpoints.close()
    assert sorted(int(path.name) for path in directory.iterdir()) == [2, 5, 6]
    assert (step_of(tmp_path), step_of(tmp_path, best=True)) == (6, 2)


def test_a_score_added_later_counts_as_a_saved_one(tmp_path):
    for late in (False, True):
        directory = tmp_path / str(late) / "checkpoints"
        checkpoints = Checkpoints(directory, keep=1)
        checkpoints.save(make(1), 1, None if late else 0.9)
        checkpoints.wait()
        checkpoints.rate(1, 0.9)
        checkpoints.rate(1, 0.1)  # it has a score already
        checkpoints.close()
        checkpoints = Checkpoints(directory, keep=1)
        for step in (2, 3):
            checkpoints.save(make(step), step, 0.5)
        checkpoints.rate(3, None)
        checkpoints.close()
        assert sorted(int(path.name) for path in directory.iterdir()) == [1, 3]
        assert [path.name for path in directory.parent.iterdir()] == ["checkpoints"]


def test_the_log_is_kept_exactly(tmp_path):
    log = {"window": [{"loss": float(np.float32(1 / 3)), "lr": 1e-30}], "bad_in_pass": [2, 7]}
    checkpoints = Checkpoints(tmp_path, keep=2)
    checkpoints.save(make(1), 1, None, log)
    checkpoints.wait()
    assert checkpoints.log() == log
    checkpoints.save(make(2), 2, None)
    checkpoints.wait()
    assert checkpoints.log() == {}
    checkpoints.close()


def test_a_step_is_not_saved_twice(tmp_path):
    """A second score is an error, not ignored."""
    checkpoints = Checkpoints(tmp_path, keep=1)
    checkpoints.save(make(1), 1, None)
    checkpoints.wait()
    with pytest.raises(UserError, match="step 1 cannot be written"):
        checkpoints.save(make(1), 1, 0.5)
    checkpoints.close()


def test_saving_does_not_ask_jax_whether_to_stop(tmp_path, monkeypatch):
    """JAX derives the step to stop at from the steps in these calls; Orbax would pass old ones."""
    asked = []
    monkeypatch.setattr(multihost_utils, "reached_preemption_sync_point", asked.append)
    checkpoints = Checkpoints(tmp_path, keep=1)
    for step in (1, 2):
        checkpoints.save(make(step), step, None)
    checkpoints.close()
    assert asked == []


def test_the_state_may_be_donated_right_after_save(tmp_path):
    checkpoints = Checkpoints(tmp_path, keep=1)
    current = sharded(1)
    advance = jax.jit(lambda s: jax.tree.map(lambda x: x * 0, s), donate_argnums=0)
    checkpoints.save(current, 1, None)
    advance(current)
    checkpoints.wait()
    restored = checkpoints.restore(sharded(0))
    np.testing.assert_array_equal(restored.params["w"], np.ones((3, 2)))
    checkpoints.close()


@pytest.fixture
def two(tmp_path):
    """A folder with checkpoints of steps 1 and 2, the second with a score."""
    checkpoints = Checkpoints(tmp_path / "checkpoints", keep=2)
    checkpoints.save(sharded(1), 1, None)
    checkpoints.save(sharded(2), 2, 0.5)
    checkpoints.close()
    return tmp_path / "checkpoints"


@pytest.mark.parametrize(
    ("file", "kept"),
    [
        ("model/_METADATA", 0),
        ("model/manifest.ocdbt", 0.5),
        ("train/d/*", 0.5),
        ("train/d/*", None),
        ("train/array_metadatas/*", 0.5),
        ("_CHECKPOINT_METADATA", 0.5),
    ],
)
def test_the_checkpoint_before_a_damaged_one_is_restored(two, file, kept):
    """`kept`: the fraction of the file that is left; None: the file is deleted."""
    (path,) = (two / "2").glob(file)
    if kept is None:
        path.unlink()
    else:
        path.write_bytes(path.read_bytes()[: int(kept * path.stat().st_size)])
    checkpoints = Checkpoints(two, keep=2)
    restored = checkpoints.restore(sharded(0))
    assert (int(restored.step), checkpoints.latest()) == (1, 1)
    (sentence,) = checkpoints.damaged
    assert sentence.startswith(f"The checkpoint {two}/2 is damaged")
    assert "\n" not in sentence
    assert (two.parent / "damaged-2").is_dir()
    checkpoints.save(sharded(2), 2, 0.5)  # the run reaches this step again
    checkpoints.close()
    assert sorted(path.name for path in two.iterdir()) == ["1", "2"]


@pytest.mark.parametrize("damaged", ["", "{}", "[]", '{"score": null}'])
def test_a_damaged_score_does_not_cost_the_checkpoint(two, damaged):
    """Not even the only checkpoint: its run adds the score again when it resumes."""
    shutil.rmtree(two / "1")
    (two / "2" / "metrics" / "metrics").write_text(damaged)
    with pytest.raises(UserError, match=f"^{two}/2/metrics/metrics is damaged: start its run again"):
        load_model(two.parent, {"params": sharded(0).params})
    checkpoints = Checkpoints(two, keep=2)
    assert checkpoints.damaged == [f"The score of {two}/2 was damaged and was removed"]
    assert int(checkpoints.restore(sharded(0)).step) == 2
    checkpoints.rate(2, 0.25)
    checkpoints.close()
    assert json.loads((two / "2" / "metrics" / "metrics").read_text()) == {"score": 0.25}
    assert [path.name for path in two.parent.iterdir()] == ["checkpoints"]


def test_a_damaged_score_of_the_best_is_taken_from_the_metrics(tmp_path):
    """Without its score, the best checkpoint would be deleted at the next save."""
    checkpoints = Checkpoints(tmp_path, keep=1)
    for step, score in [(1, 0.9), (2, 0.5)]:
        checkpoints.save(make(step), step, score)
    checkpoints.close()
    (tmp_path / "1" / "metrics" / "metrics").write_text("")
    checkpoints = Checkpoints(tmp_path, 1, {1: 0.9}.get)
    checkpoints.save(make(3), 3, 0.6)
    checkpoints.close()
    assert checkpoints.damaged == [f"The score of {tmp_path}/1 was damaged and was taken from the metrics"]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["1", "3"]


def test_the_only_checkpoint_is_not_moved_for_its_window(two):
    shutil.rmtree(two / "1")
    (two / "2" / "_CHECKPOINT_METADATA").write_text("{")
    for _ in range(2):
        with pytest.raises(UserError, match=f"^{two}/2/_CHECKPOINT_METADATA is damaged, and there is no ot"):
            Checkpoints(two, keep=2)
    assert [path.name for path in two.iterdir()] == ["2"]


def test_a_half_written_checkpoint_does_not_count_as_damaged(two):
    half = two / "10.orbax-checkpoint-tmp"
    half.mkdir()
    (half / "_CHECKPOINT_METADATA").write_text("")
    checkpoints = Checkpoints(two, keep=3)
    checkpoints.save(sharded(3), 3, None)  # Orbax cleans up in the background, by then at the latest
    checkpoints.close()
    assert checkpoints.damaged == []
    assert [path.name for path in two.parent.iterdir()] == ["checkpoints"]
    assert sorted(path.name for path in two.iterdir()) == ["1", "2", "3"]


def test_nothing_is_moved_when_no_checkpoint_can_be_read(two):
    for path in two.glob("*/model/manifest.ocdbt"):
        path.write_bytes(b"")
    checkpoints = Checkpoints(two, keep=2)
    with pytest.raises(UserError, match=f"The checkpoint {two}/2 is damaged or does not fit") as caught:
        checkpoints.restore(sharded(0))
    assert "\n" not in str(caught.value)
    assert sorted(path.name for path in two.iterdir()) == ["1", "2"]
    checkpoints.close()
    del caught


def test_a_folder_that_cannot_be_created_is_an_error(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match=r"file/checkpoints cannot be written \(Not a directory\): make it"):
        Checkpoints(tmp_path / "file" / "checkpoints", keep=1)


def test_full_disk_keeps_the_last_good_checkpoint(two):
    checkpoints = Checkpoints(two, keep=2)
    state = sharded(3)
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(
        resource.RLIMIT_FSIZE, (300, limits[1])
    )  # bytes: writing more fails, as on a full disk
    try:
        checkpoints.save(state, 3, None)
        with pytest.raises(
            UserError, match="step 3 cannot be written .*File too large.*step 2 is kept"
        ) as caught:
            checkpoints.wait()
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert "\n" not in str(caught.value)
    assert int(checkpoints.restore(sharded(0)).step) == 2
    checkpoints.close()
    del caught


FAILING = """
import resource, sys
from pathlib import Path
from seed_jax import parallel
parallel.start()
import jax
from seed_jax.train.checkpoint import Checkpoints, load_model
from train.test_checkpoint import sharded

checkpoints = Checkpoints(Path(sys.argv[1]), keep=2)
checkpoints.save(sharded(1), 1, None)
checkpoints.wait()
if jax.process_index() == int(sys.argv[2]):
    resource.setrlimit(resource.RLIMIT_FSIZE, (300, resource.RLIM_INFINITY))
with parallel.ending_with_the_others("start again"):
    checkpoints.save(sharded(2), 2, None)
    checkpoints.wait()
"""


@pytest.mark.parametrize("victim", [0, 1])
def test_all_processes_end_when_one_cannot_write(two_processes, tmp_path, victim):
    """At once; with Orbax alone they would wait for one another for 20 minutes."""
    directory = tmp_path / "checkpoints"
    for i, text in enumerate(two_processes(FAILING, directory, victim)):
        reason = "File too large" if i == victim else "another process could not write its share"
        assert f"step 2 cannot be written to {directory} ({reason}); the checkpoint of step 1 is kept" in text
    checkpoints = Checkpoints(directory, keep=2)
    assert checkpoints.latest() == 1
    checkpoints.close()


READING = """
import contextlib, sys
from pathlib import Path
from seed_jax import parallel
from seed_jax.train import checkpoint, damage
parallel.start()
import jax
from train.test_checkpoint import sharded

damage.PATIENCE_SECONDS = 1
directory = Path(sys.argv[1])
with contextlib.closing(checkpoint.Checkpoints(directory, keep=2)) as checkpoints:
    for step in range(1, 1 + int(sys.argv[2])):
        checkpoints.save(sharded(step), step, None)
if jax.process_index() == 0:
    for path in (directory / sys.argv[2] / "train" / "ocdbt.process_1" / "d").iterdir():
        path.write_bytes(path.read_bytes()[:50])
with (
    parallel.ending_with_the_others("start again"),
    contextlib.closing(checkpoint.Checkpoints(directory, keep=2)) as checkpoints,
):
    checkpoints.restore(sharded(0))
"""


def test_all_processes_end_when_one_cannot_read(two_processes, tmp_path):
    """With Orbax alone the other process would wait for 300 s, again at each start."""
    directory = tmp_path / "checkpoints"
    for text in two_processes(READING, directory, 2):
        assert f"The checkpoint {directory}/2 is damaged" in text
        assert f"it was moved to {tmp_path}/damaged-2: start all processes again" in text
    checkpoints = Checkpoints(directory, keep=2)
    assert int(checkpoints.restore(sharded(0)).step) == 1
    assert checkpoints.damaged == []
    checkpoints.close()


def test_the_only_checkpoint_is_not_moved_when_one_process_cannot_read_it(two_processes, tmp_path):
    directory = tmp_path / "checkpoints"
    for text in two_processes(READING, directory, 1):
        assert f"The checkpoint {directory}/1 is damaged" in text
        assert "no other checkpoint can be read either: use the config" in text
    assert [path.name for path in tmp_path.iterdir()] == ["checkpoints"]


def test_another_network_is_an_error_of_one_sentence(tmp_path):
    checkpoints = Checkpoints(tmp_path, keep=1)
    checkpoints.save(make(1), 1, None)
    checkpoints.wait()
    with pytest.raises(UserError, match="does not fit this config's networks.*: use the config") as caught:
        checkpoints.restore(sharded(0, features=4))
    assert "\n" not in str(caught.value)
    checkpoints.close()
    del caught
