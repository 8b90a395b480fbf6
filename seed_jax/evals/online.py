"""The probe during training: scores of the network on the validation split."""

from collections.abc import Callable

import numpy as np

from seed_jax import evals
from seed_jax.config import Config, Data
from seed_jax.data.images import BadImage
from seed_jax.data.sources import Source, Subset
from seed_jax.data.sources.base import in_common
from seed_jax.errors import UserError
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


def check_bank(data: Data, bank: Source, *scored: Source) -> None:
    """Raise `UserError` if the bank that probes learn from has images that they are scored on.

    Args:
      data: names the splits of the bank and of the scored images.
    """
    if any(in_common(source, bank) for source in scored):
        key = "data.bank" if data.bank else "data.train"
        raise UserError(
            f"{key} is '{data.bank or data.train}', which contains images of data.val or data.test: use "
            f"--config.{key}=train, or --config.evals.names=top1 for evaluators that need no bank."
        )


def check_unseen(train: Source, scored: Source, split: str) -> None:
    """Raise `UserError` if a run trained on images that are scored; `split`: their key, 'test' or 'val'."""
    if seen := in_common(scored, train):
        raise UserError(
            f"The run trained on {seen:,} of the {len(scored):,} images of data.{split}, so their scores say "
            "nothing about other images: train another run, with --config.data.train=train for example."
        )


def unlabelled(source: Source) -> int | None:
    """The first image without a label; None if there is none.

    An image that cannot be read has no label either; it does not count, because it is skipped.
    """

    def readable(i):
        try:
            source[i]
        except BadImage:
            return False
        return True

    return next((i for i in np.flatnonzero(source.labels() < 0).tolist() if readable(i)), None)


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
