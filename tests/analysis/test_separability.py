"""SSE / SSB against its definition and the identity SSE + SSB = the total sum of squares."""

import numpy as np
import pytest

from seed_jax.analysis import separability


def draw(gap=1.0):
    numbers = np.random.default_rng(0)
    labels = numbers.choice([2, 3, 7], 40, p=[0.5, 0.3, 0.2])
    return numbers.standard_normal((40, 5)) + gap * labels[:, None], labels


def test_the_definition():
    features, labels = draw()
    within = between = 0.0
    for label in set(labels):
        own = features[labels == label]
        within += sum(np.linalg.norm(x - own.mean(axis=0)) ** 2 for x in own)
        between += len(own) * np.linalg.norm(own.mean(axis=0) - features.mean(axis=0)) ** 2
    np.testing.assert_allclose(separability(features, labels), within / between, rtol=1e-12)
    total = np.square(features - features.mean(axis=0)).sum()
    np.testing.assert_allclose(within + between, total, rtol=1e-12)


def test_it_knows_no_scale_shift_or_rotation():
    features, labels = draw()
    rotation = np.linalg.qr(np.random.default_rng(1).standard_normal((5, 5)))[0]
    np.testing.assert_allclose(
        separability(3 * features @ rotation + 9, labels), separability(features, labels), rtol=1e-9
    )


def test_classes_that_lie_farther_apart_separate_better():
    values = [separability(*draw(gap)) for gap in (0.5, 1.0, 2.0)]
    assert values == sorted(values, reverse=True)


def test_equal_means_and_one_class():
    assert separability(np.array([[1.0], [-1.0], [1.0], [-1.0]]), np.array([0, 0, 1, 1])) == float("inf")
    with pytest.raises(AssertionError, match="one class"):
        separability(np.ones((3, 2)), np.zeros(3, int))
