"""The interval of a difference: against SciPy's t test, and how often it is right on made-up scores."""

import numpy as np
import pytest
from scipy import stats

from seed_jax.compare.interval import interval


def scores(numbers, accuracy, *, seeds=3, images=350, spread=0.02):
    """Right answers bool `[S, N]` of a method: images differ in difficulty, seeds in accuracy."""
    difficulty = stats.norm.ppf(numbers["images"])
    of_seed = accuracy + spread * numbers["method"].standard_normal(seeds)
    noise = numbers["method"].standard_normal((seeds, images))
    # An image is answered when the seed's skill exceeds the image's difficulty and luck.
    return np.sqrt(0.5) * (difficulty + noise) < stats.norm.ppf(of_seed)[:, None]


def trials(first, second, count=20, **options):
    """Intervals of `count` pairs of methods on the same images."""
    found = []
    for trial in range(count):
        images = np.random.default_rng((trial, 0)).uniform(size=options.get("images", 350))
        pair = [
            scores({"images": images, "method": np.random.default_rng((trial, 1 + n))}, accuracy, **options)
            for n, accuracy in enumerate((first, second))
        ]
        found.append(interval(*pair))
    return found


@pytest.mark.parametrize("options", [{}, {"spread": 0.0}, {"spread": 0.05}, {"seeds": 2}, {"seeds": 5}])
def test_a_method_against_itself_under_other_seeds_shows_no_difference(options):
    shown = [low > 0 or high < 0 for _, low, high in trials(0.75, 0.75, **options)]
    assert sum(shown) <= 2


def test_one_seed_speaks_for_its_images_alone():
    shown = [low > 0 or high < 0 for _, low, high in trials(0.75, 0.75, seeds=1, spread=0.0)]
    assert sum(shown) <= 2


def test_a_true_difference_is_shown_and_covered():
    found = trials(0.85, 0.75, spread=0.005)
    assert sum(low > 0 for _, low, _ in found) >= 18
    assert sum(low < 0.1 < high for _, low, high in found) >= 18


def test_over_seeds_it_is_students_t():
    """Where all images agree, only the seeds are left."""
    accuracies = np.array([[0.0], [1.0], [1.0], [0.0], [1.0]])
    row = np.repeat(accuracies, 7, axis=1)
    got = interval(row, np.zeros_like(row))
    want = stats.ttest_1samp(accuracies[:, 0], 0.0).confidence_interval(0.95)
    np.testing.assert_allclose(got, (0.6, want.low, want.high))


def test_over_images_it_is_the_bootstrap():
    """Close to the binomial interval, which is known in closed form."""
    right = np.random.default_rng(0).uniform(size=(1, 2000)) < 0.3
    mean, low, high = interval(right, np.zeros_like(right))
    half = 1.96 * np.sqrt(mean * (1 - mean) / 2000)
    np.testing.assert_allclose((mean - low, high - mean), (half, half), rtol=0.1)


def test_the_same_numbers_give_the_same_interval():
    row = np.random.default_rng(1).uniform(size=(3, 50)) < 0.5
    base = np.random.default_rng(2).uniform(size=(3, 50)) < 0.5
    assert interval(row, base) == interval(row, base)


def test_other_shapes_are_refused():
    with pytest.raises(ValueError, match="not the same"):
        interval(np.zeros((3, 5)), np.zeros((2, 5)))


def test_a_single_number_has_no_interval():
    with pytest.raises(ValueError, match="no interval"):
        interval(np.ones((1, 1)), np.zeros((1, 1)))
