"""The contract of an evaluator, and the features that the evaluators of one probe share."""

import contextlib
import functools
from collections.abc import Callable, Mapping
from typing import Protocol

import jax
import jax.numpy as jnp
import numpy as np

from seed_jax.data.pipeline import eval_batches
from seed_jax.data.sources import Source
from seed_jax.errors import UserError
from seed_jax.evals.features import Extractor


class Abandoned(Exception):
    """The run has to stop during a probe, so the probe has no scores."""


class SharedFeatures:
    """The features of one network on named splits. A split passes through the network once per probe.

    Evaluators say in their constructors which entries they need (`want`) and fetch them in `run` (`get`).

    Args:
      network: has `apply(variables, x, train) -> (features, model_state)`.
      variables: of the network, or their shapes; with shapes, pass variables to `get`.
      mesh: from `parallel.make_mesh`.
      config: of the run; `evals.batch_size`, `evals.feature` and how `data` prepares an image are read.
      splits: sources by name. Scores are measured on 'queries'; 'bank' is the split that an evaluator may
        learn from or search. Labels are -1 in sources without any.
      teacher: the features of the teacher on the same splits; None without one.

    Attributes:
      entries: shape and dtype of each entry of the features, for a batch of 2.
      num_classes: of the queries.

    Raises:
      UserError: `evals.feature` is no vector `[B, D]` among the features of the network.
    """

    def __init__(self, network, variables, mesh, config, splits: Mapping[str, Source], teacher=None):
        self._network, self._own, self.mesh, self.teacher = network, variables, mesh, teacher
        self._data, self._batch_size = config.data, config.evals.batch_size
        self._splits = dict(splits)
        self.num_classes = splits["queries"].num_classes
        size = config.data.image_size
        sample = jax.ShapeDtypeStruct((2, size, size, 3), jnp.float32)
        self.entries = jax.eval_shape(lambda v, x: network.apply(v, x, False)[0], variables, sample)
        vectors = [name for name, entry in self.entries.items() if len(entry.shape) == 2]
        if config.evals.feature not in vectors:
            raise UserError(
                f"evals.feature is '{config.evals.feature}', but the vectors that the network returns are "
                f"{', '.join(sorted(vectors))}: use --config.evals.feature with one of these."
            )
        self._wanted = {split: set() for split in splits}
        self._stop = lambda: False
        self._variables, self._extracted = None, {}

    def want(self, split: str, *entries: str) -> None:
        """Make `get(split, …)` return these entries too. Call it before the first `get`."""
        self._wanted[split].update(entries)

    def get(self, split: str, variables=None) -> tuple[dict[str, np.ndarray], np.ndarray]:
        """The wanted entries of a split, float32 `[N, ...]` each, and its labels, int32 `[N]`.

        The result is kept until the next call with other variables, or until `stopped_by` ends.

        Args:
          variables: of the network; None for those of the constructor.

        Raises:
          Abandoned: see `stopped_by`.
          UserError: the split is empty.
        """
        variables = self._own if variables is None else variables
        if variables is not self._variables:
            self._variables, self._extracted = variables, {}
        if split not in self._extracted:
            batches = self._batches(self._splits[split])
            features, labels, _ = self._extractor(variables, batches, keys=self._wanted[split])
            self._extracted[split] = features, labels
        return self._extracted[split]

    @contextlib.contextmanager
    def stopped_by(self, stop: Callable[[], bool]):
        """Within this context `get` asks `stop()` before each batch and raises `Abandoned` if it is true.

        It is for the teacher's features too. On leaving, all features are dropped: a bank may be large, and
        training needs the memory.
        """
        self._stop = stop
        try:
            with contextlib.nullcontext() if self.teacher is None else self.teacher.stopped_by(stop):
                yield
        finally:
            self._stop = lambda: False
            self._variables, self._extracted = None, {}

    @functools.cached_property
    def _extractor(self) -> Extractor:
        # One program for all splits, though some need fewer entries: the forward is compiled once.
        return Extractor(self._network, self.mesh, keys=tuple(sorted(set().union(*self._wanted.values()))))

    def _batches(self, source):
        d = self._data
        for batch in eval_batches(
            source, d.image_size, self._batch_size, resize=d.resize, background=d.background
        ):
            if self._stop():
                raise Abandoned
            yield batch


class Evaluator(Protocol):
    """Computes scores of one network, whose variables change over a run.

    The constructor calls `features.want` for what `run` will fetch. An evaluator whose features the network
    lacks must not raise: its `run` returns no scores.

    Attributes:
      needs_bank: whether it reads the split 'bank', whose images then must have labels and must not be those
        that scores are measured on.
      needs_labels: whether it needs labels of the queries. On data without labels, probes run the evaluators
        that need none. The final evaluation, which reports accuracies, runs those that need labels.

    Args:
      features: of the network that is scored, shared with the other evaluators of the probe.
      evals: the section `evals` of the config.
    """

    needs_bank: bool
    needs_labels: bool

    def __init__(self, features: SharedFeatures, evals): ...

    def run(self, variables) -> dict[str, float | np.ndarray]:
        """Scores by name; the names must differ from those of other evaluators.

        A value is a finite number, or a bool or float array `[M]` with a finite number for each query: the
        score is then its mean, and comparisons resample the queries. More is better. Values must be in [0, 1]
        if the evaluator needs labels, because the final evaluation reports percent, or if the name of the
        score has a word of `report.metrics.SHARES`: such a score is shown in percent, with an interval. If it
        is of fewer images than the probe has, `report.metrics.MOST_IMAGES` must say of how many.
        """
        ...
