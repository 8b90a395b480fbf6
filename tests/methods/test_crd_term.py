"""CRD's term of response distillation against NumPy in float64, and in a run."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from seed_jax.methods import crd, queue

B, S, D, WIDTH, DIM = 4, 3, 6, 10, 5


@pytest.fixture(scope="module")
def made():
    part = crd.Maps(WIDTH, DIM)
    params = part.init(jax.random.key(0), {"pooled": jnp.zeros((B, D))}, False)["params"]
    return part, params


def features(seed):
    random = np.random.default_rng(seed)
    return (
        {"pooled": jnp.asarray(random.standard_normal((B, D)), jnp.float32)},
        {"pooled": jnp.asarray(random.standard_normal((B, WIDTH)), jnp.float32)},
    )


def embedded64(params, side, x):
    kernel, bias = (np.asarray(params[f"{side}_{name}"], np.float64) for name in ("kernel", "bias"))
    z = np.asarray(x["pooled"], np.float64) @ kernel + bias
    return z / np.linalg.norm(z, axis=1, keepdims=True)


def info_nce64(anchor, positive, negatives):
    logits = np.concatenate([(anchor * positive).sum(1, keepdims=True), anchor @ negatives.T], axis=1) / 0.07
    return np.log(np.exp(logits - logits[:, :1]).sum(axis=1))


def test_both_networks_find_each_other_among_past_batches(made):
    _, params = made
    queues = crd.init(S * B, B, DIM)
    past = {"student": np.zeros((0, DIM)), "teacher": np.zeros((0, DIM))}
    for seed in range(5):
        student, teacher = features(seed)
        values, queues = crd.loss(params, student, teacher, queues)
        s, t = embedded64(params, "student", student), embedded64(params, "teacher", teacher)
        want = info_nce64(s, t, past["teacher"]) + info_nce64(t, s, past["student"])
        np.testing.assert_allclose(values, want, rtol=2e-4, atol=1e-5)
        past = {
            side: np.concatenate([past[side], now])[-S * B :]
            for side, now in (("student", s), ("teacher", t))
        }
    assert int(queues["teacher"].filled) == S
    assert isinstance(queues["student"], queue.Queue)


def test_only_the_student_and_the_two_maps_receive_a_gradient(made):
    _, params = made
    student, teacher = features(0)
    _, queues = crd.loss(params, *features(1), crd.init(S * B, B, DIM))

    def total(params, student, teacher):
        return crd.loss(params, student, teacher, queues)[0].mean()

    of_params, of_student, of_teacher = jax.grad(total, (0, 1, 2))(params, student, teacher)
    assert np.abs(of_student["pooled"]).max() > 0
    assert np.abs(of_teacher["pooled"]).max() == 0
    for side in ("student", "teacher"):
        assert np.abs(of_params[f"{side}_kernel"]).max() > 0


def test_the_students_forward_pass_adds_nothing(made):
    part, params = made
    assert part.apply({"params": params}, features(0)[0], False) == {}
    for side, width in (("student", D), ("teacher", WIDTH)):
        assert 0 < np.abs(params[f"{side}_kernel"]).max() <= width**-0.5
