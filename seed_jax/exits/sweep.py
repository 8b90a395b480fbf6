"""What a confidence threshold would do: accuracy and mean cost, from the logits of all exits."""

from collections.abc import Sequence
from typing import NamedTuple

import chex
import numpy as np
from scipy import special


class Policy(NamedTuple):
    """What one threshold does on some images.

    Attributes:
      threshold: an image leaves at the first exit whose confidence is above it, else at the deepest.
      correct: which images are classified right, bool `[N]`.
      exits: where each leaves, int `[N]`, counted from 0.
      flops: mean per image.
    """

    threshold: float
    correct: np.ndarray
    exits: np.ndarray
    flops: float


def confidence(logits: np.ndarray) -> np.ndarray:
    """The largest probability of each row, float64 `[N]`; `logits`: float `[N, C]`.

    >>> confidence(np.array([[0.0, 0.0], [0.0, np.log(3)]]))
    array([0.5 , 0.75])
    """
    return special.softmax(np.asarray(logits, np.float64), axis=-1).max(axis=-1)


def sweep(
    logits: Sequence[np.ndarray], labels: np.ndarray, flops: Sequence[float], thresholds: Sequence[float]
) -> list[Policy]:
    """A policy for each threshold. Ours: the paper chooses one depth for all images, and so do its codes.

    Args:
      logits: float `[N, C]` of each exit, the deepest last.
      labels: int `[N]`.
      flops: what an image costs that leaves at each exit, with the exits before it.
      thresholds: 0 lets every image leave at the first exit, 1 none before the deepest.

    Raises:
      AssertionError: the shapes differ, or there are not as many costs as exits.

    The first image is sure at the first exit, and wrong; the second goes on to the deepest:

    >>> first, deepest = np.array([[0.0, 5.0], [0.0, 0.1]]), np.array([[5.0, 0.0], [5.0, 0.0]])
    >>> (policy,) = sweep([first, deepest], np.array([0, 0]), [1.0, 3.0], [0.9])
    >>> policy.exits, policy.correct, policy.flops
    (array([0, 1]), array([False,  True]), 2.0)
    """
    chex.assert_equal_shape(logits, custom_message="logits")
    chex.assert_shape(labels, (len(logits[0]),), custom_message="labels")
    assert len(flops) == len(logits), f"there are {len(flops)} costs for {len(logits)} exits."
    sure = np.stack([confidence(rows) for rows in logits])
    right = np.stack([rows.argmax(axis=1) == labels for rows in logits])
    policies = []
    for threshold in thresholds:
        leaves = sure > threshold
        leaves[-1] = True
        exits = leaves.argmax(axis=0)
        correct = right[exits, np.arange(len(labels))]
        policies.append(Policy(float(threshold), correct, exits, float(np.asarray(flops)[exits].mean())))
    return policies
