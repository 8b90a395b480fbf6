"""How far two rows differ, and how sure that is."""

import numpy as np
from scipy import stats

LEVEL = 0.95
RESAMPLES = 2000


def interval(row: np.ndarray, baseline: np.ndarray) -> tuple[float, float, float]:
    """Mean difference of two rows, and its 95 % interval, in the unit of the values.

    Two things are drawn by chance: the seeds and the test images. All seeds score the same images, so the
    two errors add up, and the half-widths of their intervals are added in quadrature:

    - over images, of the difference averaged over the seeds: `scipy.stats.bootstrap`, percentiles of 2,000
      resamples, always the same ones;
    - over seeds, of the difference averaged over the images: Student's t. A bootstrap of three seeds cannot
      leave the range of its three values, and would call two equal rows different one time in four.

    With one seed the interval is that of the images alone. A single number has none: nothing tells how far
    chance moves it.

    >>> same = np.array([[1.0, 0.0, 1.0, 1.0]])
    >>> interval(same, same)
    (0.0, 0.0, 0.0)

    Args:
      row, baseline: a number for each seed and image, `[S, N]`, in the same order of seeds and of images.

    Raises:
      ValueError: the shapes differ, or they have one number.
    """
    if row.shape != baseline.shape or row.ndim != 2:
        raise ValueError(f"row {row.shape} and baseline {baseline.shape} are not the same [S, N].")
    if row.size < 2:
        raise ValueError("one number for one seed has no interval.")
    difference = np.asarray(row, float) - np.asarray(baseline, float)
    mean = float(difference.mean())
    low, high = _over_images(difference.mean(axis=0))
    spread = _over_seeds(difference.mean(axis=1))
    return mean, mean - float(np.hypot(mean - low, spread)), mean + float(np.hypot(high - mean, spread))


def _over_images(values: np.ndarray) -> tuple[float, float]:
    if len(values) < 2 or np.ptp(values) == 0:
        return values.mean(), values.mean()
    found = stats.bootstrap(
        (values,),
        np.mean,
        confidence_level=LEVEL,
        n_resamples=RESAMPLES,
        batch=100,
        method="percentile",
        rng=np.random.default_rng(0),
    )
    return found.confidence_interval


def _over_seeds(values: np.ndarray) -> float:
    """Half of the width of Student's t interval of the mean; 0 for one value."""
    if len(values) < 2:
        return 0.0
    quantile = stats.t.ppf((1 + LEVEL) / 2, len(values) - 1)
    return float(quantile * values.std(ddof=1) / np.sqrt(len(values)))
