"""Gaussian noise on the weights: a flat minimum keeps its accuracy under more of it.

Zhang et al. (Be Your Own Teacher, arXiv 1905.08094) compare networks so and released no code: that sigma is
relative to the weights, and how BatchNorm's statistics are recomputed, are choices here.
"""

import zlib
from collections.abc import Callable
from typing import Any

import chex
import jax
import jax.numpy as jnp

STATISTICS = "batch_stats"


def noisy(key, params, sigma, *, relative: bool = True):
    """The parameters with Gaussian noise of mean 0 added to each.

    The noise of a tensor depends on `key` and on the path of the tensor, not on the other tensors.

    Args:
      key: a typed PRNG key.
      params: pytree of float arrays.
      sigma: standard deviation, a float or a float scalar array; 0 adds nothing.
      relative: `sigma` is a share of the standard deviation of each tensor, so that layers of any scale are
        disturbed alike, and a tensor whose values are all equal is not; otherwise it is in the unit of the
        weights.

    Returns:
      A tree like `params`, of the same shapes and dtypes.

    Raises:
      AssertionError: a tensor is not float.

    >>> params = {"kernel": jnp.array([-2.0, 2.0]), "scale": jnp.ones(2)}
    >>> changed = noisy(jax.random.key(0), params, 0.1)
    >>> [bool((changed[name] == params[name]).all()) for name in ("kernel", "scale")]
    [False, True]
    """

    def add(path, weights):
        chex.assert_type(weights, float, custom_message="params")
        name = jax.tree_util.keystr(path)
        values = weights.astype(jnp.float32)
        scale = sigma * jnp.std(values) if relative else sigma
        noise = jax.random.normal(jax.random.fold_in(key, zlib.crc32(name.encode())), weights.shape)
        return (values + scale * noise).astype(weights.dtype)

    return jax.tree_util.tree_map_with_path(add, params)


def recomputed_statistics(forward: Callable, model_state, batches) -> Any:
    """The model state with BatchNorm's statistics averaged anew over batches.

    As torch's `update_bn`: a plain mean over the batches of their means and variances. A layer that does not
    update its statistics in train mode keeps them.

    Args:
      forward: `(model_state, batch) -> new_model_state`, the network in train mode, whose running statistics
        are m old + (1 - m) new for any m below 1.
      model_state: its collection `batch_stats` is recomputed; without one nothing is.
      batches: pytree of arrays `[N, ...]`, N batches.

    Returns:
      A tree like `model_state`.

    Statistics that move by a tenth of what a batch says:

    >>> forward = lambda state, batch: {"batch_stats": 0.9 * state["batch_stats"] + 0.1 * batch.mean()}
    >>> batches = jnp.array([[1.0, 3.0], [5.0, 7.0]])
    >>> anew = recomputed_statistics(forward, {"batch_stats": jnp.float32(9)}, batches)
    >>> round(float(anew["batch_stats"]), 4)
    4.0
    """
    if STATISTICS not in model_state:
        return model_state
    old = model_state[STATISTICS]
    zeros, ones = (jax.tree.map(lambda x, fill=fill: jnp.full_like(x, fill), old) for fill in (0, 1))

    def updated(statistics, batch):
        return forward({**model_state, STATISTICS: statistics}, batch)[STATISTICS]

    def add(total, batch):
        # The update is linear in the old statistics: its slope is m, and its value at 0 is (1 - m) new.
        value, slope = jax.jvp(lambda statistics: updated(statistics, batch), (zeros,), (ones,))
        new = jax.tree.map(_solved, value, slope, old)
        return jax.tree.map(jnp.add, total, new), None

    total, _ = jax.lax.scan(add, zeros, batches)
    count = len(jax.tree.leaves(batches)[0])
    return {**model_state, STATISTICS: jax.tree.map(lambda x: x / count, total)}


def _solved(value, slope, old):
    moves = slope < 1
    return jnp.where(moves, value / jnp.where(moves, 1 - slope, 1), old)
