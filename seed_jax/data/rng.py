"""Keys of every random number in the project.

A random choice about a sample is a function of (seed, id, pass, view) alone. The choice does not depend on
the position in the batch or on the number of devices, processes or workers. On the host the key goes to a
counter-based NumPy generator; on the device `fold_in` of the same numbers creates one key per sample.

>>> ids = split_id(np.array([7, 8, 9]))
>>> passes = jnp.zeros(3, jnp.int32)
>>> keys = sample_keys(stream(0, "sample"), jnp.asarray(ids), passes)
>>> alone = sample_keys(stream(0, "sample"), jnp.asarray(ids[1:2]), passes[:1])
>>> bool(keys[1] == alone[0])
True
"""

import zlib

import jax
import jax.numpy as jnp
import numpy as np


def stream(seed: int, name: str) -> jax.Array:
    """The key of a named stream: streams of different names are independent.

    >>> bool(stream(0, "init") == stream(0, "init")), bool(stream(0, "init") == stream(0, "aux"))
    (True, False)
    """
    return jax.random.fold_in(jax.random.key(seed), zlib.crc32(name.encode()))


def split_id(ids: np.ndarray) -> np.ndarray:
    """int64 ids `[...]` as uint32 words `[..., 2]`, low word first: JAX has no 64-bit integers by default.

    >>> split_id(np.array([7, 2**32 + 7]))
    array([[7, 0],
           [7, 1]], dtype=uint32)
    """
    ids = np.asarray(ids, np.int64).view(np.uint64)
    return np.stack([ids & np.uint64(0xFFFFFFFF), ids >> np.uint64(32)], axis=-1).astype(np.uint32)


def sample_keys(key: jax.Array, ids: jax.Array, pass_: jax.Array) -> jax.Array:
    """One typed key per sample, `[B]`. Views and uses fold in one more number (`fold`).

    Args:
      key: of a stream.
      ids: uint32 words `[B, 2]` (`split_id`).
      pass_: integer `[B]`, how many times each sample has been seen before.
    """

    def one(words, times_seen):
        k = jax.random.fold_in(key, words[0])
        return jax.random.fold_in(jax.random.fold_in(k, words[1]), times_seen)

    return jax.vmap(one)(ids, pass_.astype(jnp.uint32))


def fold(keys: jax.Array, number: int) -> jax.Array:
    """`keys`, typed `[B]`, with one number folded into each.

    >>> keys = jax.random.split(jax.random.key(0), 2)
    >>> bool(fold(keys, 5)[1] == jax.random.fold_in(keys[1], 5))
    True
    """
    return jax.vmap(lambda k: jax.random.fold_in(k, number))(keys)


def one_or_each(keys: jax.Array, batch: int) -> jax.Array:
    """Typed keys for choices that a batch shares, `[1]` from one key `[]`, or for each image, `[B]` as given.

    >>> key = jax.random.key(0)
    >>> one_or_each(key, 8).shape, one_or_each(jax.random.split(key, 8), 8).shape
    ((1,), (8,))

    Raises:
      ValueError: another number of keys.
    """
    keys = keys.reshape(-1)
    if len(keys) not in (1, batch):
        raise ValueError(f"{len(keys)} keys for {batch} images: give one for each image, or one for all.")
    return keys


def host_generator(seed: int, sample_id: int, pass_: int, view: int) -> np.random.Generator:
    """A NumPy generator keyed by (seed, id, pass, view). Philox is counter-based, so creating one is cheap.

    >>> draws = [host_generator(0, 7, 0, view).random() for view in (0, 1, 0)]
    >>> draws[0] == draws[2], draws[0] == draws[1]
    (True, False)
    """
    mask = (1 << 64) - 1
    key = [seed & mask, sample_id & mask]
    counter = [0, 0, pass_ & mask, view & mask]
    return np.random.Generator(
        np.random.Philox(key=np.array(key, np.uint64), counter=np.array(counter, np.uint64))
    )
