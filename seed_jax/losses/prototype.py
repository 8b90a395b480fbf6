"""Losses over prototypes: DINO (Caron et al., ICCV 2021, arXiv 2104.14294) and SwAV (arXiv 2006.09882).

In both a view predicts how another view of its image is assigned to prototypes. DINO's assignments are those
of a teacher, SwAV's are balanced over the batch by Sinkhorn's algorithm.
"""

import chex
import jax
import jax.numpy as jnp


def dino_loss(student_logits, teacher_logits, center, *, tau_student: float = 0.1, tau_teacher):
    """Cross-entropy of the student's distribution with the teacher's over all pairs of different views.

    The teacher's distribution is softmax((teacher_logits - center) / tau_teacher), the student's
    softmax(student_logits / tau_student). The loss is the mean over the pairs (teacher's view, other view of
    the student): DINO, eq. 3 and algorithm 1, divided by the number of terms as in facebookresearch/dino,
    main_dino.py, class DINOLoss.

    Args:
      student_logits: float `[V, B, K]`. Only this argument receives a gradient.
      teacher_logits: float `[T, B, K]` of the first T of these views, in the same order; T is 2 in the paper.
      center: float `[K]`.
      tau_student: temperature of the student's distribution, above 0.
      tau_teacher: temperature of the teacher's, above 0; a number or a float scalar, which may be traced.

    Returns:
      float32 `[B]`, a loss for each image.

    Raises:
      AssertionError: the shape or dtype of an argument is not the above, there are fewer than two views, or
        `tau_student` is not above 0. Checked while tracing.

    An undecided student has the loss log K, whatever its teacher says:

    >>> student, teacher = jnp.zeros((3, 1, 4)), jnp.eye(4)[:2, None]
    >>> np.asarray(dino_loss(student, teacher, jnp.zeros(4), tau_teacher=0.04)).round(4)
    array([1.3863], dtype=float32)
    """
    chex.assert_rank([student_logits, teacher_logits], 3)
    views, size, prototypes = student_logits.shape
    teachers = teacher_logits.shape[0]
    chex.assert_shape(teacher_logits, (teachers, size, prototypes))
    chex.assert_shape(center, (prototypes,))
    chex.assert_type([student_logits, teacher_logits, center], float)
    assert views >= 2 and views >= teachers >= 1, f"{views} views of the student, {teachers} of the teacher"
    assert tau_student > 0, f"tau_student is {tau_student}: it must be above 0."
    student, center = student_logits.astype(jnp.float32), center.astype(jnp.float32)
    targets = teacher_probabilities(teacher_logits, center, tau_teacher)
    return _predict_other_views(student / tau_student, targets)


def swav_loss(scores, assignments, *, temperature: float = 0.1):
    """Cross-entropy of each view's softmax over prototypes with the assignments of the other views.

    The mean over the pairs (assigned view, other view): SwAV, eq. 1 and 2, with several views as in
    facebookresearch/swav, main_swav.py.

    Args:
      scores: float `[V, B, K]`, the products of embeddings of length 1 with prototypes of length 1. Only this
        argument receives a gradient.
      assignments: float `[A, B, K]` of the first A views, in the same order, from `sinkhorn`; A is 2 in the
        paper.
      temperature: of the softmax, above 0.

    Returns:
      float32 `[B]`, a loss for each image.

    Raises:
      AssertionError: the shape or dtype of an argument is not the above, there are fewer than two views, or
        the temperature is not above 0. Checked while tracing.

    An undecided view has the loss log K, whatever it is to predict:

    >>> np.asarray(swav_loss(jnp.zeros((3, 1, 4)), jnp.eye(4)[:2, None])).round(4)
    array([1.3863], dtype=float32)
    """
    chex.assert_rank([scores, assignments], 3)
    views, assigned = len(scores), len(assignments)
    chex.assert_shape(assignments, (assigned, *scores.shape[1:]))
    chex.assert_type([scores, assignments], float)
    assert views >= 2 and views >= assigned >= 1, f"{views} views, {assigned} of them assigned"
    assert temperature > 0, f"temperature is {temperature}: it must be above 0."
    return _predict_other_views(scores.astype(jnp.float32) / temperature, assignments.astype(jnp.float32))


def sinkhorn(scores, *, epsilon: float = 0.05, iterations: int = 3, valid=None):
    """Assign rows to prototypes so that all prototypes get about the same share of the rows.

    Sinkhorn's algorithm from exp(scores / epsilon) (SwAV, eq. 3 to 5): in turn each prototype's sum over the
    rows and each row's sum over the prototypes are made equal. The rows come last, so each one is a
    distribution, and the prototypes are in balance up to what the iterations leave. With the scores of a
    batch sharded over devices, only sums over the batch travel.

    We compute with logarithms, where facebookresearch/swav, main_swav.py (`distributed_sinkhorn`) divides
    exponentials: the results are the same, and remain finite at any epsilon.

    Args:
      scores: float `[..., K]`, all leading axes together are the rows.
      epsilon: smoothness, above 0: the smaller, the closer each row comes to a single prototype.
      iterations: 1 or more; 3 in the paper.
      valid: bool `[...]`, which rows take part; None if all do. The others are normalised alone.

    Returns:
      float32 `[..., K]`, a distribution for each row, without a gradient.

    Raises:
      AssertionError: the shape or dtype of an argument is not the above, epsilon is not above 0, or there is
        no iteration. Checked while tracing.

    Two rows that prefer the first prototype share it, but not alike:

    >>> np.asarray(sinkhorn(jnp.array([[1.0, 0.8], [1.0, 0.9]]), epsilon=0.1)).round(2)
    array([[0.62, 0.38],
           [0.38, 0.62]], dtype=float32)
    """
    chex.assert_type(scores, float)
    assert epsilon > 0, f"epsilon is {epsilon}: it must be above 0."
    assert iterations >= 1, f"iterations is {iterations}: it must be 1 or more."
    where = None
    if valid is not None:
        chex.assert_shape(valid, scores.shape[:-1])
        chex.assert_type(valid, bool)
        where = valid[..., None]
    rows = tuple(range(scores.ndim - 1))
    log_q = jax.lax.stop_gradient(scores).astype(jnp.float32) / epsilon
    for _ in range(iterations):
        log_q -= jax.nn.logsumexp(log_q, axis=rows, keepdims=True, where=where)
        log_q -= jax.nn.logsumexp(log_q, axis=-1, keepdims=True)
    return jnp.exp(log_q)


def _predict_other_views(logits, targets):
    """Mean cross-entropy of each view's softmax with the targets of the first views that are not itself.

    Logits `[V, B, K]` and targets `[T, B, K]`, float32 -> `[B]`. Targets receive no gradient.
    """
    views, targeted = len(logits), len(targets)
    log_probabilities = jax.nn.log_softmax(logits)
    targets = jax.lax.stop_gradient(targets)
    terms = -jnp.einsum("tbk,vbk->tvb", targets, log_probabilities, precision="highest")
    different = 1 - jnp.eye(targeted, views)
    return jnp.einsum("tv,tvb->b", different, terms, precision="highest") / different.sum()


def teacher_probabilities(logits, center, tau):
    """DINO's centred and sharpened distribution: float `[..., K]` -> float32 `[..., K]`.

    >>> teacher_probabilities(jnp.array([1.0, 1.0]), jnp.zeros(2), 0.04)
    Array([0.5, 0.5], dtype=float32)
    """
    center = center.reshape((1,) * (logits.ndim - 1) + center.shape)
    return jax.nn.softmax((logits.astype(jnp.float32) - center) / tau)
