"""Log-sum-exp and softmax mean over a queue, block by block, without the `[N, K]` similarities.

For queries q and entries d_j, with logits q . d_j / temperature, one pass over blocks of the queue computes

    lse  = log sum_j exp(logit_j)          [N]
    mean = sum_j softmax(logit)_j d_j      [N, D]

InfoNCE and SEED need nothing else, for values and gradients (`contrastive.py`). The running maximum, sum and
weighted sum follow Milakov and Gimelshein (arXiv 1805.02867). Temporaries are `[N, BLOCK]`, whatever K is.

Inside `jax.set_mesh` with more than one device the queue stays sharded: each device reads its own columns,
and the devices merge their partial results, `[N]` and `[N, D]`, at the end. There are no other collectives.
"""

import chex
import jax
import jax.numpy as jnp
from jax import lax
from jax.sharding import PartitionSpec as P

BLOCK = 2048  # rows at a time: enough for efficient matrix products, few enough to stay in the cache


def readout(queries, temperatures, own, queue, valid):
    """Log-sum-exp and softmax mean of several groups of queries over one queue.

    Args:
      queries: tuple of float32 `[N, D]`, one for each group.
      temperatures: a float for each group.
      own: for each group a logit `[N]` and an entry `[N, D]`: each query's own entry, besides the queue.
      queue: float32 `[S, B, D]` or `[K, D]`.
      valid: bool `[S]`, `[S, B]` or `[K]`, which entries of the queue count; None if all do.

    Returns:
      For each group of queries, float32: `lse [N]`, the log-sum-exp of its logits, and `mean [N, D]`, the
      entries' mean weighted by the softmax of the logits.

    Raises:
      AssertionError: the shape or dtype of an argument is not the above; it names the argument. Checked while
        tracing.

    Two queries, whose own entries have logit 0, over a queue of two; the first is close to one of the two:

    >>> queries = jnp.array([[1.0, 0.0], [0.0, 0.0]])
    >>> own = jnp.zeros(2), jnp.zeros((2, 2))
    >>> ((lse, mean),) = readout((queries,), (0.1,), (own,), jnp.eye(2), valid=None)
    >>> np.asarray(lse).round(3)
    array([10.   ,  1.099], dtype=float32)
    >>> np.asarray(mean).round(3)
    array([[1.   , 0.   ],
           [0.333, 0.333]], dtype=float32)
    """
    for query, (logit, entry) in zip(queries, own, strict=True):
        chex.assert_rank(query, 2, custom_message="queries")
        check_queue(queue, valid, query.shape[1])
        chex.assert_shape(logit, query.shape[:1], custom_message="logits of own")
        chex.assert_shape(entry, query.shape, custom_message="entries of own")
        chex.assert_type([query, logit, entry], jnp.float32, custom_message="queries and own")

    def stream(inputs, queue, valid):
        queries, own_logits = inputs
        return _stream(queries, temperatures, own_logits, queue, valid)

    def merge(partials, axes):
        merged = []
        for top, total, weighted in partials:
            highest = lax.pmax(top, axes)
            scale = jnp.exp(top - highest)
            merged.append((highest, lax.psum(total * scale, axes), lax.psum(weighted * scale[:, None], axes)))
        return tuple(merged)

    own_logits = tuple(logit for logit, _ in own)
    partials = _on_all_columns(stream, merge, (queries, own_logits), queue, valid)

    results = []
    for (top, total, weighted), (logit, entry) in zip(partials, own, strict=True):
        share = jnp.exp(logit - top)
        total = total + share
        results.append((top + jnp.log(total), (weighted + share[:, None] * entry) / total[:, None]))
    return tuple(results)


def sigmoid_readout(query, temperature, shift, queue, valid):
    """Sums over a queue of the softplus of each logit, and of each entry weighted by the logit's sigmoid.

    The logits are q . d_j / temperature - shift. The second sum, divided by the temperature, is the gradient
    of the first.

    Args:
      query: float32 `[N, D]`.
      temperature: a float.
      shift: float32 scalar.
      queue, valid: as in `readout`.

    Returns:
      float32 `[N]` and `[N, D]`.

    A query over a queue of two, with logits 1 and 0:

    >>> total, weighted = sigmoid_readout(jnp.eye(1, 2), 1.0, jnp.float32(0), jnp.eye(2), None)
    >>> np.asarray(total).round(3), np.asarray(weighted).round(3)
    (array([2.006], dtype=float32), array([[0.731, 0.5  ]], dtype=float32))
    """

    def stream(inputs, queue, valid):
        query, shift = inputs

        def read_block(carry, entries, mask):
            total, weighted = carry
            logits = jnp.dot(query, entries.T, precision=lax.Precision.HIGHEST) / temperature - shift
            logits = jnp.where(mask[None, :], logits, -jnp.inf)
            read = jnp.dot(jax.nn.sigmoid(logits), entries, precision=lax.Precision.HIGHEST)
            return total + jax.nn.softplus(logits).sum(axis=1), weighted + read

        empty = jnp.zeros(len(query), jnp.float32), jnp.zeros_like(query)
        return _over_blocks(read_block, empty, queue, valid)

    return _on_all_columns(stream, lax.psum, (query, shift), queue, valid)


def check_queue(queue, valid, dim: int) -> None:
    """Check that `queue` is float `[S, B, dim]` or `[K, dim]`, and `valid` a mask of its entries, or None.

    Raises:
      AssertionError: it is not; it names the argument. Checked while tracing.
    """
    chex.assert_rank(queue, {2, 3}, custom_message="queue")
    chex.assert_axis_dimension(queue, -1, dim, custom_message="queue")
    chex.assert_type(queue, float, custom_message="queue")
    if valid is not None:
        chex.assert_rank(valid, set(range(1, queue.ndim)), custom_message="valid")
        chex.assert_shape(valid, queue.shape[: valid.ndim], custom_message="valid")
        chex.assert_type(valid, bool, custom_message="valid")


def _on_all_columns(stream, merge, inputs, queue, valid):
    """`stream(inputs, queue, valid)`; on several devices, each one's columns by themselves, then merged.

    Args:
      merge: called with the result of `stream` and the axes of the mesh.
      queue, valid: as in `readout`; `stream` gets `[S, B, D]` and `[S, B]`.
    """
    valid = jnp.ones(queue.shape[:-1], bool) if valid is None else valid
    valid = jnp.broadcast_to(
        valid.reshape(valid.shape + (1,) * (queue.ndim - 1 - valid.ndim)), queue.shape[:-1]
    )
    if queue.ndim == 2:
        queue, valid = queue[None], valid[None]
    mesh = jax.sharding.get_abstract_mesh()
    if mesh.empty or mesh.size == 1 or queue.shape[1] % mesh.size:
        return stream(inputs, queue, valid)
    axes = mesh.axis_names

    def sharded(inputs, queue, valid):
        return merge(stream(inputs, queue, valid), axes)

    columns = P(None, axes)
    return jax.shard_map(
        sharded, mesh=mesh, in_specs=(P(), columns, columns), out_specs=P(), check_vma=False
    )(inputs, queue, valid)


def _over_blocks(read_block, carry, queue, valid):
    """`carry = read_block(carry, entries, mask)` for each block of the rows of this device."""
    queue, valid = queue.reshape(-1, queue.shape[-1]), valid.reshape(-1)
    rows = queue.shape[0]
    block = min(BLOCK, rows)

    def read(carry, first):
        begin = jnp.minimum(first, rows - block)  # the last block overlaps the one before: masked below
        entries = lax.dynamic_slice_in_dim(queue, begin, block)
        mask = lax.dynamic_slice_in_dim(valid, begin, block) & (begin + jnp.arange(block) >= first)
        return read_block(carry, entries, mask), None

    return lax.scan(read, carry, jnp.arange(0, rows, block))[0]


def _stream(queries, temperatures, own_logits, queue, valid):
    """Running (maximum, sum, weighted sum) over the rows of this device, from the own logits on."""

    def read_block(carry, entries, mask):
        updated = []
        for (top, total, weighted), query, temperature in zip(carry, queries, temperatures, strict=True):
            logits = jnp.dot(query, entries.T, precision=lax.Precision.HIGHEST) / temperature
            logits = jnp.where(mask[None, :], logits, -jnp.inf)
            highest = jnp.maximum(top, logits.max(axis=1))
            scale = jnp.exp(top - highest)
            weights = jnp.exp(logits - highest[:, None])
            read = jnp.dot(weights, entries, precision=lax.Precision.HIGHEST)
            updated.append((highest, total * scale + weights.sum(axis=1), weighted * scale[:, None] + read))
        return tuple(updated)

    empty = tuple(
        (logit, jnp.zeros_like(logit), jnp.zeros_like(query))
        for logit, query in zip(own_logits, queries, strict=True)
    )
    return _over_blocks(read_block, empty, queue, valid)
