"""Losses of logits: KD, DKD, DIST, SSKD's selected rows; standardisation, and the aggregate of views.

The teacher is a constant: only the student's logits receive a gradient. Logits are finite, or -inf
for a class that both exclude; log-sum-exps keep far-apart logits exact. Everything is float32.
"""

import math

import chex
import jax
import jax.numpy as jnp
from jax import lax

from seed_jax.errors import UserError
from seed_jax.losses.contrastive import check_temperatures
from seed_jax.losses.root import root


def standardise_logits(logits):
    """Each row less its mean, divided by its standard deviation (arXiv 2403.01427).

    Put it around the logits of student and teacher in any loss of this file, `kd_loss` with temperature 2 and
    weight 9 in the paper. As in the released code (sunshangquan/logit-standardization-KD,
    mdistiller/distillers/KD.py) the deviation is that of a sample (C - 1) plus 1e-7. We differ for rows whose
    logits are all equal, as those of a classifier that starts at 0: they stay 0 without a gradient, where the
    released one is 1e7 times that of other rows.

    Args:
      logits: float `[B, C]`, finite, at least 2 classes.

    Returns:
      float32 `[B, C]`.

    Raises:
      AssertionError: the shape or dtype is not the above. Checked while tracing.

    >>> np.asarray(standardise_logits(jnp.array([[1.0, 2.0, 3.0], [5.0, 5.0, 5.0]]))).round(3)
    array([[-1.,  0.,  1.],
           [ 0.,  0.,  0.]], dtype=float32)
    """
    _check_logits(logits=logits)
    classes = logits.shape[1]
    assert classes > 1, f"logits have shape {logits.shape}: standardisation needs at least 2 classes."
    logits = logits.astype(jnp.float32)
    # The largest logit is a unit, without which the squares of huge ones overflow; the result has none of it.
    unit = lax.stop_gradient(jnp.abs(logits).max(axis=1, keepdims=True))
    unit = jnp.where(unit > 0, unit, 1)
    deviations, length = _deviations(logits / unit)
    return deviations / (length[:, None] / math.sqrt(classes - 1) + 1e-7 / unit)


def aggregate(logits):
    """One answer from the joint logits of all views of an image (SLA, arXiv 1910.05872).

    The mean over the views j of the columns y * M + j for the classes y; hankook/SLA, trainers.py. The label
    of view j is y * M + j.

    Args:
      logits: float `[B, M, M * C]`, of the M views of each image.

    Returns:
      float32 `[B, C]`. All views receive a gradient.

    Raises:
      AssertionError: the shape or dtype is not the above. Checked while tracing.

    Two views, two classes; columns are (class 0, view 0), (class 0, view 1), (class 1, view 0), ..:

    >>> np.asarray(aggregate(jnp.array([[[1.0, 0.0, 2.0, 0.0], [0.0, 3.0, 0.0, 6.0]]])))
    array([[2., 4.]], dtype=float32)
    """
    chex.assert_rank(logits, 3, custom_message="logits")
    chex.assert_type(logits, float, custom_message="logits")
    batch, views, columns = logits.shape
    assert columns % views == 0, f"logits have shape {logits.shape}: the columns are a multiple of the views."
    columns_of_views = logits.astype(jnp.float32).reshape(batch, views, columns // views, views)
    return jnp.diagonal(columns_of_views, axis1=1, axis2=3).mean(axis=2)


def kd_loss(student_logits, teacher_logits, *, temperature: float = 4.0):
    """T^2 * KL(teacher || student) of the softmaxes at temperature T (Hinton et al., arXiv 1503.02531).

    Summed over classes; its mean over the batch is the loss of the released codes
    (HobbitLong/RepDistiller, distiller_zoo/KD.py; megvii-research/mdistiller, mdistiller/distillers/KD.py).

    Args:
      student_logits: float `[B, C]`. Only this argument receives a gradient.
      teacher_logits: float `[B, C]`.
      temperature: T, of both.

    Returns:
      float32 `[B]`, a loss for each sample.

    Raises:
      AssertionError: the shape or dtype of an argument is not the above, or the temperature is not above 0;
        it names the argument. Checked while tracing.

    The first student agrees with its teacher, the second has not learned anything:

    >>> teacher = jnp.array([[2.0, 0.0], [2.0, 0.0]])
    >>> np.asarray(kd_loss(jnp.array([[2.0, 0.0], [0.0, 0.0]]), teacher)).round(4)
    array([0.    , 0.4848], dtype=float32)
    """
    check_temperatures(temperature=temperature)
    student, teacher = _pair(student_logits, teacher_logits)
    return temperature**2 * _kl(teacher / temperature, student / temperature)


def virtual_teacher_loss(logits, label, *, correct: float = 0.99, temperature: float = 20.0):
    """KL(softmax(p / T) || softmax(logits)) of a teacher by design, p (Yuan et al., arXiv 1909.11723).

    p is `correct` at the label and shares the rest out evenly. As the released Tf-KD_reg
    (yuanli2333/Teacher-free-Knowledge-Distillation, my_loss_function.py) it softens probabilities, not
    logits, and the teacher alone: of 100 classes at T = 20 the label has 0.0105 and the others 0.01 each.
    The released one averages over classes and multiplies by a constant of each network: 100 for ResNet-18
    on CIFAR-100, which makes it this sum. Its weight there is 0.1, with 0.9 for the cross entropy.

    Args:
      logits: float `[B, C]`, at least 2 classes.
      label: int `[B]`, 0 to C - 1.
      correct: the teacher's probability of the label.
      temperature: T.

    Returns:
      float32 `[B]`, a loss for each sample.

    Raises:
      AssertionError: the shape or dtype of an argument is not the above, or a number is out of range. Checked
        while tracing.

    >>> round(float(virtual_teacher_loss(jnp.array([[4.0, 0.0]]), jnp.array([0]))[0]), 3)
    1.276
    """
    check_temperatures(temperature=temperature)
    assert 0 <= correct <= 1, f"correct is {correct}: it must be from 0 to 1."
    _check_logits(logits=logits)
    _check_label(label=label, logits=logits)
    classes = logits.shape[1]
    assert classes > 1, f"logits have shape {logits.shape}: the loss needs at least 2 classes."
    teacher = jnp.where(_of(label, classes), correct, (1 - correct) / (classes - 1))
    return _kl(teacher / temperature, logits.astype(jnp.float32))


def dkd_loss(
    student_logits,
    teacher_logits,
    label,
    *,
    alpha: float = 1.0,
    beta: float = 8.0,
    temperature: float = 4.0,
):
    """Decoupled KD: alpha * T^2 * TCKD + beta * T^2 * NCKD (Zhao et al., arXiv 2203.08679, equation 7).

    TCKD is the KL of (p, 1 - p) with p the probability of the label, NCKD that of the softmaxes over the
    other classes. `kd_loss` is alpha = 1 and beta = 1 - p of the teacher. The mean over the batch is the loss
    of megvii-research/mdistiller, mdistiller/distillers/DKD.py, which is NaN in float32 where logits are so
    far apart that 1 - p is 0; here log(1 - p) is a log-sum-exp over the other classes. The released trainer
    multiplies it by epoch / 20 during the first 20 epochs. Its beta is 2 to 8 for CIFAR-100.

    Args:
      student_logits: float `[B, C]`, at least 3 classes. Only this argument receives a gradient.
      teacher_logits: float `[B, C]`. At least one class besides the label is finite in both.
      label: int `[B]`. Without a label (-1) a sample's loss is beta * `kd_loss`.
      alpha: weight of the class of the label.
      beta: weight of the other classes.
      temperature: T, of both.

    Returns:
      float32 `[B]`, a loss for each sample.

    Raises:
      UserError: two classes or fewer. The only other class then has probability 1 among the others, for
        student and teacher, so that NCKD is always 0.
      AssertionError: the shape or dtype of an argument is not the above, or the temperature is not above 0;
        it names the argument. Checked while tracing.

    Both students give the label the teacher's probability. The second gives the rest to another class:

    >>> teacher = jnp.array([[2.0, 1.0, 0.0], [2.0, 1.0, 0.0]])
    >>> student = jnp.array([[2.0, 1.0, 0.0], [2.0, 0.0, 1.0]])
    >>> np.asarray(dkd_loss(student, teacher, jnp.array([0, 0]), temperature=1.0)).round(3)
    array([0.   , 3.697], dtype=float32)
    """
    check_temperatures(temperature=temperature)
    student, teacher = _pair(student_logits, teacher_logits)
    _check_label(label=label, logits=student_logits)
    classes = student.shape[1]
    if classes < 3:
        raise UserError(
            f"dkd_loss has logits of {classes} classes, where its part about the other classes is always 0: "
            "use kd_loss, or at least 3 classes."
        )
    own = _of(label, classes)

    def parts(logits):
        logits = logits / temperature
        others = jnp.where(own, -jnp.inf, logits)
        odds = _own(logits, own) - jax.nn.logsumexp(others, axis=1)  # log(p / (1 - p))
        return jnp.stack([odds, jnp.zeros_like(odds)], axis=1), others

    (target_s, others_s), (target_t, others_t) = parts(student), parts(teacher)
    return temperature**2 * (alpha * _kl(target_t, target_s) + beta * _kl(others_t, others_s))


def dist_loss(
    student_logits,
    teacher_logits,
    *,
    inter: float = 1.0,
    intra: float = 1.0,
    temperature: float = 1.0,
):
    """inter * T^2 * (1 - r of the rows) + intra * T^2 * (1 - r of the columns) (arXiv 2205.10536).

    r is Pearson's correlation of student's and teacher's probabilities: across the classes of a sample for
    `inter`, across the batch for `intra`; means over samples and classes. As hunto/image_classification_sota,
    lib/models/losses/dist_kd.py, with its 1e-8 beside the product of the deviations and its T^2, which is not
    in the paper. Its configuration for CIFAR-100 is weight 2 and T = 4, besides cross-entropy. We differ for
    constant rows, which have no correlation: it is 0 without a gradient, also where rounding makes them
    differ in the last bit. A batch of one has constant columns.

    Args:
      student_logits: float `[B, C]`. Only this argument receives a gradient.
      teacher_logits: float `[B, C]`.
      inter: weight of the relation between classes.
      intra: weight of the relation within a class.
      temperature: T, of both.

    Returns:
      float32 scalar. It compares samples: a micro-batch has another loss.

    Raises:
      AssertionError: the shape or dtype of an argument is not the above, or the temperature is not above 0;
        it names the argument. Checked while tracing.

    The student's probabilities move with the teacher's, between classes and within them:

    >>> teacher = jnp.array([[1.0, 0.0], [0.0, 1.0]])
    >>> round(float(dist_loss(4 * teacher, teacher)), 5)
    0.0
    >>> round(float(dist_loss(-teacher, teacher)), 5)
    4.0
    """
    check_temperatures(temperature=temperature)
    student, teacher = _pair(student_logits, teacher_logits)
    student, teacher = jax.nn.softmax(student / temperature), jax.nn.softmax(teacher / temperature)
    rows, columns = _correlation(student, teacher), _correlation(student.T, teacher.T)
    return temperature**2 * (inter * (1 - rows.mean()) + intra * (1 - columns.mean()))


def sskd_loss(student_scores, teacher_scores, target, *, keep_wrong: float, temperature: float):
    """`kd_loss` on the rows where the teacher is right and on the best of the others (arXiv 2006.07114).

    Both losses of SSKD on rotated views, whose sum with cross-entropy and `kd_loss` of the originals has
    weights 2.7 and 10 (xuguodong03/SSKD, student.py):

    - on logits of the views, with the labels of the originals, `keep_wrong=1`, `temperature=4`;
    - on the `similarity_rows` of the views, with the positions of the originals, `keep_wrong=0.75`,
      `temperature=0.5`.

    A row is the better the fewer scores the teacher has above that of the target; among equals, earlier rows
    go first (in the released code an unstable sort decides). int(keep_wrong * wrong rows) are kept.

    Args:
      student_scores: float `[N, C]`. Only this argument receives a gradient.
      teacher_scores: float `[N, C]`.
      target: int `[N]`, the right column of each row; -1 if there is none, which counts as the worst.
      keep_wrong: share of the rows where the teacher is wrong that count, 0 to 1.
      temperature: of both.

    Returns:
      float32 `[N]`, 0 for rows that do not count. The others are scaled up so that the mean over N is their
      mean. Which rows count depends on the batch: a micro-batch has another loss.

    Raises:
      AssertionError: the shape or dtype of an argument is not the above, the temperature is not above 0, or
        `keep_wrong` is not from 0 to 1; it names the argument. Checked while tracing.

    The teacher is right in the first row and wrong in the others; half of two wrong rows is one row:

    >>> teacher = jnp.array([[2.0, 1.0, 0.0], [2.0, 1.0, 0.0], [2.0, 1.0, 0.0]])
    >>> target = jnp.array([0, 2, 1])
    >>> np.asarray(sskd_loss(jnp.zeros((3, 3)), teacher, target, keep_wrong=0.5, temperature=1.0)).round(3)
    array([0.399, 0.   , 0.399], dtype=float32)
    """
    assert 0 <= keep_wrong <= 1, f"keep_wrong is {keep_wrong}: it must be from 0 to 1."
    check_temperatures(temperature=temperature)
    student, teacher = _pair(student_scores, teacher_scores, "scores")
    _check_label(target=target, scores=student_scores)
    count, classes = student.shape
    own = _own(teacher, _of(target, classes))
    above = (teacher > own[:, None]).sum(axis=1)  # 0 where the teacher is right
    wrong = (above > 0).sum()
    # Python's own products, as the released code computes them: float32 would round some to the next integer.
    kept_wrong = jnp.asarray([int(n * keep_wrong) for n in range(count + 1)])[wrong]
    kept = count - wrong + kept_wrong
    place = jnp.argsort(jnp.argsort(above))
    scale = jnp.where(place < kept, count / jnp.maximum(kept, 1), 0)
    return jnp.where(scale > 0, scale * temperature**2 * _kl(teacher / temperature, student / temperature), 0)


def _check_logits(**logits):
    """Check logits `[B, C]` by name: float, and of the shape of the first."""
    first = next(iter(logits))
    for name, x in logits.items():
        chex.assert_rank(x, 2, custom_message=name)
        chex.assert_type(x, float, custom_message=name)
        chex.assert_shape(x, logits[first].shape, custom_message=f"{name}, against the shape of {first}")


def _check_label(**named):
    """Check the first argument, by name: int `[B]`, one for each row of the second."""
    (name, label), (of, logits) = named.items()
    chex.assert_shape(label, logits.shape[:1], custom_message=f"{name}, against the rows of {of}")
    chex.assert_type(label, int, custom_message=name)


def _pair(student, teacher, what="logits"):
    """Both in float32, the teacher's without a gradient."""
    _check_logits(**{f"student_{what}": student, f"teacher_{what}": teacher})
    return student.astype(jnp.float32), lax.stop_gradient(teacher).astype(jnp.float32)


def _kl(teacher, student):
    """KL(softmax(teacher) || softmax(student)) of rows: `[B]`. Classes of probability 0 add nothing."""
    log_p, log_q = jax.nn.log_softmax(teacher), jax.nn.log_softmax(student)
    p = jnp.exp(log_p)
    return jnp.where(p > 0, p * (log_p - log_q), 0).sum(axis=1)


def _of(label, classes):
    """Where the class of each row is, bool `[B, classes]`."""
    return label[:, None] == jnp.arange(classes)[None]


def _own(logits, own):
    """The logit of each row's own class, `[B]`; -inf without one."""
    return jnp.where(own, logits, -jnp.inf).max(axis=1)


def _deviations(x):
    """The rows less their means, `[B, D]`, and the lengths of these, `[B]`.

    Rows whose entries are equal up to rounding become 0, of length 0 and without a gradient.
    """
    deviations = x - x.mean(axis=1, keepdims=True)
    squares = jnp.square(deviations).sum(axis=1)
    varies = squares > 1e-12 * jnp.square(x).sum(axis=1)
    return jnp.where(varies[:, None], deviations, 0), root(jnp.where(varies, squares, 0))


def _correlation(a, b):
    (a, length_a), (b, length_b) = _deviations(a), _deviations(b)
    return (a * b).sum(axis=1) / (length_a * length_b + 1e-8)
