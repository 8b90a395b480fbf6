"""DINO's loss against its definition in float64."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from numeric import draw, softmax

from seed_jax.losses import dino_loss


def dino64(student, teacher, center, tau_student, tau_teacher):
    """The loops of DINOLoss.forward (facebookresearch/dino, main_dino.py), an image at a time."""
    student, teacher = np.asarray(student, np.float64), np.asarray(teacher, np.float64)
    losses = []
    for i in range(student.shape[1]):
        terms = []
        for t in range(len(teacher)):
            p = softmax((teacher[t, i] - center) / tau_teacher)
            terms += [
                -(p * np.log(softmax(student[v, i] / tau_student))).sum()
                for v in range(len(student))
                if v != t
            ]
        losses.append(np.mean(terms))
    return np.array(losses)


@pytest.mark.parametrize("views", [2, 5])
def test_values_and_gradient(views):
    student, teacher = draw(views, 3, 7, scale=0.3), draw(2, 3, 7, seed=1, scale=0.1)
    center = draw(7, seed=2, scale=0.1)

    def total(student):
        losses = dino_loss(student, teacher, center, tau_teacher=0.05)
        return losses.sum(), losses

    gradient, losses = jax.jit(jax.grad(total, has_aux=True))(student)
    np.testing.assert_allclose(losses, dino64(student, teacher, center, 0.1, 0.05), rtol=1e-5)
    # d/ds of a cross-entropy is (softmax(s / tau) - p) / tau, over the teacher's views that are not v.
    p = softmax((teacher - center).astype(np.float64) / 0.05)
    pairs = 2 * views - 2
    for v in range(views):
        others = [t for t in range(2) if t != v]
        want = sum(softmax(student[v].astype(np.float64) / 0.1) - p[t] for t in others) / 0.1 / pairs
        np.testing.assert_allclose(gradient[v], want, rtol=1e-4, atol=1e-5)


def test_only_the_student_gets_a_gradient():
    student, teacher, center = jnp.asarray(draw(3, 2, 5)), jnp.asarray(draw(2, 2, 5)), jnp.zeros(5)
    of = jax.grad(lambda s, t, c: dino_loss(s, t, c, tau_teacher=1.0).sum(), argnums=(0, 1, 2))
    for_student, for_teacher, for_center = of(student, teacher, center)
    assert jnp.abs(for_student).max() > 1e-3
    assert not for_teacher.any() and not for_center.any()


def test_a_center_that_equals_the_teachers_output_makes_it_undecided():
    """The teacher then asks for the uniform distribution: the loss of a uniform student is log K."""
    teacher = jnp.broadcast_to(jnp.asarray(draw(6)), (2, 4, 6))
    losses = dino_loss(jnp.zeros((2, 4, 6)), teacher, teacher[0, 0], tau_teacher=0.04)
    np.testing.assert_allclose(losses, np.log(6), rtol=1e-6)
    sure = dino_loss(jnp.eye(6)[None, :1] * jnp.ones((2, 1, 1)), teacher[:, :1], teacher[0, 0], tau_teacher=1)
    uniform = -np.log(softmax(np.eye(6)[0] / 0.1)).mean()
    np.testing.assert_allclose(sure, [uniform], rtol=1e-5)


@pytest.mark.parametrize(
    ("student", "teacher", "center", "tau"),
    [((3, 2, 4), (2, 2, 5), 5, 0.1), ((3, 2, 4), (2, 3, 4), 4, 0.1), ((3, 2, 4), (2, 2, 4), 3, 0.1)]
    + [((1, 2, 4), (1, 2, 4), 4, 0.1), ((2, 2, 4), (3, 2, 4), 4, 0.1), ((2, 2, 4), (2, 2, 4), 4, 0.0)],
)
def test_wrong_arguments(student, teacher, center, tau):
    with pytest.raises(AssertionError):
        dino_loss(
            jnp.zeros(student), jnp.zeros(teacher), jnp.zeros(center), tau_student=tau, tau_teacher=0.04
        )
