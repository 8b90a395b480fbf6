"""Exact nearest neighbours of embeddings, over all devices; for evaluators and for methods."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import PartitionSpec as P

from seed_jax import parallel
from seed_jax.errors import UserError


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

    by_query, whole = parallel.batch_sharding(mesh), parallel.replicated(mesh)
    query_rows = _round_up(min(query_chunk, len(queries)), mesh.size)
    bank_rows = min(bank_chunk, len(bank))

    query_chunks = [
        (put(x, by_query), put(numbers if others else np.full_like(numbers, -2), by_query))
        for x, numbers in _padded_chunks(queries, query_rows)
    ]
    found = [
        (
            put(np.full((query_rows, k), -np.inf, np.float32), by_query),
            put(np.full((query_rows, k), -1, np.int32), by_query),
        )
        for _ in query_chunks
    ]
    for x, numbers in _padded_chunks(bank, bank_rows):
        x, numbers = put(x, whole), put(numbers, whole)
        found = [
            _merge(*so_far, *query, x, numbers, mesh=mesh)
            for query, so_far in zip(query_chunks, found, strict=True)
        ]

    # On CPU devices, XLA's threads may wait for each other forever if a collective starts among other work.
    jax.block_until_ready(found)
    found = [[np.asarray(everywhere(x, mesh=mesh)) for x in pair] for pair in found]
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
def everywhere(x, *, mesh):
    """The rows of all devices on every device."""
    return jax.lax.with_sharding_constraint(x, parallel.replicated(mesh))


def _normalise(x):
    return x / jnp.maximum(jnp.linalg.norm(x, axis=-1, keepdims=True), 1e-12)


def _padded_chunks(x, rows):
    """Chunks of exactly `rows` examples and their numbers; padding is zero and has the number -1."""
    numbers = np.arange(len(x), dtype=np.int32)
    for start in range(0, len(x), rows):
        chunk, own = x[start : start + rows], numbers[start : start + rows]
        padding = rows - len(chunk)
        yield np.pad(chunk, ((0, padding), (0, 0))), np.pad(own, (0, padding), constant_values=-1)


def put(x, sharding):
    """A global array from a host array that every process has whole."""
    return jax.make_array_from_callback(x.shape, sharding, lambda index: x[index])


def _round_up(n, multiple):
    return -(-n // multiple) * multiple
