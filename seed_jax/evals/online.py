"""The probe during training: kNN of the validation split among a labelled bank."""

import numpy as np

from seed_jax.data.pipeline import eval_batches
from seed_jax.data.sources import Source, Subset
from seed_jax.evals.features import Extractor
from seed_jax.evals.knn import knn


class OnlineKnn:
    """kNN accuracy of a network's frozen features, majority vote, on the split that choices are made on.

    Args:
      network: backbone or whole network; anything that gives `feature`.
      bank, queries: labelled sources.
      bank_size: so many images of the bank, evenly spaced; 0 for all.
    """

    def __init__(
        self, network, mesh, bank: Source, queries: Source, *, size, batch_size, k, feature, bank_size
    ):
        if bank_size and bank_size < len(bank):
            bank = Subset(bank, np.linspace(0, len(bank) - 1, bank_size).astype(np.int64))
        self._extract = Extractor(network, mesh, keys=(feature,))
        self._bank, self._queries, self._mesh = bank, queries, mesh
        self._size, self._batch_size = size, min(batch_size, max(len(bank), len(queries)))
        self._k, self._feature = min(k, len(bank)), feature

    def __call__(self, variables) -> float:
        """Accuracy in [0, 1]."""
        bank, bank_labels = self._features(variables, self._bank)
        queries, query_labels = self._features(variables, self._queries)
        return knn(bank, bank_labels, queries, query_labels, mesh=self._mesh, k=(self._k,))[self._k]

    def _features(self, variables, source):
        features, labels, _ = self._extract(variables, eval_batches(source, self._size, self._batch_size))
        return features[self._feature], labels
