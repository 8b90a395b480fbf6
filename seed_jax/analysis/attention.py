"""Where the heads of a vision transformer look: how far, how alike, and how much it depends on the query.

Rows of an attention matrix are queries, columns are keys. The first `prefix_tokens` (cls, registers) are
left out of both, and the rest of each row is scaled to the sum 1. A query that looks at prefix tokens alone
is left out of the means; a head all of whose queries do so has NaN.
"""

import chex
import jax.numpy as jnp
import numpy as np


def attention_distance(attention, *, grid: tuple[int, int], patch_size: int, prefix_tokens: int = 1):
    """Mean distance in pixels between a query and what it looks at, of each head.

    As naver-ai/cl-vs-mim, self_attention_analysis.ipynb (Park et al., arXiv 2305.00729), which is for square
    grids.

    Args:
      attention: float `[B, H, T, T]`, after the softmax.
      grid: rows and columns of patches; T is their product and `prefix_tokens`.
      patch_size: pixels between two neighbours.
      prefix_tokens: tokens before the patches.

    Returns:
      float32 `[H]`, pixels: the mean over images and queries.

    Raises:
      AssertionError: the shape or dtype of `attention` is not the above.

    Two patches, each of which looks at both equally:

    >>> float(attention_distance(jnp.full((1, 1, 2, 2), 0.5), grid=(1, 2), patch_size=16, prefix_tokens=0)[0])
    8.0
    """
    rows, seen = _patches(attention, prefix_tokens, grid)
    apart = np.linalg.norm(_between(grid), axis=-1)
    return patch_size * _mean(_weighted(rows, apart), seen)


def head_cosine(attention, *, prefix_tokens: int = 1):
    """Mean cosine similarity of each head's rows with those of the other heads.

    arXiv 2205.14141 shows it without a formula or code. Here it is the mean over images, queries and the
    other heads of the cosine of two heads' rows for the same query.

    Args:
      attention: float `[B, H, T, T]`, after the softmax, of two heads or more.
      prefix_tokens: tokens before the patches.

    Returns:
      float32 `[H]`, 0 to 1.

    Raises:
      AssertionError: the shape or dtype of `attention` is not the above.

    >>> [float(x) for x in head_cosine(jnp.eye(3)[None, None].repeat(2, axis=1), prefix_tokens=0)]
    [1.0, 1.0]
    """
    rows, seen = _patches(attention, prefix_tokens)
    heads = rows.shape[1]
    assert heads > 1, "attention has one head: head_cosine compares two or more."
    units = rows / jnp.maximum(jnp.linalg.norm(rows, axis=-1, keepdims=True), 1e-30)
    cosine = jnp.einsum("bhqk,bgqk->bhgq", units, units, precision="highest")
    both = seen[:, :, None] & seen[:, None] & ~jnp.eye(heads, dtype=bool)[None, :, :, None]
    return jnp.where(both, cosine, 0).sum(axis=(0, 2, 3)) / both.sum(axis=(0, 2, 3))


def attention_nmi(attention, *, prefix_tokens: int = 1):
    """Normalised mutual information of query and key, of each head: 0 if all queries look at the same keys.

    I(q; k) / sqrt(H(q) H(k)) with queries equally likely, as naver-ai/cl-vs-mim,
    self_attention_analysis.ipynb (Park et al., arXiv 2305.00729). It adds 1e-8 to every entry first, and we
    do not. A head whose queries all look at one key alone has 0.

    Args:
      attention: float `[B, H, T, T]`, after the softmax.
      prefix_tokens: tokens before the patches.

    Returns:
      float32 `[H]`, 0 to 1: the mean over images.

    Raises:
      AssertionError: the shape or dtype of `attention` is not the above.

    >>> float(attention_nmi(jnp.eye(4)[None, None], prefix_tokens=0)[0])
    1.0
    >>> float(attention_nmi(jnp.full((1, 1, 4, 4), 0.25), prefix_tokens=0)[0])
    0.0
    """
    rows, seen = _patches(attention, prefix_tokens)
    counts = seen.sum(axis=-1)
    of_query = seen / jnp.maximum(counts, 1)[..., None]
    of_key = jnp.einsum("bhq,bhqk->bhk", of_query, rows, precision="highest")
    both = of_query[..., None] * rows
    # log(row / of_key) in two terms, each of which is 0 where its probability is 0.
    information = _sum_of_logs(both, rows) - _sum_of_logs(of_key, of_key)
    entropies = jnp.log(jnp.maximum(counts, 1)) * jnp.maximum(-_sum_of_logs(of_key, of_key), 0)
    none = entropies == 0  # NaN stays NaN
    nmi = jnp.where(none, 0, information / jnp.sqrt(jnp.where(none, 1, entropies)))
    return _mean(jnp.maximum(nmi, 0), counts > 0, axes=(0,))


def diagonal_mass(attention, *, grid: tuple[int, int], radius: int = 1, prefix_tokens: int = 1):
    """Share of a query's attention on patches at most `radius` rows and columns away, of each head.

    Args:
      attention: float `[B, H, T, T]`, after the softmax.
      grid: rows and columns of patches; T is their product and `prefix_tokens`.
      radius: 0 is the query's own patch, 1 has its 8 neighbours too.
      prefix_tokens: tokens before the patches.

    Returns:
      float32 `[H]`, 0 to 1: the mean over images and queries.

    Raises:
      AssertionError: the shape or dtype of `attention` is not the above.

    >>> float(diagonal_mass(jnp.full((1, 1, 4, 4), 0.25), grid=(1, 4), radius=0, prefix_tokens=0)[0])
    0.25
    """
    rows, seen = _patches(attention, prefix_tokens, grid)
    near = np.abs(_between(grid)).max(axis=-1) <= radius
    return _mean(_weighted(rows, near), seen)


def mean_attention(attention, *, prefix_tokens: int = 1):
    """Where the heads of a layer look on average: a bright diagonal is the query's own place, a column a key
    that all queries look at.

    arXiv 2205.14141 shows it and released no code. Here it is the mean over images and heads of the rows.

    Args:
      attention: float `[B, H, T, T]`, after the softmax.
      prefix_tokens: tokens before the patches.

    Returns:
      float32 `[N, N]` of queries and keys, N = T - `prefix_tokens`; rows have the sum 1.

    Raises:
      AssertionError: the shape or dtype of `attention` is not the above.

    >>> mean_attention(jnp.stack([jnp.eye(2), jnp.full((2, 2), 0.5)])[None], prefix_tokens=0).tolist()
    [[0.75, 0.25], [0.25, 0.75]]
    """
    rows, seen = _patches(attention, prefix_tokens)
    return _mean(rows, seen[..., None], axes=(0, 1))


def _patches(attention, prefix_tokens, grid=None):
    """The rows over patches, `[B, H, N, N]`, scaled to the sum 1, and which have one, bool `[B, H, N]`."""
    chex.assert_rank(attention, 4, custom_message="attention")
    chex.assert_type(attention, float, custom_message="attention")
    tokens = attention.shape[-1]
    assert attention.shape[-2] == tokens, f"attention is {attention.shape}: it must be [B, H, T, T]."
    patches = tokens - prefix_tokens
    assert patches > 0, f"attention has {tokens} tokens, of which {prefix_tokens} are before the patches."
    assert grid is None or grid[0] * grid[1] == patches, (
        f"grid is {grid[0]} x {grid[1]}, and attention has {patches} patches and {prefix_tokens} before them."
    )
    rows = attention[:, :, prefix_tokens:, prefix_tokens:].astype(jnp.float32)
    mass = rows.sum(axis=-1, keepdims=True)
    some = mass != 0  # NaN stays NaN
    return jnp.where(some, rows / jnp.where(some, mass, 1), 0), some[..., 0]


def _between(grid):
    """Rows and columns from each patch to each other one, int `[N, N, 2]`."""
    places = np.stack(np.meshgrid(*map(np.arange, grid), indexing="ij"), axis=-1).reshape(-1, 2)
    return places[:, None] - places


def _weighted(rows, weights):
    return jnp.einsum("bhqk,qk->bhq", rows, weights.astype(np.float32), precision="highest")


def _mean(values, counted, axes=(0, 2)):
    return jnp.where(counted, values, 0).sum(axis=axes) / counted.sum(axis=axes)


def _sum_of_logs(weights, values):
    """The sum over all but `[B, H]` of weights * log(values), 0 where the value is 0."""
    logs = jnp.log(jnp.where(values == 0, 1, values))
    return (weights * logs).sum(axis=tuple(range(2, values.ndim)))
