"""Losses of features: FitNet's regression, and relations between samples (SP, PKT, RKD, SSKD, CRD).

Except for CRD and `similarity_rows`, the teacher is a constant: only the student's features receive a
gradient. Widths of student and teacher may differ where samples are compared with one another. Everything is
float32, matrix products at the highest precision.
"""

import chex
import jax
import jax.numpy as jnp
from jax import lax

from seed_jax.losses.contrastive import check_rows, check_temperatures, info_nce


def fitnet_loss(student, teacher):
    """Mean squared difference of two feature maps (FitNets, arXiv 1412.6550, equation 3).

    The regressor, a convolution in the paper, is a part of the network: `student` is its output. The mean
    over the batch is the loss of HobbitLong/RepDistiller, distiller_zoo/FitNet.py, whose weight is 100. The
    paper has half the sum instead of the mean.

    Args:
      student: float `[B, ...]`. Only this argument receives a gradient.
      teacher: float, of the same shape.

    Returns:
      float32 `[B]`, a loss for each sample.

    Raises:
      AssertionError: the shape or dtype of an argument is not the above; it names the argument. Checked while
        tracing.

    >>> np.asarray(fitnet_loss(jnp.array([[1.0, 0.0], [0.0, 2.0]]), jnp.zeros((2, 2))))
    array([0.5, 2. ], dtype=float32)
    """
    chex.assert_shape(teacher, student.shape, custom_message="teacher, against the shape of student")
    student, teacher = _pair(student, teacher)
    return jnp.square(student - teacher).mean(axis=1)


def sp_loss(student, teacher):
    """Squared distance of two similarity matrices, / B^2 (Tung and Mori, arXiv 1907.09682, equations 2 to 4).

    G holds the inner products within the batch, each row scaled to length 1: ||G_t - G_s||^2 / B^2, as in
    HobbitLong/RepDistiller, distiller_zoo/SP.py, whose weight is 3000.

    Args:
      student: float `[B, ...]`, the last feature map in the paper. Only this argument receives a gradient.
      teacher: float `[B, ...]`.

    Returns:
      float32 scalar. It compares samples: a micro-batch has another loss.

    Raises:
      AssertionError: the shape or dtype of an argument is not the above; it names the argument. Checked while
        tracing.

    The student's samples are orthogonal (rows 1 0 and 0 1), the teacher's equal (rows of 1 / sqrt 2):

    >>> round(float(sp_loss(jnp.eye(2), jnp.ones((2, 1)))), 4)
    0.2929
    """
    student, teacher = _pair(student, teacher)
    difference = _unit(_products(teacher, teacher)) - _unit(_products(student, student))
    return jnp.square(difference).sum() / difference.size


def pkt_loss(student, teacher):
    """KL of the distributions over a batch that cosines make (Passalis and Tefas, arXiv 1803.10837).

    (1 + cosine) / 2 of every two samples, each row divided by its sum. The sum of the KLs is divided by B^2,
    and 1e-7 is added to both probabilities in the logarithm, as in HobbitLong/RepDistiller,
    distiller_zoo/PKT.py, whose weight is 30000. We differ for features that are all 0: their cosines are 0
    without a gradient, which is NaN there.

    Args:
      student: float `[B, ...]`, the pooled features in the paper. Only this argument receives a gradient.
      teacher: float `[B, ...]`.

    Returns:
      float32 scalar. It compares samples: a micro-batch has another loss.

    Raises:
      AssertionError: the shape or dtype of an argument is not the above; it names the argument. Checked while
        tracing.

    The student's samples are orthogonal (rows 2/3 1/3 and 1/3 2/3), the teacher's equal (rows of 1/2):

    >>> round(float(pkt_loss(jnp.eye(2), jnp.ones((2, 1)))), 4)
    0.0294
    """
    student, teacher = _pair(student, teacher)

    def affinities(x):
        products = 1 + _products(_unit(x), _unit(x))
        return products / products.sum(axis=1, keepdims=True)

    p, q = affinities(teacher), affinities(student)
    # KL = sum p log(p / q) + q - p, where each term is at least 0, so that rounding errors do not add up.
    terms = (q - p) - p * jnp.log1p((q - p) / (p + 1e-7))
    return terms.mean()


def rkd_loss(student, teacher, *, distance: float = 25.0, angle: float = 50.0):
    """distance * (distances of pairs) + angle * (cosines of angles of triples) (arXiv 1904.05068).

    Smooth-L1 of student and teacher: of the distances, each divided by the mean distance of two different
    samples, averaged over B^2 pairs; and of the cosines of the angles at each sample, averaged over B^3
    triples. Both averages include pairs of a sample with itself, as in HobbitLong/RepDistiller,
    distiller_zoo/RKD.py. Two equal samples are 1e-6 apart there and here, without a gradient, and have no
    angle. We take distances from differences, since inner products lose those of close samples in float32.
    Memory: B * B * (D + B) floats.

    Args:
      student: float `[B, ...]`, the pooled features in the paper. Only this argument receives a gradient.
      teacher: float `[B, ...]`.
      distance: weight of the distances.
      angle: weight of the angles.

    Returns:
      float32 scalar; 0 for a batch of one. It compares samples: a micro-batch has another loss.

    Raises:
      AssertionError: the shape or dtype of an argument is not the above; it names the argument. Checked while
        tracing.

    Scale does not matter. Three points on a line are not an equilateral triangle:

    >>> triangle = jnp.array([[0.0, 0.0], [2.0, 0.0], [1.0, 3**0.5]])
    >>> round(float(rkd_loss(5 * triangle, triangle)), 4)
    0.0
    >>> round(float(rkd_loss(jnp.array([[0.0], [1.0], [2.0]]), triangle)), 3)
    5.671
    """
    student, teacher = _pair(student, teacher)
    (distances_s, angles_s), (distances_t, angles_t) = _geometry(student), _geometry(teacher)
    return (
        distance * _smooth_l1(distances_s - distances_t).mean()
        + angle * _smooth_l1(angles_s - angles_t).mean()
    )


def similarity_rows(views, originals):
    """Cosines of each view with every original: the scores that SSKD's `sskd_loss` takes.

    As in xuguodong03/SSKD, student.py, where `views` are rotated by 90, 180 and 270 degrees and the features
    come from a projection head. Views that are all 0 have cosines of 0.

    Args:
      views: float `[N, D]`. Both arguments receive a gradient.
      originals: float `[M, D]`.

    Returns:
      float32 `[N, M]`.

    Raises:
      AssertionError: the shape or dtype of an argument is not the above; it names the argument. Checked while
        tracing.

    >>> np.asarray(similarity_rows(jnp.array([[3.0, 0.0], [3.0, 4.0]]), jnp.eye(2)))
    array([[1. , 0. ],
           [0.6, 0.8]], dtype=float32)
    """
    for name, x in (("views", views), ("originals", originals)):
        chex.assert_rank(x, 2, custom_message=name)
        chex.assert_type(x, float, custom_message=name)
    chex.assert_axis_dimension(originals, 1, views.shape[1], custom_message="originals, against views")
    return _products(*(_unit(x.astype(jnp.float32)) for x in (views, originals)))


def crd_queue_loss(student, teacher, student_queue, teacher_queue, valid=None, *, temperature: float = 0.07):
    """CRD (arXiv 1910.10699) with queues of past embeddings: InfoNCE both ways.

    The student's embedding finds its teacher's among the teacher's past ones, and the teacher's, which has a
    projection to learn, finds the student's among the student's past ones. It streams over the queues
    (`readout.py`), with the softmax of `info_nce` in place of the paper's classifier (`crd_loss`), and needs
    neither banks of the size of the data nor labels: a queue may hold samples of the same class.

    Args:
      student: `[N, D]` rows of length 1. It receives the gradient of its own InfoNCE only.
      teacher: `[N, D]` rows of length 1, likewise.
      student_queue: `[S, B, D]` or `[K, D]` rows of length 1.
      teacher_queue: of the same shape.
      valid: bool `[S]`, `[S, B]` or `[K]`, which entries of both queues count; None if all do.
      temperature: of both softmaxes.

    Returns:
      float32 `[N]`, a loss for each sample.

    Raises:
      AssertionError: the shape or dtype of an argument is not the above, or the temperature is not above 0;
        it names the argument. Checked while tracing.

    Both find their positive among three; log(1 + 2 / e^(1 / 0.2)) each:

    >>> rows, queue = jnp.eye(1, 3), jnp.eye(3)[1:]
    >>> np.asarray(crd_queue_loss(rows, rows, queue, queue, temperature=0.2)).round(4)
    array([0.0268], dtype=float32)
    """
    check_rows(student_queue, valid, student=student, teacher=teacher)
    chex.assert_shape(
        teacher_queue, student_queue.shape, custom_message="teacher_queue, against the shape of student_queue"
    )
    return info_nce(student, teacher, teacher_queue, valid, temperature=temperature) + info_nce(
        teacher, student, student_queue, valid, temperature=temperature
    )


def crd_loss(
    student, teacher, student_rows, teacher_rows, constants, *, samples: int, temperature: float = 0.07
):
    """CRD as published: a classifier tells a positive from K negatives (arXiv 1910.10699, equation 18).

    For each of two anchors, student and teacher: -log h(positive) - sum over K of log(1 - h(negative)), where
    h = P / (P + K / M) and P = exp(anchor . row / temperature) / Z. The rows come from two banks of M
    embeddings, which the caller keeps (momentum 0.5, scaled to length 1 again) and gathers: that of the
    teacher for the student's anchors and the other way round. The mean over the batch is the loss of
    HobbitLong/RepDistiller, crd/criterion.py, whose weight is 0.8. It adds 1e-7 to P + K / M, which makes its
    loss greater by up to 2e-7 * M.

    Args:
      student: float `[B, D]` rows of length 1. It receives a gradient.
      teacher: float `[B, D]` rows of length 1, the teacher's projection. It receives a gradient.
      student_rows: float `[B, K + 1, D]`, rows of the student's bank: the positive, then K negatives of other
        classes (16384 in the paper: B * 16385 * 128 floats). No gradient.
      teacher_rows: likewise, of the teacher's bank.
      constants: Z of the student's and of the teacher's anchors, scalars: see `crd_constant`.
      samples: M, the number of training images.
      temperature: of the exponents.

    Returns:
      float32 `[B]`, a loss for each sample: both anchors' together.

    Raises:
      AssertionError: the shape or dtype of an argument is not the above, or the temperature or `samples` is
        not above 0; it names the argument. Checked while tracing.

    The positive is found, and the one negative is orthogonal to it; Z is such that P is 1 for the negative:

    >>> anchor, rows = jnp.eye(1, 2), jnp.eye(2)[None]
    >>> np.asarray(crd_loss(anchor, anchor, rows, rows, (1.0, 1.0), samples=1, temperature=1.0)).round(4)
    array([2.0128], dtype=float32)
    """
    check_temperatures(temperature=temperature, samples=samples)
    student_constant, teacher_constant = constants

    def one_way(constant, **anchor_and_rows):
        exponents = _exponents(temperature, **anchor_and_rows)
        negatives = exponents.shape[1] - 1
        # log of P / (K / M); log h and log(1 - h) are its log-sigmoids
        odds = exponents - jnp.log(constant) - jnp.log(negatives / samples)
        return -jax.nn.log_sigmoid(odds[:, 0]) - jax.nn.log_sigmoid(-odds[:, 1:]).sum(axis=1)

    return one_way(student_constant, student=student, teacher_rows=teacher_rows) + one_way(
        teacher_constant, teacher=teacher, student_rows=student_rows
    )


def crd_constant(anchor, rows, *, samples: int, temperature: float = 0.07):
    """Z of `crd_loss` for one kind of anchor: M times the mean exponential, from the first batch on.

    HobbitLong/RepDistiller, crd/memory.py, computes it once and keeps it.

    Args:
      anchor: float `[B, D]` rows of length 1.
      rows: float `[B, K + 1, D]`, gathered from the other network's bank.
      samples: M, the number of training images.
      temperature: of the exponents.

    Returns:
      float32 scalar.

    Raises:
      AssertionError: as `crd_loss`.

    >>> float(crd_constant(jnp.eye(1, 2), jnp.zeros((1, 5, 2)), samples=100))
    100.0
    """
    check_temperatures(temperature=temperature, samples=samples)
    return jnp.exp(_exponents(temperature, anchor=anchor, rows=rows)).mean() * samples


def _exponents(temperature, **anchor_and_rows):
    """anchor . row / temperature, `[B, K + 1]`, of two arguments by name."""
    (name, anchor), (rows_name, rows) = anchor_and_rows.items()
    chex.assert_rank(anchor, 2, custom_message=name)
    chex.assert_shape(
        rows, (len(anchor), None, anchor.shape[1]), custom_message=f"{rows_name}, against {name}"
    )
    for key, x in anchor_and_rows.items():
        chex.assert_type(x, float, custom_message=key)
    assert rows.shape[1] > 1, f"{rows_name} has shape {rows.shape}: give a positive and at least 1 negative."
    anchor, rows = anchor.astype(jnp.float32), lax.stop_gradient(rows).astype(jnp.float32)
    return jnp.einsum("bd,bkd->bk", anchor, rows, precision=lax.Precision.HIGHEST) / temperature


def _pair(student, teacher):
    """Both as float32 `[B, D]`, the teacher's without a gradient."""
    for name, x in (("student", student), ("teacher", teacher)):
        chex.assert_type(x, float, custom_message=name)
        assert x.ndim >= 2, f"{name} has shape {x.shape}: features are [B, ...]."
    chex.assert_axis_dimension(teacher, 0, len(student), custom_message="teacher, against student")
    return tuple(x.reshape(len(x), -1).astype(jnp.float32) for x in (student, lax.stop_gradient(teacher)))


def _products(a, b):
    return jnp.dot(a, b.T, precision=lax.Precision.HIGHEST)


def _unit(x):
    """Vectors of length 1 along the last axis; those that are 0 stay 0 and receive no gradient."""
    squares = jnp.square(x).sum(axis=-1, keepdims=True)
    points = squares > 1e-24
    return jnp.where(points, x / jnp.sqrt(jnp.where(points, squares, 1)), 0)


def _geometry(x):
    """Distances in units of their mean `[B, B]`, and cosines of the angles at each sample `[B, B, B]`."""
    differences = x[None] - x[:, None]  # [i, j]: from i to j
    squares = jnp.square(differences).sum(axis=2)
    apart = squares > 1e-12
    lengths = jnp.where(apart, jnp.sqrt(jnp.where(apart, squares, 1)), 1e-6)
    lengths = jnp.where(jnp.eye(len(x), dtype=bool), 0, lengths)
    mean = lengths.sum() / max(lengths.size - len(x), 1)
    directions = _unit(differences)
    angles = jnp.einsum("ijd,ikd->ijk", directions, directions, precision=lax.Precision.HIGHEST)
    return lengths / jnp.maximum(mean, 1e-6), angles


def _smooth_l1(x):
    size = jnp.abs(x)
    return jnp.where(size < 1, 0.5 * x * x, size - 0.5)
