"""The streaming core of every loss over a queue: log-sum-exp and softmax readout, without the `[B, K]`
similarities.

For queries q and entries d_j, with logits q . d_j / temperature, one pass over blocks of the queue gives

    lse  = log sum_j exp(logit_j)          [B]
    mean = sum_j softmax(logit)_j d_j      [B, D]

which is all that InfoNCE and SEED need, values and gradients (`contrastive.py`). The running maximum, sum
and weighted sum are those of Milakov and Gimelshein (arXiv 1805.02867); blocks keep temporaries at `[B,
block]` whatever K is.

Inside `jax.set_mesh` with more than one device the queue stays where it is: each device reads its own
columns and the partial results, `[B]` and `[B, D]`, are merged at the end. Those are the only collectives.
"""

import jax
import jax.numpy as jnp
from jax import lax
from jax.sharding import PartitionSpec as P

BLOCK = 2048  # queue rows a step: large enough for efficient matrix products, small enough to stay in cache


def readout(queries, temperatures, start, queue, valid):
    """Log-sum-exp and softmax mean of several sets of queries over one queue.

    Args:
      queries: tuple of float32 `[B, D]`.
      temperatures: a float for each set.
      start: for each set a logit `[B]` and an entry `[B, D]` that take part besides the queue: the query's
        own positive.
      queue: float32 `[S, B, D]` or `[K, D]`.
      valid: bool that broadcasts from the left to `queue.shape[:-1]`, or None: entries that count.

    Returns:
      For each set `(lse [B], mean [B, D])`.
    """
    valid = jnp.ones(queue.shape[:-1], bool) if valid is None else valid
    valid = jnp.broadcast_to(
        valid.reshape(valid.shape + (1,) * (queue.ndim - 1 - valid.ndim)), queue.shape[:-1]
    )
    if queue.ndim == 2:
        queue, valid = queue[None], valid[None]

    own = tuple(logit for logit, _ in start)

    mesh = jax.sharding.get_abstract_mesh()
    if not mesh.empty and mesh.size > 1 and queue.shape[1] % mesh.size == 0:
        axes = mesh.axis_names

        def sharded(queries, own, queue, valid):
            merged = []
            for top, total, weighted in _stream(queries, temperatures, own, queue, valid):
                highest = lax.pmax(top, axes)
                scale = jnp.exp(top - highest)
                merged.append(
                    (highest, lax.psum(total * scale, axes), lax.psum(weighted * scale[:, None], axes))
                )
            return tuple(merged)

        columns = P(None, axes)
        partial = jax.shard_map(
            sharded, mesh=mesh, in_specs=(P(), P(), columns, columns), out_specs=P(), check_vma=False
        )(queries, own, queue, valid)
    else:
        partial = _stream(queries, temperatures, own, queue, valid)

    results = []
    for (top, total, weighted), (logit, entry) in zip(partial, start, strict=True):
        share = jnp.exp(logit - top)
        total = total + share
        results.append((top + jnp.log(total), (weighted + share[:, None] * entry) / total[:, None]))
    return tuple(results)


def _stream(queries, temperatures, own, queue, valid):
    """Running (maximum, sum, weighted sum) over this device's queue, starting at the own logits."""
    queue, valid = queue.reshape(-1, queue.shape[-1]), valid.reshape(-1)
    rows = queue.shape[0]
    block = min(BLOCK, rows)

    def step(carry, first):
        begin = jnp.minimum(
            first, rows - block
        )  # the last block reaches back over rows already seen, masked below
        entries = lax.dynamic_slice_in_dim(queue, begin, block)
        mask = lax.dynamic_slice_in_dim(valid, begin, block) & (begin + jnp.arange(block) >= first)
        updated = []
        for (top, total, weighted), query, temperature in zip(carry, queries, temperatures, strict=True):
            logits = jnp.dot(query, entries.T, precision=lax.Precision.HIGHEST) / temperature
            logits = jnp.where(mask[None, :], logits, -jnp.inf)
            highest = jnp.maximum(top, logits.max(axis=1))
            scale = jnp.exp(top - highest)
            weights = jnp.exp(logits - highest[:, None])
            read = jnp.dot(weights, entries, precision=lax.Precision.HIGHEST)
            updated.append((highest, total * scale + weights.sum(axis=1), weighted * scale[:, None] + read))
        return tuple(updated), None

    empty = tuple(
        (logit, jnp.zeros_like(logit), jnp.zeros_like(query))
        for logit, query in zip(own, queries, strict=True)
    )
    return lax.scan(step, empty, jnp.arange(0, rows, block))[0]
