"""T.stddev against its value for a teacher whose outputs are known."""

import numpy as np
import pytest

from seed_jax.analysis import t_stddev
from seed_jax.errors import UserError


@pytest.mark.parametrize(
    ("classes", "copies", "want"),
    [(100, 2, 5.562e-3), (200, 2, 3.943e-3), (100, 1, 3.933e-3), (200, 1, 2.788e-3)],
)
def test_one_hot_teachers(classes, copies, want):
    """sqrt((1/C)(1 - 1/C) / n) for n independent rows of 640: half of them if every row comes twice."""
    labels = np.random.default_rng(0).integers(0, classes, 640 * 1000 // copies)
    rows = np.repeat(np.eye(classes, dtype=np.float32)[labels], copies, axis=0)
    np.testing.assert_allclose(t_stddev(rows), want, rtol=1e-2)


def test_rows_are_taken_in_order_and_the_rest_is_left_out():
    rows = np.random.default_rng(0).dirichlet(np.ones(3), 25)
    means = np.stack([rows[n : n + 10].mean(axis=0) for n in (0, 10)])
    want = (np.abs(means[0] - means[1]) / np.sqrt(2)).mean()
    np.testing.assert_allclose(t_stddev(rows, chunk=10), want, rtol=1e-12)


def test_too_few_rows():
    with pytest.raises(UserError, match="at least two chunks of 640 rows, and there are 1000 rows"):
        t_stddev(np.ones((1000, 2)))


@pytest.mark.parametrize("wrong", [np.ones(4), np.ones((4, 2, 1)), np.ones((4, 2), np.int32)])
def test_arrays_of_another_kind_are_refused(wrong):
    with pytest.raises(AssertionError, match=r"\[probabilities\]"):
        t_stddev(wrong, chunk=2)
    with pytest.raises(AssertionError, match=r"\[chunk\]"):
        t_stddev(np.ones((4, 2)), chunk=0)
