"""The queue against a Python deque, and its program on 8 devices."""

import collections
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P

from seed_jax import parallel
from seed_jax.errors import UserError
from seed_jax.losses import seed_loss
from seed_jax.methods import queue

COLLECTIVE = re.compile(r"(all-gather|all-reduce|all-to-all|collective-permute|reduce-scatter)(-start)?\(")


def oldest_first(q):
    """The filled slots in the order they were written, `[filled, B, D]`."""
    slots, following, filled = np.asarray(q.slots), int(q.next), int(q.filled)
    return slots[(following - filled + np.arange(filled)) % len(slots)]


@settings(max_examples=15, deadline=None)
@given(slots=st.integers(1, 5), batch=st.integers(1, 4), writes=st.integers(0, 12), start=st.integers(0, 9))
def test_is_a_deque_of_batches(slots, batch, writes, start):
    q = queue.init(slots * batch, batch, 3)
    want = collections.deque(maxlen=slots)
    for n in range(start, start + writes):
        embeddings = np.full((batch, 3), n, np.float32) + np.arange(batch, dtype=np.float32)[:, None] / 8
        q = queue.enqueue(q, jnp.asarray(embeddings))
        want.append(embeddings)
        assert int(q.filled) == len(want)
        np.testing.assert_array_equal(oldest_first(q), np.stack(want))
    valid = np.asarray(queue.valid(q))
    assert valid.shape == (slots,)
    assert valid.sum() == len(want)
    np.testing.assert_array_equal(np.asarray(q.slots)[~valid], 0)


def test_noise_start_is_unit_rows_that_count_and_are_overwritten():
    q = queue.init(12, 4, 64, start="noise", rng=jax.random.key(0))
    np.testing.assert_allclose(np.linalg.norm(q.slots, axis=-1), 1, rtol=1e-6)
    rows = np.asarray(q.slots).reshape(12, 64)
    assert np.abs(rows @ rows.T - np.eye(12)).max() < 0.6  # independent directions, none repeated
    assert queue.valid(q).all()
    q = queue.enqueue(q, jnp.ones((4, 64)))
    assert queue.valid(q).all()
    np.testing.assert_array_equal(q.slots[0], np.ones((4, 64)))
    np.testing.assert_array_equal(np.asarray(q.slots[1:]).reshape(8, 64), rows[4:])


def test_embeddings_are_stored_in_float32():
    q = queue.enqueue(queue.init(4, 2, 3), jnp.ones((2, 3), jnp.bfloat16))
    assert q.slots.dtype == jnp.float32


@pytest.mark.parametrize(
    ("size", "batch", "nearest"), [(1000, 256, 1024), (5, 16, 16), (0, 8, 8), (-32, 16, 16), (72, 16, 64)]
)
def test_a_size_that_does_not_fit_names_the_nearest_that_does(size, batch, nearest):
    with pytest.raises(
        UserError, match=rf"method\.queue_size is {size}\b.*--config\.method\.queue_size={nearest}\."
    ):
        queue.init(size, batch, 8)


def test_unknown_start():
    with pytest.raises(UserError, match="method.queue_start is 'full': use 'empty' or 'noise'"):
        queue.init(8, 4, 2, start="full")


@pytest.mark.parametrize(
    "embeddings", [jnp.ones((1, 3)), jnp.ones((2, 4)), jnp.ones(3), jnp.ones((2, 3), jnp.int32)]
)
def test_embeddings_that_do_not_fit_a_slot_are_refused(embeddings):
    with pytest.raises(AssertionError, match=r"\[Chex\]"):
        jax.eval_shape(queue.enqueue, queue.init(4, 2, 3), embeddings)


@pytest.mark.parametrize(
    "arguments",
    [{"batch_size": 0}, {"dim": 0}, {"start": "noise", "rng": jax.random.split(jax.random.key(0), 2)}],
)
def test_arguments_that_make_no_queue_are_refused(arguments):
    with pytest.raises(AssertionError, match=r"\[Chex\]"):
        queue.init(**{"size": 4, "batch_size": 2, "dim": 3} | arguments)


def test_on_8_devices_it_stays_sharded_in_place_and_nothing_is_communicated():
    mesh = parallel.make_mesh()
    everywhere = parallel.replicated(mesh)
    shardings = queue.Queue(NamedSharding(mesh, P(None, "data")), everywhere, everywhere)
    q = jax.device_put(queue.init(96, 16, 4), shardings)
    embeddings = jax.device_put(np.arange(64, dtype=np.float32).reshape(16, 4), parallel.batch_sharding(mesh))
    enqueue = jax.jit(queue.enqueue, donate_argnums=0)
    text = enqueue.lower(q, embeddings).compile().as_text()
    assert not COLLECTIVE.search(text)
    assert "input_output_alias" in text
    for _ in range(3):
        q = enqueue(q, embeddings)
    assert q.slots.sharding.is_equivalent_to(shardings.slots, 3)
    assert q.slots.addressable_shards[0].data.shape == (6, 2, 4)
    np.testing.assert_array_equal(oldest_first(q), np.stack([np.asarray(embeddings)] * 3))


def test_after_a_loss_it_writes_without_a_copy_of_the_queue():
    q = queue.init(65_536, 8, 32)

    def step(q, student, teacher):
        losses = seed_loss(student, teacher, q.slots, queue.valid(q))
        return queue.enqueue(q, teacher, losses), losses

    rows = jax.ShapeDtypeStruct((8, 32), jnp.float32)
    program = jax.jit(step, donate_argnums=0).lower(q, rows, rows).compile()
    assert program.memory_analysis().temp_size_in_bytes < q.slots.nbytes / 4


def test_a_row_whose_loss_is_not_finite_becomes_zero():
    q = queue.enqueue(queue.init(4, 2, 3), jnp.ones((2, 3)), jnp.array([1.0, jnp.nan]))
    np.testing.assert_array_equal(q.slots[0], [[1, 1, 1], [0, 0, 0]])
