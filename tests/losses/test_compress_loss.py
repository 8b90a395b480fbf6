"""CompRess against the KL written out in float64, with one queue and with two."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from numeric import assert_equals_float64, draw, softmax

from seed_jax.losses import compress_loss

N, D, T = 4, 5, 3


def unit(*shape, seed):
    x = draw(*shape, seed=seed)
    return x / np.linalg.norm(x, axis=-1, keepdims=True)


def direct(student, teacher, of_student, of_teacher, tau):
    p, q = (
        softmax(np.float64(x) @ np.float64(a).T / tau)
        for x, a in ((teacher, of_teacher), (student, of_student))
    )
    return (p * np.log(p / q)).sum(axis=1)


@pytest.mark.parametrize("queues", [1, 2])
def test_the_formula_in_float64(queues, monkeypatch):
    monkeypatch.setattr(
        "seed_jax.losses.readout.BLOCK", 16
    )  # 36 anchors are three blocks, the first has none
    width = T if queues == 2 else D
    teacher, anchors = unit(N, width, seed=1), unit(9, N, width, seed=2)
    own = unit(9, N, D, seed=3) if queues == 2 else anchors
    queue = np.concatenate([anchors, own], axis=-1) if queues == 2 else anchors
    valid = np.arange(9) >= 5

    def of(x, slots):
        return slots[5:].reshape(-1, slots.shape[-1])

    assert_equals_float64(
        lambda s: compress_loss(s, teacher, queue, valid, temperature=0.2),
        lambda s: direct(s, teacher, of(s, own), of(s, anchors), 0.2),
        unit(N, D, seed=4),
        rtol=2e-5,
    )


def test_a_student_that_agrees_and_a_queue_without_anchors():
    student, queue = jnp.asarray(unit(N, D, seed=5)), jnp.asarray(unit(30, D, seed=6))
    both = jnp.concatenate([queue, queue], axis=1)
    for anchors in (queue, both):
        np.testing.assert_allclose(compress_loss(student, student, anchors), np.zeros(N), atol=1e-5)
        total = lambda s, t, a=anchors: compress_loss(s, t, a, jnp.zeros(30, bool)).sum()  # noqa: E731
        loss, grads = jax.value_and_grad(total, argnums=(0, 1))(student, student[::-1])
        assert loss == 0
        assert not any(grad.any() for grad in grads)


def test_only_the_student_receives_a_gradient():
    args = [
        jnp.asarray(unit(N, D, seed=7)),
        jnp.asarray(unit(N, T, seed=8)),
        jnp.asarray(unit(6, T + D, seed=9)),
    ]
    grads = jax.grad(lambda *a: compress_loss(*a).sum(), argnums=(0, 1, 2))(*args)
    assert jnp.abs(grads[0]).max() > 1e-3
    assert not grads[1].any() and not grads[2].any()


def test_arguments_that_do_not_fit_are_named():
    for shapes, named in (
        ({"queue": (6, T)}, "queue"),  # one queue needs equal widths
        ({"queue": (6, D)}, "queue"),
        ({"student": (N, 1, D)}, "student"),
        ({"teacher": (N + 1, T)}, "student and teacher"),
        ({"valid": (5,)}, "valid"),
    ):
        shapes = {"student": (N, D), "teacher": (N, T), "queue": (6, T + D), "valid": (6,)} | shapes
        args = [jax.ShapeDtypeStruct(s, bool if k == "valid" else jnp.float32) for k, s in shapes.items()]
        with pytest.raises(AssertionError, match=named):
            jax.eval_shape(compress_loss, *args)
    with pytest.raises(AssertionError, match=r"temperature is 0: it must be above 0"):
        compress_loss(jnp.ones((1, 2)), jnp.ones((1, 2)), jnp.ones((3, 2)), temperature=0)
