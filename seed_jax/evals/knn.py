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

_VOTERS = 1024  # queries whose votes are counted at a time


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
    temperature: float | None = None,
    query_chunk: int = 1024,
    bank_chunk: int = 16384,
) -> np.ndarray:
    """Which queries the vote of the `k` bank examples with the largest cosine similarity gets right.

    In a majority vote every neighbour has one vote, as SEED (arXiv 2101.04731) reports it with k = 10. In a
    weighted vote a neighbour of similarity s has exp(s / temperature) votes: InstDisc (Wu et al. 2018, arXiv
    1805.01978, section 3.4; k = 200) and DINO (facebookresearch/dino, eval_knn.py; k = 20) with temperature
    0.07. When classes have equal votes, the class of the nearest neighbour among them wins; DINO's sum of
    votes is the same up to rounding. When bank examples are equally similar, the earlier one is taken as
    nearer.

    >>> bank, queries = np.array([[1.0, 0.0], [0.0, 1.0], [0.1, 1.0]]), np.array([[2.0, 0.1], [0.1, 3.0]])
    >>> mesh = parallel.make_mesh()
    >>> correct(bank, [0, 1, 1], queries, [0, 1], mesh=mesh, k=1)
    array([ True,  True])
    >>> correct(bank, [0, 1, 1], queries, [0, 1], mesh=mesh, k=3)  # class 1 outvotes class 0
    array([False,  True])
    >>> correct(bank, [0, 1, 1], queries, [0, 1], mesh=mesh, k=3, temperature=0.07)  # but is far away
    array([ True,  True])

    Args:
      bank: float `[N, D]`; normalised to length 1 here, as the queries are.
      bank_labels: int `[N]`.
      queries: float `[M, D]`.
      query_labels: int `[M]`.
      mesh: from `parallel.make_mesh`.
      k: 1 to N.
      temperature: of the weighted vote, above 0; None for the majority vote.
      query_chunk, bank_chunk: as for `nearest`.

    Returns:
      Bool `[M]`.

    Raises:
      UserError: `k` is not in 1..N, bank or queries are empty, a label is missing, or a feature is
        not finite.
    """
    bank, bank_labels = check(bank, bank_labels, "bank")
    queries, query_labels = check(queries, query_labels, "query")
    similarity, index = nearest(bank, queries, mesh=mesh, k=k, query_chunk=query_chunk, bank_chunk=bank_chunk)
    weights = _even if temperature is None else functools.partial(_weights, temperature=temperature)
    return np.concatenate(
        [
            _winners(weights(similarity[rows]), bank_labels[index[rows]]) == query_labels[rows]
            for rows in (slice(start, start + _VOTERS) for start in range(0, len(queries), _VOTERS))
        ]
    )


def nearest(
    bank: np.ndarray,
    queries: np.ndarray,
    *,
    mesh: jax.sharding.Mesh,
    k: int,
    others: bool = False,
    query_chunk: int = 1024,
    bank_chunk: int = 16384,
) -> tuple[np.ndarray, np.ndarray]:
    """The `k` bank examples with the largest cosine similarity to each query, nearest first.

    When bank examples are equally similar, the earlier one is taken as nearer. Similarities are float32
    products at the highest precision. The queries are sharded over the mesh, and the bank passes through
    every device chunk by chunk, so only one `[query_chunk, bank_chunk]` block of similarities exists at a
    time.

    Args:
      bank: finite, float32 `[N, D]`; normalised to length 1 here, as the queries are.
      queries: finite, float32 `[M, D]`.
      mesh: from `parallel.make_mesh`.
      k: 1 to N; to N - 1 with `others`.
      others: the queries are the bank, and no example is its own neighbour.
      query_chunk: queries per block; rounded up to a multiple of the devices.
      bank_chunk: bank examples per block.

    Returns:
      Similarities float32 `[M, k]` and indices int32 `[M, k]` in the bank.

    Raises:
      UserError: `k` is out of its range.
    """
    if not 1 <= k <= len(bank) - others:
        what = "other examples" if others else "examples"
        raise UserError(f"k is {k}: it must be between 1 and the {len(bank) - others} {what} of the bank.")

    by_query, everywhere = parallel.batch_sharding(mesh), parallel.replicated(mesh)
    query_rows = _round_up(min(query_chunk, len(queries)), mesh.size)
    bank_rows = min(bank_chunk, len(bank))

    query_chunks = [
        (_put(x, by_query), _put(numbers if others else np.full_like(numbers, -2), by_query))
        for x, numbers in _padded_chunks(queries, query_rows)
    ]
    found = [
        (
            _put(np.full((query_rows, k), -np.inf, np.float32), by_query),
            _put(np.full((query_rows, k), -1, np.int32), by_query),
        )
        for _ in query_chunks
    ]
    for x, numbers in _padded_chunks(bank, bank_rows):
        x, numbers = _put(x, everywhere), _put(numbers, everywhere)
        found = [
            _merge(*so_far, *query, x, numbers, mesh=mesh)
            for query, so_far in zip(query_chunks, found, strict=True)
        ]

    # On CPU devices, XLA's threads may wait for each other forever if a collective starts among other work.
    jax.block_until_ready(found)
    found = [[np.asarray(_everywhere(x, mesh=mesh)) for x in pair] for pair in found]
    similarity, index = (np.concatenate(parts)[: len(queries)] for parts in zip(*found, strict=True))
    return similarity, index


@functools.partial(jax.jit, static_argnames="mesh", donate_argnums=(0, 1))
def _merge(similarity, index, queries, query_numbers, bank, bank_numbers, *, mesh):
    """The k nearest so far, nearest first (similarities and indices `[Q, k]`), after one more bank chunk."""
    k, rows = index.shape[1], parallel.batch_sharding(mesh).spec

    # Left to itself, the partitioner gathers the whole block on every device for `top_k`.
    @jax.shard_map(mesh=mesh, in_specs=(rows, rows, rows, rows, P(), P()), out_specs=(rows, rows))
    def merge(similarity, index, queries, query_numbers, bank, bank_numbers):
        block = jnp.matmul(_normalise(queries), _normalise(bank).T, precision=jax.lax.Precision.HIGHEST)
        seen = (bank_numbers >= 0)[None, :] & (bank_numbers[None, :] != query_numbers[:, None])
        block = jnp.where(seen, block, -jnp.inf)
        similarity = jnp.concatenate([similarity, block], axis=1)
        index = jnp.concatenate([index, jnp.broadcast_to(bank_numbers[None, :], block.shape)], axis=1)
        # top_k prefers the lower index among equals, hence the example that came earlier in the bank.
        similarity, place = jax.lax.top_k(similarity, k)
        return similarity, jnp.take_along_axis(index, place, axis=1)

    return merge(similarity, index, queries, query_numbers, bank, bank_numbers)


@functools.partial(jax.jit, static_argnames="mesh")
def _everywhere(x, *, mesh):
    """The rows of all devices on every device."""
    return jax.lax.with_sharding_constraint(x, parallel.replicated(mesh))


def _even(similarity):
    return np.ones(similarity.shape, np.float64)


def _weights(similarity, temperature):
    # Divided by the weight of the nearest, which changes no winner and cannot overflow.
    return np.exp((similarity - similarity[:, :1]).astype(np.float64) / temperature)


def _winners(weights, labels):
    """The class with the most votes, `[Q]`; weights and labels of neighbours are `[Q, k]`, nearest first."""
    votes = ((labels[:, :, None] == labels[:, None, :]) * weights[:, None, :]).sum(axis=2)
    # Every neighbour carries the votes of its class; argmax takes the first of the largest.
    return np.take_along_axis(labels, votes.argmax(axis=1)[:, None], axis=1)[:, 0]


def _normalise(x):
    return x / jnp.maximum(jnp.linalg.norm(x, axis=-1, keepdims=True), 1e-12)


def _padded_chunks(x, rows):
    """Chunks of exactly `rows` examples and their numbers; padding is zero and has the number -1."""
    numbers = np.arange(len(x), dtype=np.int32)
    for start in range(0, len(x), rows):
        chunk, own = x[start : start + rows], numbers[start : start + rows]
        padding = rows - len(chunk)
        yield np.pad(chunk, ((0, padding), (0, 0))), np.pad(own, (0, padding), constant_values=-1)


def _put(x, sharding):
    """A global array from a host array that every process has whole."""
    return jax.make_array_from_callback(x.shape, sharding, lambda index: x[index])


def _round_up(n, multiple):
    return -(-n // multiple) * multiple
