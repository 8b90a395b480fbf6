"""The probe during training: what the network is worth on the split that choices are made on."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np

from seed_jax.config import Config
from seed_jax.data.pipeline import eval_batches
from seed_jax.data.sources import Source, Subset
from seed_jax.errors import UserError
from seed_jax.evals.features import Extractor
from seed_jax.evals.knn import knn


class Abandoned(Exception):
    """The run was asked to stop during a probe; what it had measured is dropped."""


class OnlineProbe:
    """Accuracies of a network in eval mode on `queries`: `knn` of its features, `top1` of its classifier.

    `knn` is a majority vote among the `evals.k` nearest images of the bank, where `evals.knn` asks for it;
    `top1` is there when the network has logits of these classes.

    Args:
      network: anything that obeys the seam; `variables` are its variables or their shapes.
      bank, queries: labelled sources; of the bank, `evals.bank_size` images.

    Raises:
      UserError: the network lacks the feature that `evals.feature` names.
    """

    def __init__(self, network, variables, mesh, config: Config, bank: Source, queries: Source):
        e = config.evals
        names = feature_names(network, variables, config.data.image_size, queries.num_classes)
        if e.feature not in names:
            raise UserError(
                f"evals.feature is '{e.feature}', but the network gives {', '.join(sorted(names))}."
            )
        self._bank = evenly(bank, e.bank_size) if e.knn else None
        self._queries, self._mesh, self._config = queries, mesh, config
        keys = ([e.feature] if e.knn else []) + (["logits"] if "logits" in names else [])
        self._extract = Extractor(network, mesh, keys=tuple(keys)) if keys else None

    def __call__(self, variables, stop: Callable[[], bool] = lambda: False) -> dict[str, float]:
        """Accuracies in [0, 1] by name; none where there is nothing to measure.

        Raises:
          Abandoned: `stop()`, which is asked before each batch, was true.
        """
        if self._extract is None:
            return {}
        features, labels = self._features(variables, self._queries, stop)
        scores = {}
        if "logits" in features:
            scores["top1"] = float(np.mean(features["logits"].argmax(axis=1) == labels))
        if self._bank is not None:
            e = self._config.evals
            bank, bank_labels = self._features(variables, self._bank, stop)
            k = min(e.k, len(bank_labels))
            found = knn(bank[e.feature], bank_labels, features[e.feature], labels, mesh=self._mesh, k=(k,))
            scores["knn"] = found[k]
        return scores

    def _features(self, variables, source, stop):
        size, batch_size = self._config.data.image_size, self._config.evals.batch_size
        batches = _until(stop, eval_batches(source, size, batch_size))
        features, labels, _ = self._extract(variables, batches)
        return features, labels


def _until(stop, batches):
    for batch in batches:
        if stop():
            raise Abandoned
        yield batch


def feature_names(network, variables, image_size: int, num_classes: int) -> set[str]:
    """The entries of a network's features, found without computing; `logits` if of so many classes."""
    sample = jax.ShapeDtypeStruct((2, image_size, image_size, 3), jnp.float32)
    found = jax.eval_shape(lambda v, x: network.apply(v, x, False)[0], variables, sample)
    return {k for k, x in found.items() if k != "logits" or x.shape[-1] == num_classes}


def evenly(source: Source, count: int) -> Source:
    """`count` images of a source, evenly spaced; all of them if `count` is 0 or there are no more."""
    if not count or count >= len(source):
        return source
    return Subset(source, np.linspace(0, len(source) - 1, count).astype(np.int64))
