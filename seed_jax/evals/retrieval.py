"""Retrieval: whether the nearest images of the test set show the same class."""

import jax
import numpy as np

from seed_jax.analysis.nearest import nearest
from seed_jax.errors import UserError
from seed_jax.evals.features import check

AT = (1, 5, 10)


def recalled(
    features: np.ndarray, labels: np.ndarray, *, mesh: jax.sharding.Mesh, at: tuple[int, ...] = AT
) -> dict[int, np.ndarray]:
    """Which images have one of their class among the k others with the largest cosine similarity.

    The mean of these is recall@k of metric learning (Jegou et al. 2011; Oh Song et al. 2016, arXiv
    1511.06452, section 6.1): every test image is a query once, and all other test images are searched.

    Args:
      features: float `[M, D]`.
      labels: int `[M]`.
      mesh: from `parallel.make_mesh`.
      at: the values of k, each 1 to M - 1.

    Returns:
      Bool `[M]` for each k.

    Raises:
      UserError: there are too few images, a label is missing, or a feature is not finite.
    """
    features, labels = check(features, labels, "test")
    check_count(len(features), max(at))
    _, index = nearest(features, features, mesh=mesh, k=max(at), others=True)
    same = labels[index] == labels[:, None]
    return {k: same[:, :k].any(axis=1) for k in at}


def check_count(images: int, most: int = max(AT)) -> None:
    """Raise `UserError` if there are too few test images for recall at `most`."""
    if images <= most:
        raise UserError(
            f"Recall at {most} needs {most + 1} test images, and there are {images}: use more images."
        )
