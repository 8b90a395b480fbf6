"""How far a network imitates its teacher, and how many directions its features use; needs no labels."""

import numpy as np

from seed_jax.evals.base import SharedFeatures
from seed_jax.evals.features import check, unit
from seed_jax.report.metrics import MOST_IMAGES

K = 10  # as SEED's kNN
IMAGES = MOST_IMAGES["neighbours"]  # of which all pairs are compared


class Neighbours:
    """The evaluator `neighbours`, on at most 512 evenly spaced queries.

    The network's own feature is `evals.feature`; the teacher's is `embedding`, which the losses see. Without
    a teacher there is only `effective_rank`.
    """

    needs_bank = False
    needs_labels = False

    def __init__(self, features: SharedFeatures, evals):
        self._features, self._feature = features, evals.feature
        self._embeddings = None  # the teacher's, float32 [M, D]: they never change
        features.want("queries", evals.feature)
        self._aligned = False
        if features.teacher is not None:
            features.teacher.want("queries", "embedding")
            own, its = (entries.get("embedding") for entries in (features.entries, features.teacher.entries))
            self._aligned = own is not None and own.shape == its.shape
        if self._aligned:
            features.want("queries", "embedding")

    def run(self, variables) -> dict[str, float | np.ndarray]:
        """Scores of M images.

        `neighbours`: for each image `shared`, float `[M]` in [0, 1]; left out for fewer than 12 images, whose
        neighbours are all others.
        `alignment`: cosine between the embeddings of network and teacher, float `[M]` in [-1, 1]; left out
        where their widths differ. It is SEED's `teacher_cosine` in eval mode. (Wang & Isola 2020, arXiv
        2005.10242, compare two views of an image by one network instead.)
        `effective_rank`: of the network's feature, 1 to the smaller of M and its width.

        Raises:
          UserError: a feature is not finite.
        """
        own = _queries(self._features.get("queries", variables))
        scores: dict[str, float | np.ndarray] = {"effective_rank": effective_rank(own[self._feature])}
        if self._features.teacher is None:
            return scores
        if self._embeddings is None:
            self._embeddings = _queries(self._features.teacher.get("queries"))["embedding"]
        if len(self._embeddings) > K + 1:
            scores["neighbours"] = shared(own[self._feature], self._embeddings, K)
        if self._aligned:
            scores["alignment"] = (unit(own["embedding"]) * unit(self._embeddings)).sum(axis=1)
        return scores


def shared(features: np.ndarray, of_teacher: np.ndarray, k: int) -> np.ndarray:
    """The share of each image's `k` nearest neighbours in the teacher that are its nearest in the network.

    Nearest is the largest cosine, among the other images; of equals the earlier one is nearer. Random
    features share k / (M - 1) on average. (Mutual nearest neighbours, Huh et al. 2024, arXiv 2405.07987.)

    >>> line = np.array([[1.0, 0.0], [1.0, 0.1], [1.0, 1.0], [0.9, 1.0]])
    >>> shared(line, line[[1, 0, 2, 3]], 1), shared(line, line[[0, 2, 1, 3]], 1)
    (array([1., 1., 1., 1.]), array([0., 0., 0., 0.]))

    Args:
      features: float `[M, D]` of the network.
      of_teacher: float `[M, E]` of the same images.
      k: 1 to M - 1.

    Returns:
      Float64 `[M]` in [0, 1].
    """
    own, its = (_nearest(x, k) for x in (features, of_teacher))
    return (own[:, :, None] == its[:, None, :]).any(axis=1).mean(axis=1)


def effective_rank(features: np.ndarray) -> float:
    """exp of the entropy of the singular values, divided by their sum (Roy & Vetterli 2007, EUSIPCO).

    The features `[M, D]` are neither centred nor normalised, as in RankMe (Garrido et al. 2023, arXiv
    2210.02885). 0 if all of them are 0.

    >>> round(effective_rank(np.eye(3)), 6), round(effective_rank(np.ones((3, 2))), 6)
    (3.0, 1.0)
    """
    values = np.linalg.svd(np.asarray(features, np.float64), compute_uv=False)
    if not values.any():
        return 0.0
    share = values / values.sum()
    share = share[share > 0]
    return float(np.exp(-(share * np.log(share)).sum()))


def _nearest(x, k):
    """Indices of the `k` nearest other rows, int `[M, k]`."""
    x = unit(x)
    similarity = x @ x.T
    np.fill_diagonal(similarity, -np.inf)
    return np.argsort(-similarity, axis=1, kind="stable")[:, :k]


def _queries(found) -> dict[str, np.ndarray]:
    """Finite entries of at most `IMAGES` evenly spaced queries."""
    entries, labels = found
    rows = np.linspace(0, len(labels) - 1, min(IMAGES, len(labels))).astype(np.int64)
    unlabelled = np.zeros(len(rows), np.int32)
    return {name: check(x[rows], unlabelled, "query")[0] for name, x in entries.items() if x.ndim == 2}
