"""Exact k-nearest-neighbour classification with frozen features."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import PartitionSpec as P

from seed_jax import parallel
from seed_jax.errors import UserError
from seed_jax.evals.base import SharedFeatures
from seed_jax.evals.features import check


class Knn:
    """The evaluator `knn`: `correct` with the feature `evals.feature` and `evals.k` neighbours.

    A bank of fewer than `evals.k` images is used whole for each query.
    """

    needs_bank = True
    needs_labels = True

    def __init__(self, features: SharedFeatures, evals):
        self._features, self._feature, self._k = features, evals.feature, evals.k
        for split in ("bank", "queries"):
            features.want(split, evals.feature)

    def run(self, variables) -> dict[str, np.ndarray]:
        """`knn`: bool `[M]`, true where a query is classified correctly."""
        queries, query_labels = self._features.get("queries", variables)
        bank, bank_labels = self._features.get("bank", variables)
        right = correct(
            bank[self._feature],
            bank_labels,
            queries[self._feature],
            query_labels,
            mesh=self._features.mesh,
            k=min(self._k, len(bank_labels)),
        )
        return {"knn": right}


def correct(
    bank: np.ndarray,
    bank_labels: np.ndarray,
    queries: np.ndarray,
    query_labels: np.ndarray,
    *,
    mesh: jax.sharding.Mesh,
    k: int,
    query_chunk: int = 1024,
    bank_chunk: int = 16384,
) -> np.ndarray:
    """Which queries the majority vote of the `k` bank examples with the largest cosine similarity gets right.

    SEED (arXiv 2101.04731) reports this with k = 10. When classes have equal votes, the class of the nearest
    neighbour among them wins. When bank examples are equally similar, the earlier one is taken as nearer.

    Similarities are float32 products at the highest precision. The queries are sharded over the mesh, and the
    bank passes through every device chunk by chunk, so only one `[query_chunk, bank_chunk]` block of
    similarities exists at a time.

    >>> bank, queries = np.array([[1.0, 0.0], [0.0, 1.0], [0.1, 1.0]]), np.array([[2.0, 0.1], [0.1, 3.0]])
    >>> correct(bank, [0, 1, 1], queries, [0, 1], mesh=parallel.make_mesh(), k=1)
    array([ True,  True])
    >>> correct(bank, [0, 1, 1], queries, [0, 1], mesh=parallel.make_mesh(), k=3)  # class 1 outvotes class 0
    array([False,  True])

    Args:
      bank: float `[N, D]`; normalised to length 1 here, as the queries are.
      bank_labels: int `[N]`.
      queries: float `[M, D]`.
      query_labels: int `[M]`.
      mesh: from `parallel.make_mesh`.
      k: 1 to N.
      query_chunk: queries per block; rounded up to a multiple of the devices.
      bank_chunk: bank examples per block.

    Returns:
      Bool `[M]`.

    Raises:
      UserError: `k` is not in 1..N, bank or queries are empty, a label is missing, or a feature is
        not finite.
    """
    bank, bank_labels = check(bank, bank_labels, "bank")
    queries, query_labels = check(queries, query_labels, "query")
    if not 1 <= k <= len(bank):
        raise UserError(f"k is {k}: it must be between 1 and the {len(bank)} examples of the bank.")

    by_query, everywhere = parallel.batch_sharding(mesh), parallel.replicated(mesh)
    query_rows = _round_up(min(query_chunk, len(queries)), mesh.size)
    bank_rows = min(bank_chunk, len(bank))

    query_chunks = [
        (_put(x, by_query), _put(labels, by_query))
        for x, labels in _padded_chunks(queries, query_labels, query_rows)
    ]
    nearest = [
        (
            _put(np.full((query_rows, k), -np.inf, np.float32), by_query),
            _put(np.full((query_rows, k), -1, np.int32), by_query),
        )
        for _ in query_chunks
    ]
    for x, labels in _padded_chunks(bank, bank_labels, bank_rows):
        x, labels = _put(x, everywhere), _put(labels, everywhere)
        nearest = [
            _merge(*so_far, query, x, labels, mesh=mesh)
            for (query, _), so_far in zip(query_chunks, nearest, strict=True)
        ]

    # On CPU devices, XLA's threads may wait for each other forever if a collective starts among other work.
    jax.block_until_ready(nearest)
    right = [
        np.asarray(_correct(neighbours, labels, mesh=mesh))
        for (_, labels), (_, neighbours) in zip(query_chunks, nearest, strict=True)
    ]
    return np.concatenate(right)[: len(queries)]


@functools.partial(jax.jit, static_argnames="mesh", donate_argnums=(0, 1))
def _merge(similarity, label, queries, bank, bank_labels, *, mesh):
    """The k nearest so far, nearest first (similarities and labels `[Q, k]`), after one more bank chunk."""
    k, rows = label.shape[1], parallel.batch_sharding(mesh).spec

    # Left to itself, the partitioner gathers the whole block on every device for `top_k`.
    @jax.shard_map(mesh=mesh, in_specs=(rows, rows, rows, P(), P()), out_specs=(rows, rows))
    def merge(similarity, label, queries, bank, bank_labels):
        block = jnp.matmul(_normalise(queries), _normalise(bank).T, precision=jax.lax.Precision.HIGHEST)
        block = jnp.where(bank_labels[None, :] >= 0, block, -jnp.inf)
        similarity = jnp.concatenate([similarity, block], axis=1)
        label = jnp.concatenate([label, jnp.broadcast_to(bank_labels[None, :], block.shape)], axis=1)
        # top_k prefers the lower index among equals, hence the example that came earlier in the bank.
        similarity, index = jax.lax.top_k(similarity, k)
        return similarity, jnp.take_along_axis(label, index, axis=1)

    return merge(similarity, label, queries, bank, bank_labels)


@functools.partial(jax.jit, static_argnames="mesh")
def _correct(neighbours, query_label, *, mesh):
    """Which queries are classified right, bool `[Q]` on every device.

    `neighbours` are labels int32 `[Q, k]`, nearest first.
    """
    votes = jnp.sum(neighbours[:, :, None] == neighbours[:, None, :], axis=-1)
    # Every neighbour carries the votes of its class; argmax takes the first of the largest.
    winner = jnp.argmax(votes, axis=-1)
    predicted = jnp.take_along_axis(neighbours, winner[:, None], axis=1)[:, 0]
    return jax.lax.with_sharding_constraint(predicted == query_label, parallel.replicated(mesh))


def _normalise(x):
    return x / jnp.maximum(jnp.linalg.norm(x, axis=-1, keepdims=True), 1e-12)


def _padded_chunks(x, labels, rows):
    """Chunks of exactly `rows` examples; padding examples are zero and have the label -1."""
    for start in range(0, len(x), rows):
        chunk, chunk_labels = x[start : start + rows], labels[start : start + rows]
        padding = rows - len(chunk)
        yield np.pad(chunk, ((0, padding), (0, 0))), np.pad(chunk_labels, (0, padding), constant_values=-1)


def _put(x, sharding):
    """A global array from a host array that every process has whole."""
    return jax.make_array_from_callback(x.shape, sharding, lambda index: x[index])


def _round_up(n, multiple):
    return -(-n // multiple) * multiple
