"""How well features separate classes: the sum of squares within classes over that between them."""

import chex
import numpy as np


def separability(features: np.ndarray, labels: np.ndarray) -> float:
    """SSE / SSB; lower separates better.

    SSE is the sum of the squared distances to the mean of the own class, SSB that of the distances of these
    means to the mean of all, each counted once for every sample of the class. "Be Your Own Teacher" (Zhang et
    al., ICCV 2019, arXiv 1905.08094) compares the exits of a network by it; no code was released.

    Args:
      features: float `[N, D]`.
      labels: int `[N]`, of two classes or more.

    Returns:
      0 or more; infinite if all classes have one mean. Computed in float64.

    Raises:
      AssertionError: the shapes or dtypes are not the above, or there is only one class.

    Two classes at -1 and 1, each spread by 0.5 to both sides:

    >>> separability(np.array([[-1.5], [-0.5], [0.5], [1.5]]), np.array([0, 0, 1, 1]))
    0.25
    """
    features, labels = np.asarray(features), np.asarray(labels)
    chex.assert_rank(features, 2, custom_message="features")
    chex.assert_type(features, float, custom_message="features")
    chex.assert_shape(labels, features.shape[:1], custom_message="labels")
    classes, own, counts = np.unique(labels, return_inverse=True, return_counts=True)
    assert len(classes) > 1, "the labels have one class: separability needs two."
    features = features.astype(np.float64)
    sums = np.zeros((len(classes), features.shape[1]))
    np.add.at(sums, own, features)
    means = sums / counts[:, None]
    within = np.square(features - means[own]).sum()
    between = (counts[:, None] * np.square(means - features.mean(axis=0))).sum()
    return float(within / between) if between else float("inf")
