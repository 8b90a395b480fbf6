"""Scores of a test set, and how far they would move with other test images: a bootstrap."""

from typing import NamedTuple

import numpy as np

from seed_jax.errors import UserError

RESAMPLES, LEVEL = 1000, 0.95
_BLOCK = 2**22  # numbers that are drawn at a time


class Score(NamedTuple):
    """One number of an evaluation.

    Attributes:
      value: in [0, 1] if `share`, else in the unit of the score.
      low, high: the 95 % interval; None for a number without one.
      number: of images, or episodes, that it was computed from.
      share: whether tables show it in percent.
    """

    value: float
    low: float | None
    high: float | None
    number: int
    share: bool = True

    def text(self) -> str:
        """As tables show it.

        >>> Score(0.5, 0.25, 0.75, 8).text(), Score(-1.25, None, None, 8, share=False).text()
        ('50.0 [25.0, 75.0]', '-1.25')
        """
        if not self.share:
            return f"{self.value:.4g}"
        shown = f"{100 * self.value:.1f}"
        return shown if self.low is None else f"{shown} [{100 * self.low:.1f}, {100 * self.high:.1f}]"


def plain(value: float, number: int) -> Score:
    """A number that is no share and has no interval."""
    return Score(float(value), None, None, number, share=False)


def mean(values: np.ndarray, seed: int = 0) -> Score:
    """The mean over test images, with its interval.

    Args:
      values: bool or float `[M]` in [0, 1], one for each image: whether it is classified right, say.
      seed: draws the resamples.
    """
    values = np.asarray(values, np.float64)
    return Score(float(values.mean()), *interval(resampled(values, seed)), len(values))


def mean_per_class(values: np.ndarray, labels: np.ndarray, seed: int = 0) -> Score:
    """The mean over classes of the mean over the images of each class, with its interval.

    The usual metric of Caltech-101, Flowers, Pets and Aircraft (Kornblith et al. 2019, arXiv 1805.08974,
    table 1). Classes without a test image are left out. The images of each class are resampled among
    themselves, and the deviations of a class of n images are widened by sqrt(n / (n - 1)), because those of
    resamples are too small by that. A class of one image shows no spread: there is no interval then.

    >>> mean_per_class(np.array([1, 1, 1, 0]), np.array([0, 0, 0, 1])).value
    0.5

    Args:
      values: bool or float `[M]` in [0, 1].
      labels: int `[M]`.
      seed: draws the resamples.
    """
    values, labels = np.asarray(values, np.float64), np.asarray(labels)
    of_class = [values[labels == label] for label in np.unique(labels)]
    value = float(np.mean([own.mean() for own in of_class]))
    if min(map(len, of_class)) < 2:
        return Score(value, None, None, len(values))
    deviations = (
        (resampled(own, seed + i) - own.mean()) * np.sqrt(len(own) / (len(own) - 1))
        for i, own in enumerate(of_class)
    )
    low, high = interval(value + sum(deviations) / len(of_class))
    return Score(value, max(low, 0.0), min(high, 1.0), len(values))


def resampled(values: np.ndarray, seed: int = 0) -> np.ndarray:
    """The means of `RESAMPLES` draws of M of the values, with replacement: float64 `[RESAMPLES]`.

    Args:
      values: `[M]`.
      seed: draws them; the same numbers give the same draws.
    """
    values, rng = np.asarray(values, np.float64), np.random.default_rng(seed)
    rows = max(1, _BLOCK // len(values))
    return np.concatenate(
        [
            values[rng.integers(len(values), size=(min(rows, RESAMPLES - start), len(values)))].mean(axis=1)
            for start in range(0, RESAMPLES, rows)
        ]
    )


def interval(draws: np.ndarray) -> tuple[float, float]:
    """The percentile interval of resampled scores `[R]` (Efron & Tibshirani 1993, section 13.3)."""
    low, high = np.quantile(draws, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return float(low), float(high)


def expected_calibration_error(probabilities: np.ndarray, labels: np.ndarray, bins: int = 15) -> float:
    """How far the confidence in the predicted class is from the accuracy, averaged over the images.

    The images are put into `bins` bins of equal width by their confidence, the largest probability; a bin
    contains its upper bound, not its lower one. The error is the sum over bins of |sum of the confidences -
    number of right ones| / M (Guo et al. 2017, arXiv 1706.04599, equation 3; 15 bins there). It is biased
    upward on few images, and has no interval for that.

    >>> expected_calibration_error(np.array([[0.75, 0.25]] * 4), np.array([0, 0, 1, 1]))
    0.25

    Args:
      probabilities: float `[M, C]`, rows that sum to 1.
      labels: int `[M]`.

    Raises:
      UserError: a row is no distribution.
    """
    probabilities = np.asarray(probabilities, np.float64)
    if not np.allclose(probabilities.sum(axis=1), 1, atol=1e-4) or probabilities.min() < 0:
        raise UserError("Calibration needs probabilities, which sum to 1: pass the softmax of the logits.")
    confidence = np.minimum(probabilities.max(axis=1), 1.0)
    gap = confidence - (probabilities.argmax(axis=1) == labels)
    of_bin = np.maximum(np.ceil(confidence * bins).astype(int) - 1, 0)
    return float(np.abs(np.bincount(of_bin, weights=gap, minlength=bins)).sum() / len(gap))


def softmax(logits: np.ndarray) -> np.ndarray:
    """Probabilities float64 `[M, C]` of logits `[M, C]`."""
    powers = np.exp(np.asarray(logits, np.float64) - np.max(logits, axis=1, keepdims=True))
    return powers / powers.sum(axis=1, keepdims=True)
