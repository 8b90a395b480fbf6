"""Positions of vision transformers: a fixed table, and stored ones for another grid."""

import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax


def resize_positions(positions, grid: tuple[int, int], offset: float, antialias: bool) -> jax.Array:
    """Resize position embeddings `[n * n, D]` of a square grid to `[height * width, D]`: bicubic, float32.

    >>> resize_positions(jnp.ones((4, 8)), grid=(3, 5), offset=0.0, antialias=False).shape
    (15, 8)
    """
    stored = math.isqrt(len(positions))
    rows, columns = (jnp.asarray(bicubic(stored, size, offset, antialias)) for size in grid)
    square = positions.reshape(stored, stored, -1)
    resized = jnp.einsum("hi,wj,ijd->hwd", rows, columns, square, precision=lax.Precision.HIGHEST)
    return resized.reshape(-1, positions.shape[-1])


def sine_positions(side: int, dim: int) -> np.ndarray:
    """Positions of a square grid, float32 `[side * side, dim]` (facebookresearch/moco-v3, vits.py).

    The first half of a row encodes the row of the patch, the second half its column: sines, then cosines, of
    dim / 4 frequencies from 1 to nearly 1 / 10,000.

    >>> sine_positions(2, 4).round(2)
    array([[0.  , 1.  , 0.  , 1.  ],
           [0.  , 1.  , 0.84, 0.54],
           [0.84, 0.54, 0.  , 1.  ],
           [0.84, 0.54, 0.84, 0.54]], dtype=float32)
    """
    quarter = dim // 4
    angles = np.arange(side)[:, None] * 10_000.0 ** -(np.arange(quarter) / quarter)
    half = np.concatenate([np.sin(angles), np.cos(angles)], axis=1)
    both = np.concatenate([np.repeat(half, side, axis=0), np.tile(half, (side, 1))], axis=1)
    return both.astype(np.float32)


@functools.cache
def bicubic(inputs: int, outputs: int, offset: float = 0.0, antialias: bool = False) -> np.ndarray:
    """The float32 matrix `[outputs, inputs]` of PyTorch's `interpolate(mode='bicubic', align_corners=False)`.

    Args:
      inputs, outputs: lengths of the axis before and after.
      offset: added to `outputs` when the scale is computed, as in DINO (its issue 8). The samples are then a
        little closer together.
      antialias: use Keys' kernel with a = -0.5, widened when the axis shrinks; otherwise a = -0.75.
    """
    scale = inputs / (outputs + offset)
    centres = scale * (np.arange(outputs) + 0.5) - 0.5
    if antialias:
        distances = np.abs(np.arange(inputs) - centres[:, None]) / max(scale, 1.0)
        weights = _cubic(distances, -0.5)
        return (weights / weights.sum(1, keepdims=True)).astype(np.float32)
    matrix = np.zeros((outputs, inputs))
    for tap in range(-1, 3):
        places = np.floor(centres).astype(int) + tap
        clipped = np.clip(places, 0, inputs - 1)
        np.add.at(matrix, (np.arange(outputs), clipped), _cubic(np.abs(places - centres), -0.75))
    return matrix.astype(np.float32)


def _cubic(x, a):
    near = ((a + 2) * x - (a + 3)) * x * x + 1
    far = ((a * x - 5 * a) * x + 8 * a) * x - 4 * a
    return np.where(x <= 1, near, np.where(x < 2, far, 0))
