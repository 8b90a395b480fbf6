"""The probe during training: scores of the network on the validation split."""

from collections.abc import Callable

import numpy as np

from seed_jax import evals
from seed_jax.config import Config
from seed_jax.data.sources import Source, Subset
from seed_jax.evals.base import SharedFeatures


class OnlineProbe:
    """Runs the evaluators that `evals.names` lists on one network in eval mode.

    Attributes:
      features: of the network, which the probe of another network may take as its `teacher`.

    Args:
      network: has `apply(variables, x, train) -> (features, model_state)`.
      variables: of the network, or their shapes.
      mesh: from `parallel.make_mesh`.
      config: of the run.
      bank: labelled source that kNN searches, or `evals.bank_size` images of it; None if no evaluator does.
      queries: source that the scores are measured on.
      teacher: the features of the teacher on the same sources; None without one.

    Raises:
      UserError: the network lacks the entry that `evals.feature` names.
    """

    def __init__(
        self,
        network,
        variables,
        mesh,
        config: Config,
        bank: Source | None,
        queries: Source,
        teacher: SharedFeatures | None = None,
    ):
        splits = {"queries": queries}
        if bank is not None:
            splits["bank"] = evenly(bank, config.evals.bank_size)
        self.features = SharedFeatures(network, variables, mesh, config, splits, teacher)
        self._evaluators = [
            evals.EVALUATORS[name](self.features, config.evals) for name in config.evals.names
        ]

    def __call__(self, variables, stop: Callable[[], bool] = lambda: False) -> dict[str, float]:
        """The scores of all evaluators by name; empty when there is nothing to measure.

        Raises:
          Abandoned: `stop()` returned true; it is called before each batch.
        """
        with self.features.stopped_by(stop):
            scores = scores_of(self._evaluators, variables)
        return {name: float(np.mean(score)) for name, score in scores.items()}


def scores_of(evaluators, variables) -> dict[str, float | np.ndarray]:
    """The scores of all evaluators by name, as `Evaluator.run` returns them.

    Raises:
      ValueError: two evaluators return a score of the same name.
    """
    scores = {}
    for evaluator in evaluators:
        new = evaluator.run(variables)
        if both := scores.keys() & new.keys():
            raise ValueError(f"Two evaluators return the score {min(both)!r}: rename one of them.")
        scores |= new
    return scores


def evenly(source: Source, count: int) -> Source:
    """`count` evenly spaced images of a source; the source itself if `count` is 0 or not below its length.

    >>> from seed_jax.data.sources import Arrays
    >>> source = Arrays("stripes", np.zeros((9, 4, 4, 3), np.uint8), np.arange(9))
    >>> evenly(source, 3).labels()
    array([0, 4, 8])
    """
    if not count or count >= len(source):
        return source
    return Subset(source, np.linspace(0, len(source) - 1, count).astype(np.int64))
