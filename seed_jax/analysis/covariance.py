"""The two covariances that Good-DA-in-KD (Wang et al., NeurIPS 2022, arXiv 2012.02909) has beside T.stddev.

The paper's proposition is about the covariance of the teacher-student cross entropy over sampled data sets.
`risk_covariance` estimates it; `probability_covariance` and T.stddev stand in for it without a student.
Source: MingSun-Tse/Good-DA-in-KD, helper/loops.py, `check_ce_var_v3` and `check_ce_var_v2`.
"""

from typing import NamedTuple

import chex
import numpy as np


class Mean(NamedTuple):
    """The mean over a square matrix, diagonal included, and the mean of its absolute values."""

    mean: float
    absolute: float


def probability_covariance(probabilities: np.ndarray) -> dict[str, Mean]:
    """Covariances and correlations within the teacher's probabilities of one batch, averaged.

    The released code joins originals and augmented images, `[2 B, C]`, and averages the results over steps.

    Args:
      probabilities: float `[N, C]`, at least 2 by 2.

    Returns:
      By name: `samples` and `classes`, the covariance between rows and between columns, and
      `samples_correlation` and `classes_correlation`. A row or column without variance has a correlation of
      0 with the others, which is NaN in the released code.

    Raises:
      AssertionError: `probabilities` is not float of rank 2, or smaller than 2 by 2.

    >>> probability_covariance(np.array([[1.0, 0.0], [0.0, 1.0]]))["samples"]
    Mean(mean=0.0, absolute=0.5)
    """
    probabilities = np.asarray(probabilities)
    chex.assert_rank(probabilities, 2, custom_message="probabilities")
    chex.assert_type(probabilities, float, custom_message="probabilities")
    assert min(probabilities.shape) > 1, f"probabilities has shape {probabilities.shape}: at least 2 by 2."
    result = {}
    for name, rows in (("samples", probabilities), ("classes", probabilities.T)):
        covariance = np.atleast_2d(np.cov(rows.astype(np.float64)))
        deviation = np.sqrt(covariance.diagonal())
        scale = np.outer(deviation, deviation)
        correlation = np.divide(covariance, scale, out=np.zeros_like(scale), where=scale > 0)
        result[name] = _mean(covariance)
        result[f"{name}_correlation"] = _mean(correlation)
    return result


def risk_covariance(losses: np.ndarray) -> float:
    """Sum of the covariances of every two positions of a sampled sequence, / N^2; lower predicts better.

    A sequence is N losses -sum p_t log p_s of consecutive samples, originals and augmented ones of each step;
    the released code takes 100 sequences of 6,400 losses, and the teacher's entropies where there is no
    student. Each position is divided by its largest loss, as there.

    Args:
      losses: float `[R, N]`, R sequences.

    Raises:
      AssertionError: `losses` is not float of rank 2, or has one sequence.

    Two positions that rise together, scaled to 0.5 and 1; their covariance is 0.125:

    >>> risk_covariance(np.array([[1.0, 2.0], [2.0, 4.0]]))
    0.03125
    """
    losses = np.asarray(losses)
    chex.assert_rank(losses, 2, custom_message="losses")
    chex.assert_type(losses, float, custom_message="losses")
    assert len(losses) > 1, "losses has one sequence: a covariance needs two."
    losses = losses.astype(np.float64)
    highest = losses.max(axis=0)
    scaled = np.divide(losses, highest, out=np.zeros_like(losses), where=highest > 0)
    # The variance of a sum has every covariance twice, and the variances.
    pairs = (scaled.sum(axis=1).var(ddof=1) - scaled.var(axis=0, ddof=1).sum()) / 2
    return float(pairs / losses.shape[1] ** 2)


def _mean(matrix: np.ndarray) -> Mean:
    return Mean(float(matrix.mean()), float(np.abs(matrix).mean()))
