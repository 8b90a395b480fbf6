import numpy as np
import pytest
from scipy import special, stats

from seed_jax.errors import UserError
from seed_jax.evals import accuracy

RNG = np.random.default_rng(0)


def test_the_interval_is_scipys():
    values = RNG.random(200) ** 2
    score = accuracy.mean(values)
    reference = stats.bootstrap((values,), np.mean, n_resamples=5000, method="percentile", rng=RNG)
    assert score.value == pytest.approx(values.mean())
    np.testing.assert_allclose(score[1:3], reference.confidence_interval, atol=0.006)


def test_of_right_and_wrong_answers_the_draws_are_binomial():
    right = np.arange(400) < 300
    draws = accuracy.resampled(right)
    assert len(draws) == accuracy.RESAMPLES
    assert draws.mean() == pytest.approx(0.75, abs=0.003)
    assert draws.std() == pytest.approx(np.sqrt(0.75 * 0.25 / 400), rel=0.1)


def test_many_images_are_drawn_in_blocks(monkeypatch):
    values = RNG.random(50)
    monkeypatch.setattr(accuracy, "_BLOCK", 50 * 7)
    assert len(accuracy.resampled(values)) == accuracy.RESAMPLES
    assert accuracy.mean(values) == accuracy.mean(values)
    assert accuracy.mean(values, seed=1) != accuracy.mean(values)


def test_the_mean_per_class_is_scikit_learns_balanced_accuracy():
    from sklearn.metrics import balanced_accuracy_score

    labels = RNG.choice(5, 300, p=[0.5, 0.2, 0.15, 0.1, 0.05]) * 2  # with gaps
    predicted = np.where(RNG.random(300) < 0.4, labels, RNG.choice(labels, 300))
    score = accuracy.mean_per_class(predicted == labels, labels)
    assert score.value == pytest.approx(balanced_accuracy_score(labels, predicted))
    assert score.low < score.value < score.high


def test_a_rare_class_widens_the_interval_per_class():
    labels = np.repeat([0, 1], [990, 10])
    right = np.tile([True, False], 500)
    per_class, whole = accuracy.mean_per_class(right, labels), accuracy.mean(right)
    assert per_class.value == whole.value == 0.5
    assert per_class.high - per_class.low > 3 * (whole.high - whole.low)


def test_two_images_of_a_class_have_the_variance_of_their_class():
    """The mean of n resampled images varies (n - 1) / n times too little."""
    labels, right = np.repeat(np.arange(400), 2), np.tile([True, False], 400)
    score = accuracy.mean_per_class(right, labels)
    error = np.sqrt(np.var([1, 0], ddof=1) / 2 / 400)
    assert score.high - score.low == pytest.approx(2 * 1.96 * error, rel=0.1)


def test_a_class_of_one_image_has_no_interval():
    score = accuracy.mean_per_class([True, False, True], [0, 0, 1])
    assert (score.value, score.low, score.high) == (0.75, None, None)
    assert score.text() == "75.0"


def test_calibration_is_its_definition():
    probabilities = special.softmax(3 * RNG.standard_normal((500, 4)), axis=1)
    labels = RNG.integers(4, size=500)
    total = 0.0
    for b in range(15):
        confidence = probabilities.max(axis=1)
        within = (confidence > b / 15) & (confidence <= (b + 1) / 15)
        if within.any():
            right = probabilities.argmax(axis=1)[within] == labels[within]
            total += within.mean() * abs(right.mean() - confidence[within].mean())
    assert accuracy.expected_calibration_error(probabilities, labels) == pytest.approx(total)


def test_sure_and_right_is_calibrated_and_sure_and_wrong_is_not():
    sure = np.eye(3)
    assert accuracy.expected_calibration_error(sure, np.arange(3)) == 0
    assert accuracy.expected_calibration_error(sure, np.array([1, 2, 0])) == 1


def test_logits_are_no_probabilities():
    with pytest.raises(UserError, match="softmax of the logits"):
        accuracy.expected_calibration_error(np.ones((2, 3)), np.zeros(2))


def test_softmax_is_scipys():
    logits = 300 * RNG.standard_normal((6, 4))
    np.testing.assert_allclose(accuracy.softmax(logits), special.softmax(logits, axis=1))
