"""Loss landscapes along random directions (Li et al., "Visualizing the Loss Landscape of Neural Nets",
arXiv 1712.09913).
"""

import zlib
from collections.abc import Callable, Sequence
from typing import Any

import chex
import jax
import jax.numpy as jnp

SMALL = 1e-10


def filter_normalised_direction(key, params) -> Any:
    """A random Gaussian direction, each of whose filters is as long as the weights'; of vectors it is 0.

    A filter is what makes one output: of a tensor called `kernel`, `[..., inputs, outputs]`, all weights of
    an output; of any other tensor, such as position embeddings or a table of biases, a slice of the first
    axis. These are the rows of the same tensors in PyTorch, but for transposed convolutions. Scales and
    biases stay where they are, as tomgoldstein/loss-landscape does with `--xnorm filter --xignore biasbn`.

    The direction of a tensor depends on `key` and on the path of the tensor, not on the other tensors.

    Args:
      key: a typed PRNG key.
      params: pytree of float arrays.

    Returns:
      A tree like `params`, of the same shapes and dtypes.

    Raises:
      AssertionError: a tensor is not float.

    >>> params = {"kernel": jnp.array([[3.0, 0.0], [4.0, 2.0]]), "bias": jnp.ones(2)}
    >>> direction = filter_normalised_direction(jax.random.key(0), params)
    >>> jnp.linalg.norm(direction["kernel"], axis=0).round(4).tolist(), direction["bias"].tolist()
    ([5.0, 2.0], [0.0, 0.0])
    """

    def draw(path, weights):
        chex.assert_type(weights, float, custom_message="params")
        if weights.ndim < 2:
            return jnp.zeros_like(weights)
        name = jax.tree_util.keystr(path)
        random = jax.random.normal(jax.random.fold_in(key, zlib.crc32(name.encode())), weights.shape)
        of_output = -1 if getattr(path[-1], "key", "") == "kernel" else 0
        axes = tuple(axis for axis in range(weights.ndim) if axis != of_output % weights.ndim)
        wanted, drawn = (
            jnp.sqrt(jnp.square(x.astype(jnp.float32)).sum(axis=axes, keepdims=True))
            for x in (weights, random)
        )
        return (random * wanted / (drawn + SMALL)).astype(weights.dtype)

    return jax.tree_util.tree_map_with_path(draw, params)


def landscape(
    evaluate: Callable[..., Any], params, directions: Sequence[Any], points, arguments: Sequence[Any] = ()
) -> Any:
    """What `evaluate` returns at points of the plane that the directions span from the parameters.

    All points are one compiled program, which computes them one after the other. Several lines are one call
    too: each point of a line is a row that is 0 but for the line's direction.

    Args:
      evaluate: a function of parameters and `arguments` that jax can trace; returns a pytree of arrays, such
        as loss and accuracy.
      params: pytree of float arrays, at the point 0.
      directions: D trees like `params`.
      points: float `[N, D]`, how far each point lies along each direction.
      arguments: further arguments of `evaluate`, such as images: pytrees of arrays.

    Returns:
      What `evaluate` returns, with an axis of N points before the others.

    Raises:
      AssertionError: `points` is not of that shape.

    >>> params = {"x": jnp.array([1.0, 2.0])}
    >>> ways = [{"x": jnp.array([1.0, 0.0])}, {"x": jnp.array([0.0, 1.0])}]
    >>> landscape(lambda p: p["x"].sum(), params, ways, jnp.array([[0.0, 0.0], [1.0, 2.0]])).tolist()
    [3.0, 6.0]
    """
    points = jnp.asarray(points, jnp.float32)
    chex.assert_shape(points, (None, len(directions)), custom_message="points")

    def at(point, params, directions, *arguments):
        for share, direction in zip(point, directions, strict=True):
            params = jax.tree.map(
                lambda p, d, share=share: (p + share * d).astype(p.dtype), params, direction
            )
        return evaluate(params, *arguments)

    return jax.jit(lambda points, *trees: jax.lax.map(lambda point: at(point, *trees), points))(
        points, params, [*directions], *arguments
    )
