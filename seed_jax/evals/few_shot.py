"""Classification from a few labelled images of each class, by the nearest class mean."""

import numpy as np

from seed_jax.errors import UserError
from seed_jax.evals.features import check, unit

WAYS, SHOTS, QUERIES, EPISODES = 5, (1, 5), 15, 600
PER_CLASS, DRAWS = (1, 5, 10), 10


def episodes(
    features: np.ndarray,
    labels: np.ndarray,
    *,
    shots: int,
    ways: int = WAYS,
    queries: int = QUERIES,
    count: int = EPISODES,
    seed: int = 0,
) -> np.ndarray:
    """The accuracy of each of `count` random tasks of a few classes.

    A task draws `ways` classes, and from each `shots` labelled images and `queries` others, as prototypical
    networks are tested (Snell et al. 2017, arXiv 1703.05175). A query has the class whose mean is nearest.
    The features and distances are SimpleShot's L2N (Wang et al. 2019, arXiv 1911.04623): unit length before
    the mean, then Euclidean.

    Args:
      features: float `[M, D]`.
      labels: int `[M]`.
      seed: draws the tasks; they are the same for all networks.

    Returns:
      Float64 `[count]` in [0, 1].

    Raises:
      UserError: fewer than `ways` classes have `shots + queries` images.
    """
    features, labels = check(features, labels, "test")
    x = unit(features)
    rows = [np.flatnonzero(labels == label) for label in np.unique(labels)]
    check_tasks(labels, shots, ways, queries)
    rows = [own for own in rows if len(own) >= shots + queries]
    rng = np.random.default_rng(seed)
    right = np.empty(count)
    for task in range(count):
        chosen = rng.choice(len(rows), ways, replace=False)
        drawn = x[np.stack([rng.choice(rows[way], shots + queries, replace=False) for way in chosen])]
        means, asked = drawn[:, :shots].mean(axis=1), drawn[:, shots:]
        right[task] = np.mean(_nearest(asked, means) == np.arange(ways)[:, None])
    return right


def per_class(
    bank: np.ndarray,
    bank_labels: np.ndarray,
    queries: np.ndarray,
    query_labels: np.ndarray,
    *,
    count: int,
    draws: int = DRAWS,
    seed: int = 0,
) -> np.ndarray:
    """How often each query is nearest to the mean of `count` images of its own class, among all classes.

    Unit features and Euclidean distances, as in `episodes`.

    Args:
      bank, queries: float `[N, D]` and `[M, D]`.
      bank_labels, query_labels: int `[N]` and `[M]`.
      count: labelled images of each class.
      draws: of these images.
      seed: draws them; they are the same for all networks.

    Returns:
      Float64 `[M]` in [0, 1], the mean over the draws.

    Raises:
      UserError: a class of the bank has fewer than `count` images.
    """
    bank, bank_labels = check(bank, bank_labels, "bank")
    queries, query_labels = check(queries, query_labels, "query")
    check_bank(bank_labels, count)
    classes = np.unique(bank_labels)
    asked = unit(queries)
    rows = [np.flatnonzero(bank_labels == label) for label in classes]
    rng = np.random.default_rng(seed)
    right = np.zeros(len(asked))
    for _ in range(draws):
        drawn = [unit(bank[rng.choice(own, count, replace=False)]) for own in rows]
        means = np.stack([x.mean(axis=0) for x in drawn])
        right += classes[_nearest(asked, means)] == query_labels
    return right / draws


def check_tasks(labels: np.ndarray, shots: int, ways: int = WAYS, queries: int = QUERIES) -> None:
    """Raise `UserError` if fewer than `ways` classes have `shots + queries` images."""
    large = np.count_nonzero(np.unique(labels, return_counts=True)[1] >= shots + queries)
    if large < ways:
        raise UserError(
            f"Few-shot tasks need {ways} classes with {shots} + {queries} test images each, and {large} have "
            "as many: use more images."
        )


def check_bank(labels: np.ndarray, count: int) -> None:
    """Raise `UserError` if a class has fewer than `count` images."""
    classes, sizes = np.unique(labels, return_counts=True)
    if sizes.min() < count:
        raise UserError(
            f"Class {classes[sizes.argmin()]} has {sizes.min()} images to learn from, fewer than the {count} "
            "of few-shot classification: use more images."
        )


def _nearest(x, means):
    """The index of the nearest of `means` `[C, D]` for each `x` `[..., D]`."""
    return (2 * x @ means.T - np.square(means).sum(axis=1)).argmax(axis=-1)
