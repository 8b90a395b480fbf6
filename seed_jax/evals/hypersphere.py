"""Alignment and uniformity of unit features (Wang & Isola 2020, arXiv 2005.10242); needs no labels."""

import numpy as np

from seed_jax.evals.features import unit

_ROWS = 1024  # whose distances to all images exist at a time


def alignment(first: np.ndarray, second: np.ndarray) -> float:
    """Mean squared distance of two views of each image, 0 to 4; lower is closer (equation 1, alpha = 2).

    >>> alignment(np.array([[2.0, 0.0], [0.0, 1.0]]), np.array([[1.0, 0.0], [0.0, -1.0]]))
    2.0

    Args:
      first, second: float `[M, D]`, normalised to length 1 here.
    """
    return float(np.square(unit(first) - unit(second)).sum(axis=1).mean())


def uniformity(features: np.ndarray) -> float:
    """log of the mean of exp(-2 d^2) over all pairs of different images, -8 to 0; lower is more uniform.

    Equation 2 with t = 2. The released code (SsnL/align_uniform) takes the pairs of a batch; here it is
    those of all images.

    >>> round(uniformity(np.array([[1.0, 0.0], [-3.0, 0.0]])), 9)
    -8.0

    Args:
      features: float `[M, D]` of at least two images, normalised to length 1 here.
    """
    x, total = unit(features), 0.0
    lengths = np.square(x).sum(axis=1)  # 1, or 0 of features that are 0
    for start in range(0, len(x), _ROWS):
        own = lengths[start : start + _ROWS, None]
        squared = np.maximum(own + lengths - 2 * x[start : start + _ROWS] @ x.T, 0)
        total += np.exp(-2 * squared).sum()
    total -= len(x)  # the images themselves, at distance 0
    return float(np.log(max(total, 0) / (len(x) * (len(x) - 1))))
