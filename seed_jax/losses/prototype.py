"""The loss over prototypes of DINO (Caron et al., ICCV 2021, arXiv 2104.14294)."""

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
    targets = jax.lax.stop_gradient(teacher_probabilities(teacher_logits, center, tau_teacher))
    log_probabilities = jax.nn.log_softmax(student / tau_student)
    terms = -jnp.einsum("tbk,vbk->tvb", targets, log_probabilities, precision="highest")
    different = 1 - jnp.eye(teachers, views)
    return jnp.einsum("tv,tvb->b", different, terms, precision="highest") / different.sum()


def teacher_probabilities(logits, center, tau):
    """DINO's centred and sharpened distribution: float `[..., K]` -> float32 `[..., K]`.

    >>> teacher_probabilities(jnp.array([1.0, 1.0]), jnp.zeros(2), 0.04)
    Array([0.5, 0.5], dtype=float32)
    """
    center = center.reshape((1,) * (logits.ndim - 1) + center.shape)
    return jax.nn.softmax((logits.astype(jnp.float32) - center) / tau)
