"""The losses of DINO and SwAV, and Sinkhorn's algorithm, against their definitions in float64."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from numeric import assert_equals_float64, assert_same_on_8_devices, draw, softmax, wave

from seed_jax.losses import dino_loss, sinkhorn, swav_loss


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


def sinkhorn64(scores, epsilon, iterations):
    """distributed_sinkhorn of facebookresearch/swav, main_swav.py: exponentials, divided in turn."""
    q = np.exp(np.asarray(scores, np.float64) / epsilon)
    for _ in range(iterations):
        q /= q.sum(axis=0)
        q /= q.sum(axis=1, keepdims=True)
    return q


@pytest.mark.parametrize(("epsilon", "iterations"), [(0.5, 1), (0.05, 3), (0.2, 20)])
def test_sinkhorn_equals_divided_exponentials(epsilon, iterations):
    scores = draw(7, 5, scale=0.3)
    got = sinkhorn(scores, epsilon=epsilon, iterations=iterations)
    np.testing.assert_allclose(got, sinkhorn64(scores, epsilon, iterations), rtol=1e-4, atol=1e-6)


def test_sinkhorn_is_that_of_the_released_code():
    """The first two rows of distributed_sinkhorn (facebookresearch/swav), run in one process."""
    got = sinkhorn(jnp.asarray(wave(4, 5, 0.0), jnp.float32), epsilon=0.5)
    want = [
        [0.00036264, 0.44232535, 6.196e-05, 0.55723577, 1.428e-05],
        [0.17614819, 5.59e-06, 0.76815047, 0.05568775, 7.99e-06],
    ]
    np.testing.assert_allclose(got[:2], want, rtol=1e-4, atol=1e-7)


def test_sinkhorn_balances_more_prototypes_than_rows_and_fewer():
    for rows, prototypes in ((4, 9), (9, 4)):
        q = sinkhorn(draw(rows, prototypes, scale=0.3), epsilon=0.2, iterations=100)
        np.testing.assert_allclose(q.sum(axis=1), np.ones(rows), rtol=1e-5)
        np.testing.assert_allclose(q.sum(axis=0), np.full(prototypes, rows / prototypes), rtol=1e-3)


def test_sinkhorn_stays_finite_at_any_epsilon():
    """exp(1 / 0.001) is infinite, and for a row with small scores every exponential is 0."""
    scores = jnp.array([[1.0, 0.9, -1.0], [1.0, 0.8, -1.0], [-1.0, -0.9, -1.0]])
    q = sinkhorn(scores, epsilon=1e-3)
    assert jnp.isfinite(q).all()
    np.testing.assert_allclose(q.sum(axis=1), np.ones(3), rtol=1e-5)


def test_rows_that_are_not_valid_change_nothing():
    scores, valid = draw(2, 4, 5, scale=0.3), np.array([[True, False, True, True], [False] * 4])
    got = sinkhorn(scores, valid=valid)
    np.testing.assert_allclose(got[valid], sinkhorn(scores[valid]), rtol=1e-5)


def test_swav_loss_is_a_cross_entropy_over_pairs_of_views():
    """The loops of train() in main_swav.py, an image at a time."""
    assignments = np.stack([sinkhorn64(draw(3, 7, seed=n, scale=0.1), 0.05, 3) for n in (1, 2)])

    def direct(rows):
        scores = rows.reshape(5, 3, 7)
        losses = np.zeros(3)
        for a in range(2):
            for v in set(range(5)) - {a}:
                losses -= (assignments[a] * np.log(softmax(scores[v] / 0.1))).sum(axis=-1) / 4
        return losses / 2

    def ours(rows):
        return swav_loss(rows.reshape(5, 3, 7), jnp.asarray(assignments, jnp.float32))

    assert_equals_float64(ours, direct, draw(15, 7, scale=0.3))


def test_assignments_get_no_gradient():
    scores = jnp.asarray(draw(2, 3, 5))
    gradient = jax.grad(lambda x: swav_loss(scores, jnp.stack([sinkhorn(x), sinkhorn(x)])).sum())(scores[0])
    assert not gradient.any()


def test_sinkhorn_on_8_devices():
    assert_same_on_8_devices(
        lambda x: swav_loss(jnp.stack([x, x]), sinkhorn(x)[None]), draw(16, 6, scale=0.3)
    )


def test_wrong_arguments_of_swav():
    scores = np.zeros((3, 2, 4), np.float32)
    for call, words in (
        (lambda: swav_loss(scores, scores[:2, :, :3]), "shape"),
        (lambda: swav_loss(scores[:1], scores[:1]), "1 views, 1 of them assigned"),
        (lambda: swav_loss(scores, scores[:2], temperature=0.0), "temperature is 0.0"),
        (lambda: sinkhorn(scores, epsilon=0.0), "epsilon is 0.0"),
        (lambda: sinkhorn(scores, iterations=0), "iterations is 0"),
        (lambda: sinkhorn(scores, valid=np.ones(3, bool)), "shape"),
    ):
        with pytest.raises(AssertionError, match=words):
            call()
