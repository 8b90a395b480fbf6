"""Randomness is a function of (seed, id, pass, view) and of nothing else."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from seed_jax import parallel
from seed_jax.data import rng

IDS = np.array([0, 1, 7, 2**31, 2**32, 2**32 + 7, 2**40 + 7, 2**63 - 1])


def keys_of(ids, passes, seed=3):
    passes = np.broadcast_to(np.asarray(passes, np.int32), len(ids))
    return rng.sample_keys(rng.stream(seed, "sample"), jnp.asarray(rng.split_id(ids)), jnp.asarray(passes))


def data(keys):
    return np.asarray(jax.random.key_data(keys))


@given(st.lists(st.integers(0, 2**63 - 1), max_size=5))
def test_split_id_keeps_all_64_bits(ids):
    words = rng.split_id(np.array(ids, np.int64))
    assert words.dtype == np.uint32
    assert words.shape == (len(ids), 2)
    assert [int(low) + (int(high) << 32) for low, high in words] == ids


@settings(max_examples=10, deadline=None)
@given(order=st.permutations(range(len(IDS))))
def test_keys_do_not_depend_on_the_place_in_the_batch(order):
    np.testing.assert_array_equal(data(keys_of(IDS[order], 2)), data(keys_of(IDS, 2))[order])


def test_keys_do_not_depend_on_the_company_in_the_batch():
    alone = [data(keys_of(IDS[i : i + 1], 2))[0] for i in range(len(IDS))]
    np.testing.assert_array_equal(alone, data(keys_of(IDS, 2)))


def test_keys_differ_by_seed_stream_id_either_word_pass_and_number():
    samples = [
        keys_of(IDS, 0),
        keys_of(IDS, 1),
        keys_of(IDS, 0, seed=4),
        rng.sample_keys(
            rng.stream(3, "other"), jnp.asarray(rng.split_id(IDS)), jnp.zeros(len(IDS), jnp.int32)
        ),
        rng.fold(keys_of(IDS, 0), 0),
        rng.fold(keys_of(IDS, 0), 1),
    ]
    every = np.concatenate([data(keys) for keys in samples])
    assert len(np.unique(every, axis=0)) == len(samples) * len(IDS)


def test_a_stream_is_its_name_not_the_order_of_asking():
    first = rng.stream(0, "init")
    rng.stream(0, "aux")
    np.testing.assert_array_equal(data(rng.stream(0, "init")), data(first))


def test_draws_of_a_sharded_batch_equal_those_of_one_device():
    ids, passes = rng.split_id(np.arange(16) + 2**33), np.arange(16, dtype=np.int32) % 3

    @jax.jit
    def draw(ids, passes):
        keys = rng.fold(rng.sample_keys(rng.stream(0, "sample"), ids, passes), 5)
        return jax.vmap(lambda key: jax.random.normal(key, (3, 5)))(keys)

    want = draw(ids, passes)
    mesh = parallel.make_mesh()
    with jax.set_mesh(mesh):
        got = draw(*parallel.to_devices(mesh, (ids, passes)))
    assert len(got.sharding.device_set) == 8
    np.testing.assert_array_equal(got, want)


def test_host_generators_are_repeatable_and_never_share_numbers():
    places = list(itertools.product((0, 1), IDS.tolist(), (0, 1, 2**31), (-1, 0, 1)))
    draws = [rng.host_generator(*place).integers(2**64, size=64, dtype=np.uint64) for place in places]
    again = [rng.host_generator(*place).integers(2**64, size=64, dtype=np.uint64) for place in places]
    np.testing.assert_array_equal(draws, again)
    assert len(np.unique(np.concatenate(draws))) == 64 * len(places)


def test_neighbouring_host_generators_are_uncorrelated():
    """Uniform numbers of consecutive ids: correlations within 5 standard errors of 0, mean of 1/2."""
    count = 4096
    draws = np.stack([rng.host_generator(0, i, 0, 0).random(count) for i in range(8)])
    correlation = np.corrcoef(draws) - np.eye(8)
    assert np.abs(correlation).max() < 5 / np.sqrt(count)
    assert np.abs(draws.mean(axis=1) - 0.5).max() < 5 * np.sqrt(1 / 12 / count)
