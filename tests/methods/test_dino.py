"""DINO against main_dino.py of facebookresearch/dino: order of events, schedules and centre in float64."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from fake import FakeNetwork, batch, given, unit64

from seed_jax import models
from seed_jax.config import Data
from seed_jax.errors import UserError
from seed_jax.methods.base import Clock, Given, Nets
from seed_jax.methods.dino import DINO

B, K, STEPS, EPOCH = 4, 6, 12, 3
METHOD = DINO(
    prototypes=K, local_views=2, tau_warmup_epochs=3, tau_teacher=0.5, tau_teacher_start=0.2, momentum=0.9
)


class Similar(FakeNetwork):
    """Answers with the entry of the method's head: cosines of the pixels with K prototypes."""

    def apply(self, variables, x, train, keys=None):
        features, state = super().apply(variables, x, train, keys)
        x = x.reshape(len(x), -1)
        w = variables["params"]["w"]
        lengths = jnp.linalg.norm(x, axis=1, keepdims=True) * jnp.linalg.norm(w, axis=0, keepdims=True)
        return {"similarities": features["embedding"] / lengths}, state


def similar64(w, x):
    return unit64(np.asarray(x, np.float64).reshape(len(x), -1)) @ unit64(np.asarray(w, np.float64).T).T


def views(seed):
    """A batch of one first view, one second and two local ones."""
    x = batch(B, views=4, seed=seed)
    pixels = x.views[0]
    return dataclasses.replace(x, views=(pixels[:, :1], pixels[:, 1:2], pixels[:, 2:]))


def softmax64(x):
    e = np.exp(x - x.max(axis=-1, keepdims=True))
    return e / e.sum(axis=-1, keepdims=True)


def schedule64(base, final, steps):
    """utils.py: cosine_scheduler, without warm-up."""
    return np.array([final + 0.5 * (base - final) * (1 + np.cos(np.pi * n / steps)) for n in range(steps)])


def run(network, students, method=METHOD, start=0):
    """The loss and `LossOut` of each step, the student's matrix changing from outside."""
    sample = views(0).views[0][:, 0]
    variables = network.init(jax.random.key(0), sample) | {"params": {"w": students[0]}}
    aux, outs = method.init_aux(jax.random.key(1), given(B), variables), []
    state = {"batch_stats": variables["batch_stats"]}
    for n, w in enumerate(students):
        clock = Clock(jnp.int32(n), steps=STEPS, steps_per_epoch=EPOCH)
        value, out = method.loss(
            Nets(network, None), {"w": w}, state, aux, views(n), clock, jax.random.key(n)
        )
        aux = out.aux
        outs.append((value, out))
    return outs


def matrices(count):
    return [jax.random.normal(jax.random.key(n), (12, K)) for n in range(count)]


def test_teacher_centre_and_loss_over_an_epoch_and_a_half():
    """main_dino.py: the teacher moves after each update of the student, by that step's momentum; the centre
    after the loss."""
    students = matrices(5)
    momenta = schedule64(0.9, 1.0, STEPS)
    taus = np.linspace(0.2, 0.5, 3)
    teacher, centre = np.asarray(students[0], np.float64), np.zeros(K)
    for n, (value, out) in enumerate(run(Similar(K), students)):
        x = views(n)
        pixels = np.concatenate([np.asarray(v, np.float64) for v in x.views], axis=1)
        if n:
            teacher = momenta[n - 1] * teacher + (1 - momenta[n - 1]) * np.asarray(students[n], np.float64)
        student = np.stack([similar64(students[n], pixels[:, v]) for v in range(4)])
        targets = np.stack([similar64(teacher, pixels[:, v]) for v in range(2)])
        tau = taus[n // EPOCH]
        p = softmax64((targets - centre) / tau)
        log_q = np.log(softmax64(student / 0.1))
        terms = [-(p[t] * log_q[v]).sum(axis=1).mean() for t in range(2) for v in range(4) if v != t]
        np.testing.assert_allclose(value, np.mean(terms), rtol=1e-4)
        np.testing.assert_allclose(out.metrics["tau_teacher"], tau, rtol=1e-6)
        entropy = -(p * np.log(p)).sum(axis=2).mean(axis=0)
        np.testing.assert_allclose(out.metrics["teacher_entropy"], entropy, rtol=1e-4)
        mean = p.mean(axis=(0, 1))
        np.testing.assert_allclose(out.metrics["batch_entropy"], -(mean * np.log(mean)).sum(), rtol=1e-4)
        centre = 0.9 * centre + 0.1 * targets.reshape(-1, K).mean(axis=0)
        np.testing.assert_allclose(out.aux["center"], centre, rtol=1e-4, atol=1e-6)
        np.testing.assert_allclose(out.aux["ema"]["params"]["w"], teacher, rtol=1e-4, atol=1e-5)


def test_schedules_are_those_of_the_released_code():
    """utils.py: cosine_scheduler(0.996, 1, ...); DINOLoss: np.linspace over the warm-up, then constant."""
    method, steps = DINO(), 1000
    got = [float(method.momentum_at(jnp.float32(n / steps))) for n in range(0, steps, 111)]
    np.testing.assert_allclose(got, schedule64(0.996, 1.0, steps)[::111], rtol=1e-6)
    assert float(method.momentum_at(jnp.float32(-0.1))) == float(method.momentum_at(jnp.float32(0)))
    for warmup in (30, 1, 0, 2):
        method = DINO(tau_warmup_epochs=warmup)
        want = np.concatenate([np.linspace(0.04, 0.07, warmup), np.full(50 - warmup, 0.07)])
        got = jax.vmap(method.tau_at)(jnp.arange(50))
        np.testing.assert_allclose(got, want, rtol=1e-6)


def test_each_network_keeps_its_own_statistics_and_the_teacher_sees_the_global_views_alone():
    network = Similar(K)
    ((_, out),) = run(network, matrices(1))
    assert [len(call["x"]) for call in network.calls] == [2 * B, 2 * B, 2 * B]  # wide, local, teacher
    np.testing.assert_array_equal(network.calls[0]["x"], network.calls[2]["x"])
    np.testing.assert_array_equal(out.model_state["batch_stats"]["seen"], 2)
    np.testing.assert_array_equal(out.aux["ema"]["batch_stats"]["seen"], 1)
    keys = [np.asarray(jax.random.key_data(call["keys"])) for call in network.calls[:2]]
    assert len(np.unique(np.concatenate(keys), axis=0)) == 4 * B


def test_gradient_flows_through_the_student_alone():
    """With the student's own outputs as fixed targets the gradient is that of the cross-entropy."""
    network, (w,) = Similar(K), matrices(1)
    sample = views(0)
    variables = network.init(jax.random.key(0), sample.views[0][:, 0])
    aux = METHOD.init_aux(jax.random.key(1), given(B), variables | {"params": {"w": w}})
    clock = Clock(jnp.int32(0), STEPS, EPOCH)
    state = {"batch_stats": variables["batch_stats"]}

    def ours(w):
        return METHOD.loss(Nets(network, None), {"w": w}, state, aux, sample, clock, jax.random.key(0))[0]

    targets = np.stack([similar64(w, sample.views[t][:, 0]) for t in range(2)])
    p = softmax64(targets / 0.2)

    def direct(w):
        pixels = jnp.concatenate(sample.views, axis=1).reshape(B, 4, -1)
        pixels = pixels / jnp.linalg.norm(pixels, axis=2, keepdims=True)
        cosines = pixels @ (w / jnp.linalg.norm(w, axis=0, keepdims=True))
        log_q = jax.nn.log_softmax(cosines / 0.1)
        terms = [-(p[t] * log_q[:, v]).sum(axis=1).mean() for t in range(2) for v in range(4) if v != t]
        return sum(terms) / len(terms)

    np.testing.assert_allclose(jax.grad(ours)(w), jax.grad(direct)(w), rtol=1e-3, atol=1e-5)


def test_views_are_those_of_the_released_code():
    """main_dino.py: DataAugmentationDINO."""
    first, second, local = DINO().views(Data(crop_scale=(0.4, 1.0), photometric="dino"))
    assert [(s.count, s.size, s.scale) for s in (first, second)] == [(1, 224, (0.4, 1.0))] * 2
    assert (local.count, local.size, local.scale) == (8, 96, (0.05, 0.4))
    assert [s.photometric for s in (first, second, local)] == ["dino", "dino_second", "dino_local"]
    assert len(DINO(local_views=0).views(Data())) == 2
    assert [s.count for s in DINO(global_views=3).views(Data())] == [1, 2, 8]


def test_served_is_the_backbone_of_the_teacher_and_the_prototypes_wait():
    aux = {"ema": {"params": {"backbone": 1, "head": 2}, "batch_stats": {"backbone": 3}}}
    assert DINO().served(None, aux) == {"params": {"backbone": 1}, "batch_stats": {"backbone": 3}}
    assert DINO(freeze_epochs=2.0).late_epochs() == 2.0
    assert DINO().late(("head", "prototypes")) and not DINO().late(("head", "linear1", "kernel"))


@pytest.mark.parametrize(("name", "options"), [("vit_small", {"patch": 8}), ("fd_vit_small", {"patch": 8})])
def test_a_local_view_that_patches_do_not_divide_is_refused(name, options):
    backbone = models.create(name, image_size=16, **options)
    of_run = Given(4, 0, 16, 10, 5)
    DINO(local_size=8).network(backbone, of_run)
    with pytest.raises(UserError, match=r"method\.local_size is 12, which student\.model cannot take\. An"):
        DINO(local_size=12).network(backbone, of_run)
    DINO(local_size=12, local_views=0).network(backbone, of_run)
