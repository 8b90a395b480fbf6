"""How well the classes are apart in features."""

import chex
import numpy as np


def separability(features: np.ndarray, labels: np.ndarray) -> float:
    """SSE / SSB, the spread within classes over the spread between them; lower is better separated.

    SSE = sum over samples of |x - mean of its class|^2, SSB = sum over classes of n_c |mean_c - mean|^2, in
    float64. Zhang et al. (Be Your Own Teacher, arXiv 1905.08094) measure each exit so; they
    released no code. The value does not change with the scale of the features.

    Args:
      features: float `[N, D]`.
      labels: int `[N]`, at least two classes.

    Returns:
      0 or more; infinity if all classes have one mean.

    Raises:
      AssertionError: a shape or dtype is not the above, or there is only one class.

    >>> separability(np.array([[0.0], [2.0], [10.0], [12.0]]), np.array([0, 0, 1, 1]))
    0.04
    """
    features, labels = np.asarray(features), np.asarray(labels)
    chex.assert_rank(features, 2, custom_message="features")
    chex.assert_type(features, float, custom_message="features")
    chex.assert_shape(labels, features.shape[:1], custom_message="labels")
    chex.assert_type(labels, int, custom_message="labels")
    classes, index, counts = np.unique(labels, return_inverse=True, return_counts=True)
    assert len(classes) > 1, "labels has one class: a separation needs two."
    features = features.astype(np.float64)
    sums = np.zeros((len(classes), features.shape[1]))
    np.add.at(sums, index, features)
    means = sums / counts[:, None]
    within = np.square(features - means[index]).sum()
    between = (counts[:, None] * np.square(means - features.mean(axis=0))).sum()
    return float(within / between) if between > 0 else float("inf")
