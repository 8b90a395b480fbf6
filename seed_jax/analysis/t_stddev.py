"""T.stddev: how good an augmentation is for distillation, measured on the teacher alone."""

import chex
import numpy as np

from seed_jax.errors import UserError


def t_stddev(probabilities: np.ndarray, *, chunk: int = 640) -> float:
    """Standard deviation of the teacher's mean probability; lower predicts a better student.

    The rows are taken in order. Each full chunk is averaged to one vector; the unbiased standard deviation of
    these vectors per class is averaged over the classes. Rows that do not fill a chunk are left out. The
    value depends on the chunk, so that only values of one chunk size, class count and dataset can be
    compared.

    From "What Makes a 'Good' Data Augmentation in Knowledge Distillation" (Wang et al., NeurIPS 2022), as
    released in MingSun-Tse/Good-DA-in-KD, helper/loops.py. There a chunk is five steps of 64 originals and
    their 64 augmented images, 640 rows, at temperature 1.

    Args:
      probabilities: float `[N, C]`, the teacher's softmax output.
      chunk: rows per mean.

    Raises:
      AssertionError: `probabilities` is not float of rank 2, or `chunk` is not positive.
      UserError: the rows fill fewer than two chunks.

    >>> t_stddev(np.array([[1.0, 0.0], [0.0, 1.0], [1.0, 0.0], [1.0, 0.0]]), chunk=2)  # means .5, .5 and 1, 0
    0.3535533905932738
    """
    probabilities = np.asarray(probabilities)
    chex.assert_rank(probabilities, 2, custom_message="probabilities")
    chex.assert_type(probabilities, float, custom_message="probabilities")
    chex.assert_scalar_positive(chunk, custom_message="chunk")
    probabilities = probabilities.astype(np.float64)
    count, classes = probabilities.shape
    chunks = count // chunk
    if chunks < 2:
        raise UserError(f"t_stddev needs at least two chunks of {chunk} rows, and there are {count} rows.")
    means = probabilities[: chunks * chunk].reshape(chunks, chunk, classes).mean(axis=1)
    return float(means.std(axis=0, ddof=1).mean())
