"""Exact k-nearest-neighbour classification with frozen features."""

import functools

import jax
import numpy as np

from seed_jax.analysis.nearest import nearest
from seed_jax.evals.base import SharedFeatures
from seed_jax.evals.features import check

_VOTERS = 1024  # queries whose votes are counted at a time


class Knn:
    """The evaluator `knn`: `correct` with the feature `evals.feature` and `evals.k` neighbours.

    A bank of fewer than `evals.k` images is used whole for each query.
    """

    needs_bank = True
    needs_labels = True

    def __init__(self, features: SharedFeatures, evals):
        self._features, self._feature, self._k = features, evals.feature, evals.k
        for split in ("bank", "queries"):
            features.want(split, evals.feature)

    def run(self, variables) -> dict[str, np.ndarray]:
        """`knn`: bool `[M]`, true where a query is classified correctly."""
        queries, query_labels = self._features.get("queries", variables)
        bank, bank_labels = self._features.get("bank", variables)
        right = correct(
            bank[self._feature],
            bank_labels,
            queries[self._feature],
            query_labels,
            mesh=self._features.mesh,
            k=min(self._k, len(bank_labels)),
        )
        return {"knn": right}


def correct(
    bank: np.ndarray,
    bank_labels: np.ndarray,
    queries: np.ndarray,
    query_labels: np.ndarray,
    *,
    mesh: jax.sharding.Mesh,
    k: int,
    temperature: float | None = None,
    query_chunk: int = 1024,
    bank_chunk: int = 16384,
) -> np.ndarray:
    """Which queries the vote of the `k` bank examples with the largest cosine similarity gets right.

    In a majority vote every neighbour has one vote, as SEED (arXiv 2101.04731) reports it with k = 10. In a
    weighted vote a neighbour of similarity s has exp(s / temperature) votes: InstDisc (Wu et al. 2018, arXiv
    1805.01978, section 3.4; k = 200) and DINO (facebookresearch/dino, eval_knn.py; k = 20) with temperature
    0.07. When classes have equal votes, the class of the nearest neighbour among them wins; DINO's sum of
    votes is the same up to rounding. When bank examples are equally similar, the earlier one is taken as
    nearer.

    >>> bank, queries = np.array([[1.0, 0.0], [0.0, 1.0], [0.1, 1.0]]), np.array([[2.0, 0.1], [0.1, 3.0]])
    >>> from seed_jax import parallel
    >>> mesh = parallel.make_mesh()
    >>> correct(bank, [0, 1, 1], queries, [0, 1], mesh=mesh, k=1)
    array([ True,  True])
    >>> correct(bank, [0, 1, 1], queries, [0, 1], mesh=mesh, k=3)  # class 1 outvotes class 0
    array([False,  True])
    >>> correct(bank, [0, 1, 1], queries, [0, 1], mesh=mesh, k=3, temperature=0.07)  # but is far away
    array([ True,  True])

    Args:
      bank: float `[N, D]`; normalised to length 1 here, as the queries are.
      bank_labels: int `[N]`.
      queries: float `[M, D]`.
      query_labels: int `[M]`.
      mesh: from `parallel.make_mesh`.
      k: 1 to N.
      temperature: of the weighted vote, above 0; None for the majority vote.
      query_chunk, bank_chunk: as for `nearest`.

    Returns:
      Bool `[M]`.

    Raises:
      UserError: `k` is not in 1..N, bank or queries are empty, a label is missing, or a feature is
        not finite.
    """
    bank, bank_labels = check(bank, bank_labels, "bank")
    queries, query_labels = check(queries, query_labels, "query")
    similarity, index = nearest(bank, queries, mesh=mesh, k=k, query_chunk=query_chunk, bank_chunk=bank_chunk)
    weights = _even if temperature is None else functools.partial(_weights, temperature=temperature)
    return np.concatenate(
        [
            _winners(weights(similarity[rows]), bank_labels[index[rows]]) == query_labels[rows]
            for rows in (slice(start, start + _VOTERS) for start in range(0, len(queries), _VOTERS))
        ]
    )


def _even(similarity):
    return np.ones(similarity.shape, np.float64)


def _weights(similarity, temperature):
    # Divided by the weight of the nearest, which changes no winner and cannot overflow.
    return np.exp((similarity - similarity[:, :1]).astype(np.float64) / temperature)


def _winners(weights, labels):
    """The class with the most votes, `[Q]`; weights and labels of neighbours are `[Q, k]`, nearest first."""
    votes = ((labels[:, :, None] == labels[:, None, :]) * weights[:, None, :]).sum(axis=2)
    # Every neighbour carries the votes of its class; argmax takes the first of the largest.
    return np.take_along_axis(labels, votes.argmax(axis=1)[:, None], axis=1)[:, 0]
