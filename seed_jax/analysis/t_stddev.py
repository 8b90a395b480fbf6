"""T.stddev: how good an augmentation is for distillation, measured on the teacher alone.

"What Makes a 'Good' Data Augmentation in Knowledge Distillation" (Wang et al., NeurIPS 2022), as released in
MingSun-Tse/Good-DA-in-KD, helper/loops.py. There a chunk is five steps of 64 originals and their 64 augmented
images, 640 rows, at temperature 1. The value depends on the chunk, so that only values of one chunk size,
class count and dataset can be compared.
"""

from collections.abc import Iterable

import chex
import numpy as np
from scipy import special

from seed_jax.errors import UserError

CHUNK = 640


def t_stddev(probabilities: np.ndarray, *, chunk: int = CHUNK) -> float:
    """Standard deviation of the teacher's mean probability; lower predicts a better student.

    The rows are taken in order. Each full chunk is averaged to one vector; the unbiased standard deviation of
    these vectors per class is averaged over the classes. Rows that do not fill a chunk are left out.

    Args:
      probabilities: float `[N, C]`, the teacher's softmax output.
      chunk: rows per mean.

    Raises:
      AssertionError: `probabilities` is not float of rank 2, or `chunk` is not positive.
      UserError: the rows fill fewer than two chunks.

    >>> t_stddev(np.array([[1.0, 0.0], [0.0, 1.0], [1.0, 0.0], [1.0, 0.0]]), chunk=2)  # means .5, .5 and 1, 0
    0.3535533905932738
    """
    stream = ChunkMeans(chunk)
    stream.add(probabilities)
    if len(stream.means) < 2:
        rows = len(probabilities)
        raise UserError(f"t_stddev needs at least two chunks of {chunk} rows, and there are {rows} rows.")
    return stddev_of_means(stream.means)


def released_t_stddev(batches: Iterable[np.ndarray], *, per_chunk: int = 10) -> float:
    """T.stddev as the released code computes it: a chunk is `per_chunk` batches, whatever their size.

    The last batch of an epoch may be short; its chunk then has fewer rows than one of `t_stddev`. Batches
    that do not fill a chunk are left out.

    Args:
      batches: float `[B, C]` each, in the order of the steps: originals, then augmented, of each step.
      per_chunk: batches of a chunk; 5 if there are originals only.

    Raises:
      UserError: the batches fill fewer than two chunks.

    >>> released_t_stddev([np.array([[1.0, 0.0], [0.0, 1.0]]), np.array([[1.0, 0.0]])], per_chunk=1)
    0.3535533905932738
    """
    batches = [np.asarray(batch, np.float64) for batch in batches]
    chunks = len(batches) // per_chunk
    if chunks < 2:
        raise UserError(
            f"released_t_stddev needs at least two chunks of {per_chunk} batches, and there are "
            f"{len(batches)} batches."
        )
    return stddev_of_means(
        np.stack(
            [np.concatenate(batches[i * per_chunk : (i + 1) * per_chunk]).mean(axis=0) for i in range(chunks)]
        )
    )


class ChunkMeans:
    """The means of the full chunks of a stream of rows; the rows themselves are not kept.

    >>> stream = ChunkMeans(chunk=2)
    >>> for row in ([1.0, 0.0], [0.0, 1.0], [1.0, 0.0]):
    ...     stream.add(np.array([row]))
    >>> stream.means
    array([[0.5, 0.5]])
    """

    def __init__(self, chunk: int = CHUNK):
        chex.assert_scalar_positive(chunk, custom_message="chunk")
        self.chunk = chunk
        self._means: list[np.ndarray] = []
        self._sum, self._rows = 0.0, 0

    def add(self, rows: np.ndarray) -> None:
        """Take the next rows of the stream, float `[N, C]`."""
        rows = np.asarray(rows)
        chex.assert_rank(rows, 2, custom_message="probabilities")
        chex.assert_type(rows, float, custom_message="probabilities")
        while len(rows):
            taken, rows = np.split(rows, [self.chunk - self._rows])
            self._sum = self._sum + taken.astype(np.float64).sum(axis=0)
            self._rows += len(taken)
            if self._rows == self.chunk:
                self._means.append(self._sum / self.chunk)
                self._sum, self._rows = 0.0, 0

    @property
    def means(self) -> np.ndarray:
        """float64 `[K, C]`, or `[0, 0]` before the first full chunk."""
        return np.array(self._means) if self._means else np.zeros((0, 0))


def stddev_of_means(means: np.ndarray) -> float:
    """T.stddev of the means of chunks, float `[K, C]`: unbiased over chunks, averaged over the classes."""
    return float(np.std(means, axis=0, ddof=1).mean())


def t_stddev_interval(means: np.ndarray) -> tuple[float, float]:
    """95 % interval of T.stddev over infinitely many chunks, by a bootstrap over the chunks.

    Its centre is T.stddev divided by what a standard deviation of K normal numbers is on average, and its
    half-width, on a logarithmic scale, Student's t times the bootstrap's relative standard deviation.

    Args:
      means: float `[K, C]`, from `ChunkMeans`.

    Raises:
      ValueError: fewer than two chunks.
    """
    drawn = _bootstrap(means)
    count, value = len(means), stddev_of_means(means)
    half = special.stdtrit(count - 1, 0.975) * np.std(drawn) / value if value else 0.0
    of_normal = np.exp(special.gammaln(count / 2) - special.gammaln((count - 1) / 2))
    centre = value / (of_normal * np.sqrt(2 / (count - 1)))
    return float(centre * np.exp(-half)), float(centre * np.exp(half))


def t_stddev_difference(means: np.ndarray, others: np.ndarray) -> tuple[float, float, float]:
    """T.stddev of `means` less that of `others`, and the 95 % interval of this difference.

    The chunks of both are drawn together: two augmentations of the same batches have much in common.

    Args:
      means, others: float `[K, C]`, of the same batches.

    Raises:
      ValueError: fewer than two chunks, or not equally many.
    """
    if len(means) != len(others):
        raise ValueError(
            f"there are {len(means)} and {len(others)} chunks: measure both on the same batches."
        )
    difference = stddev_of_means(means) - stddev_of_means(others)
    drawn = _bootstrap(means) - _bootstrap(others)
    half = float(special.stdtrit(len(means) - 1, 0.975) * np.std(drawn))
    return difference, difference - half, difference + half


def _bootstrap(means: np.ndarray, resamples: int = 2000) -> np.ndarray:
    """T.stddev of chunks drawn again with replacement; the draws depend on the number of chunks alone."""
    if len(means) < 2:
        raise ValueError(f"an interval needs two chunks, and there are {len(means)}.")
    count = len(means)
    centred = means - means.mean(axis=0)
    draws = np.random.default_rng(0).multinomial(count, np.full(count, 1 / count), size=resamples)
    first, second = draws @ centred / count, draws @ np.square(centred) / count
    variance = np.maximum(second - np.square(first), 0) * count / (count - 1)
    return np.sqrt(variance).mean(axis=1)
