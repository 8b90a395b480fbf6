"""Every random number of the project is keyed here.

The house rule: a random choice about a sample is a function of (seed, id, pass, view) and of nothing else, so
not of the batch position, the device count, the host count or the number of workers. On the host that
is a counter-based NumPy generator; on the device it is `fold_in` of the same numbers, one key a sample.
"""

import zlib

import jax
import jax.numpy as jnp
import numpy as np


def stream(seed: int, name: str) -> jax.Array:
    """The key of a named stream, e.g. `stream(seed, 'init')`: names keep streams apart."""
    return jax.random.fold_in(jax.random.key(seed), zlib.crc32(name.encode()))


def split_id(ids: np.ndarray) -> np.ndarray:
    """int64 ids `[...]` as uint32 words `[..., 2]`, low and high: devices have no 64-bit integers."""
    ids = np.asarray(ids, np.int64).view(np.uint64)
    return np.stack([ids & np.uint64(0xFFFFFFFF), ids >> np.uint64(32)], axis=-1).astype(np.uint32)


def sample_keys(key: jax.Array, ids: jax.Array, pass_: jax.Array) -> jax.Array:
    """One key a sample, `[B]`, from a stream's key, id words `[B, 2]` and pass numbers `[B]`.

    Views and uses are told apart by folding in a further number.
    """

    def one(words, times_seen):
        k = jax.random.fold_in(key, words[0])
        return jax.random.fold_in(jax.random.fold_in(k, words[1]), times_seen)

    return jax.vmap(one)(ids, pass_.astype(jnp.uint32))


def fold(keys: jax.Array, number: int) -> jax.Array:
    """`fold_in` of one number into every key of an array of keys `[B]`."""
    return jax.vmap(lambda k: jax.random.fold_in(k, number))(keys)


def host_generator(seed: int, sample_id: int, pass_: int, view: int) -> np.random.Generator:
    """A NumPy generator keyed by (seed, id, pass, view); Philox is counter-based, so making one is cheap."""
    mask = (1 << 64) - 1
    key = [seed & mask, sample_id & mask]
    counter = [0, 0, pass_ & mask, view & mask]
    return np.random.Generator(
        np.random.Philox(key=np.array(key, np.uint64), counter=np.array(counter, np.uint64))
    )
