"""Exact k-nearest-neighbour classification on frozen features."""

import functools
from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np

from seed_jax import parallel
from seed_jax.errors import UserError
from seed_jax.evals.features import check


def knn(
    bank: np.ndarray,
    bank_labels: np.ndarray,
    queries: np.ndarray,
    query_labels: np.ndarray,
    *,
    mesh: jax.sharding.Mesh,
    k: Sequence[int] = (1, 10, 20),
    vote: str = "majority",
    temperature: float = 0.07,
    query_chunk: int = 1024,
    bank_chunk: int = 16384,
) -> dict[int, float]:
    """Accuracy of the vote of the k nearest bank examples by cosine similarity, for every k in one pass.

    `majority` counts the neighbours of each class (SEED, k = 10). `weighted` sums the neighbours'
    `exp(similarity / temperature)` by class (Wu et al. 2018, arXiv 1805.01978, §3.4; DINO, `eval_knn.py`:
    k = 20, temperature 0.07). Among classes with equal votes the class of the nearest neighbour wins; among
    equally similar examples the earlier in the bank counts as nearer.

    Similarities are float32 products at the highest precision. The queries are sharded over the mesh and the
    bank passes through every device chunk by chunk, so that only one `[query_chunk, bank_chunk]` block of
    similarities exists at a time.

    Args:
      bank: `[N, D]`, L2-normalised here, as are the queries. bank_labels: int `[N]`.
      queries: `[M, D]`. query_labels: int `[M]`.
      mesh: from `parallel.make_mesh`.

    Returns:
      Accuracy in [0, 1] by k.

    Raises:
      UserError: k is not in 1..N, the vote is unknown, a label is missing, or a feature is not finite.
    """
    bank, bank_labels = check(bank, bank_labels, "bank")
    queries, query_labels = check(queries, query_labels, "query")
    ks = tuple(sorted(set(k)))
    if not ks or ks[0] < 1 or ks[-1] > len(bank):
        raise UserError(f"k = {k} must lie between 1 and the {len(bank)} examples of the bank.")
    if vote not in ("majority", "weighted"):
        raise UserError(f"vote = {vote!r} is unknown; use 'majority' or 'weighted'.")

    by_query, everywhere = parallel.batch_sharding(mesh), parallel.replicated(mesh)
    query_rows = _round_up(min(query_chunk, len(queries)), mesh.size)
    bank_rows = min(bank_chunk, len(bank))

    chunks = [
        (_put(x, by_query), _put(labels, by_query))
        for x, labels in _padded_chunks(queries, query_labels, query_rows)
    ]
    nearest = [
        (
            _put(np.full((query_rows, ks[-1]), -np.inf, np.float32), by_query),
            _put(np.full((query_rows, ks[-1]), -1, np.int32), by_query),
        )
        for _ in chunks
    ]
    for x, labels in _padded_chunks(bank, bank_labels, bank_rows):
        x, labels = _put(x, everywhere), _put(labels, everywhere)
        nearest = [
            _merge(*best, query, x, labels, mesh=mesh)
            for (query, _), best in zip(chunks, nearest, strict=True)
        ]

    temperature = temperature if vote == "weighted" else None
    correct = [
        np.asarray(_count_correct(*best, labels, mesh=mesh, ks=ks, temperature=temperature))
        for (_, labels), best in zip(chunks, nearest, strict=True)
    ]
    return {k: float(total) / len(queries) for k, total in zip(ks, np.sum(correct, axis=0), strict=True)}


@functools.partial(jax.jit, static_argnames="mesh", donate_argnums=(0, 1))
def _merge(similarity, label, queries, bank, bank_labels, *, mesh):
    """The k nearest so far, nearest first (similarities and labels `[Q, k]`), after one more bank chunk."""
    k = label.shape[1]
    block = jnp.matmul(_normalise(queries), _normalise(bank).T, precision=jax.lax.Precision.HIGHEST)
    block = jnp.where(bank_labels[None, :] >= 0, block, -jnp.inf)
    similarity = jnp.concatenate([similarity, block], axis=1)
    label = jnp.concatenate([label, jnp.broadcast_to(bank_labels[None, :], block.shape)], axis=1)
    # top_k prefers the lower index among equals, hence what came earlier in the bank.
    similarity, index = jax.lax.top_k(similarity, k)
    label = jnp.take_along_axis(label, index, axis=1)
    return jax.lax.with_sharding_constraint((similarity, label), parallel.batch_sharding(mesh))


@functools.partial(jax.jit, static_argnames=("mesh", "ks", "temperature"))
def _count_correct(similarity, label, query_label, *, mesh, ks, temperature):
    """How many queries each k classifies rightly, int32 `[len(ks)]`; padding has label -1."""
    if temperature is None:
        weight = jnp.ones_like(similarity)
    else:
        weight = jnp.exp((similarity - similarity[:, :1]) / temperature)

    def correct(k):
        same_class = label[:, :k, None] == label[:, None, :k]
        votes = jnp.sum(jnp.where(same_class, weight[:, None, :k], 0), axis=-1)
        # Every neighbour carries the votes of its class; argmax takes the first of the largest.
        winner = jnp.argmax(votes, axis=-1)
        return jnp.sum(jnp.take_along_axis(label, winner[:, None], axis=1)[:, 0] == query_label)

    return jax.lax.with_sharding_constraint(jnp.stack([correct(k) for k in ks]), parallel.replicated(mesh))


def _normalise(x):
    return x / jnp.maximum(jnp.linalg.norm(x, axis=-1, keepdims=True), 1e-12)


def _padded_chunks(x, labels, rows):
    """Chunks of exactly `rows` examples; those that fill up the last one are zero and have label -1."""
    for start in range(0, len(x), rows):
        part, part_labels = x[start : start + rows], labels[start : start + rows]
        padding = rows - len(part)
        yield np.pad(part, ((0, padding), (0, 0))), np.pad(part_labels, (0, padding), constant_values=-1)


def _put(x, sharding):
    """A global array from a host array that every process holds whole."""
    return jax.make_array_from_callback(x.shape, sharding, lambda index: x[index])


def _round_up(n, multiple):
    return -(-n // multiple) * multiple
