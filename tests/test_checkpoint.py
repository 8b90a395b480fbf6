"""Checkpoints: exact, sharded as asked, the newest and the best kept."""

import functools
import gc

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from seed_jax import parallel, queue, state
from seed_jax.checkpoint import Checkpoints
from seed_jax.errors import UserError


def make(step, features=3):
    """A state whose numbers tell its step."""
    full = jnp.full((features, 2), step, jnp.float32)
    return state.TrainState(
        step=jnp.int32(step),
        params={"w": full},
        model_state={"batch_stats": {"mean": full[0]}},
        opt_state=(full, jnp.int32(step)),
        aux={"queue": queue.enqueue(queue.init(32, 16, 4), jnp.full((16, 4), step / 7))},
    )


def sharded(step, features=3):
    fresh = functools.partial(make, step, features)
    return jax.jit(fresh, out_shardings=state.shardings(parallel.make_mesh(), jax.eval_shape(fresh)))()


def test_restores_bitwise_in_the_shardings_asked_for(tmp_path):
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


def test_the_newest_and_the_best_stay(tmp_path):
    checkpoints = Checkpoints(tmp_path, keep=2)
    for step, score in [(1, 0.3), (2, 0.9), (3, None), (4, 0.5), (5, None), (6, 0.8)]:
        checkpoints.save(make(step), step, score)
    checkpoints.close()
    assert sorted(int(path.name) for path in tmp_path.iterdir()) == [2, 5, 6]


def test_the_state_may_be_donated_right_after(tmp_path):
    checkpoints = Checkpoints(tmp_path, keep=1)
    current = sharded(1)
    advance = jax.jit(lambda s: jax.tree.map(lambda x: x * 0, s), donate_argnums=0)
    checkpoints.save(current, 1, None)
    advance(current)
    checkpoints.wait()
    restored = checkpoints.restore(sharded(0))
    np.testing.assert_array_equal(restored.params["w"], np.ones((3, 2)))
    checkpoints.close()


# orbax leaves coroutines of the reads that it gave up
@pytest.mark.filterwarnings("ignore:coroutine", "ignore::pytest.PytestUnraisableExceptionWarning")
def test_another_network_is_told_in_one_sentence(tmp_path):
    checkpoints = Checkpoints(tmp_path, keep=1)
    checkpoints.save(make(1), 1, None)
    checkpoints.wait()
    with pytest.raises(UserError, match="does not fit this config's networks") as caught:
        checkpoints.restore(sharded(0, features=4))
    assert "\n" not in str(caught.value)
    checkpoints.close()
    del caught
    gc.collect()
