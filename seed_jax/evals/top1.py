"""Top-1 accuracy of the classifiers that a network already has."""

import numpy as np

from seed_jax.evals.base import SharedFeatures


def correct(logits: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """Which examples have their largest logit at their own class, bool `[N]`.

    If several classes share the largest logit, the lowest of these classes is the prediction.

    >>> correct(np.array([[0.1, 0.9], [0.8, 0.2], [0.5, 0.5]]), np.array([1, 1, 0]))
    array([ True, False,  True])

    Args:
      logits: `[N, C]`.
      labels: int `[N]`.
    """
    return logits.argmax(axis=1) == labels


class Top1:
    """The evaluator `top1`: one score for each classifier of the network.

    A classifier is an entry of the features that is called `logits` or ends in it, and that has one column
    per class of the queries. `logits` is scored as `top1`, `exit1_logits` as `exit1_top1`.
    """

    needs_bank = False
    needs_labels = True

    def __init__(self, features: SharedFeatures, evals):
        del evals
        self._features = features
        self._classifiers = [
            entry
            for entry, value in features.entries.items()
            if entry.endswith("logits") and value.shape[1:] == (features.num_classes,)
        ]
        features.want("queries", *self._classifiers)

    def run(self, variables) -> dict[str, np.ndarray]:
        """Which queries are right, bool `[M]` by name; empty without a classifier of these classes."""
        if not self._classifiers:
            return {}
        features, labels = self._features.get("queries", variables)
        return {
            f"{entry.removesuffix('logits')}top1": correct(features[entry], labels)
            for entry in self._classifiers
        }
