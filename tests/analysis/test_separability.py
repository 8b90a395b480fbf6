"""SSE / SSB against loops, and what does not change it."""

import numpy as np
import pytest

from seed_jax.analysis import separability


def drawn(apart=1.0):
    draw = np.random.default_rng(0)
    labels = draw.integers(0, 4, 60)
    return draw.standard_normal((60, 5)) + apart * draw.standard_normal((4, 5))[labels], labels


def test_against_loops():
    features, labels = drawn()
    within = between = 0.0
    for label in set(labels.tolist()):
        rows = [row for row, own in zip(features, labels, strict=True) if own == label]
        mean = sum(rows) / len(rows)
        within += sum(((row - mean) ** 2).sum() for row in rows)
        between += len(rows) * ((mean - features.sum(axis=0) / 60) ** 2).sum()
    np.testing.assert_allclose(separability(features, labels), within / between, rtol=1e-12)


def test_scale_and_names_of_classes_do_not_matter_and_distance_does():
    features, labels = drawn()
    value = separability(features, labels)
    np.testing.assert_allclose(separability(7 * features + 3, 100 - 9 * labels), value, rtol=1e-9)
    assert separability(*drawn(apart=5.0)) < value
    assert separability(np.ones((4, 2)), np.array([0, 0, 1, 1])) == np.inf


def test_one_class_is_refused():
    with pytest.raises(AssertionError, match="a separation needs two"):
        separability(np.ones((2, 2)), np.zeros(2, int))
