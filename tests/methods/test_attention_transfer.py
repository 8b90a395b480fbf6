"""Attention transfer in all of its forms, in float64 against the same networks in torch and differences."""

import dataclasses
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from fake import CLOCK, batch
from torch.nn import functional as F

from seed_jax.errors import UserError
from seed_jax.methods.attention_transfer import AttentionTransfer
from seed_jax.methods.base import FeatureShapes, Given, Nets

CLASSES, SIDE = 4, 4


@pytest.fixture
def float64():
    with jax.enable_x64(True):
        yield


@dataclasses.dataclass(frozen=True)
class Smooth:
    """Two convolutions and softplus, which has a second derivative everywhere: `stage1, stage2, logits`."""

    channels: int
    calls: list = dataclasses.field(default_factory=list)

    def init(self, rng, sample):
        shapes = {"w1": (3, 3, 3, self.channels), "w2": (3, 3, self.channels, 6), "w3": (6, CLASSES)}
        keys = jax.random.split(rng, 3)
        pairs = zip(keys, shapes.items(), strict=True)
        params = {name: jax.random.normal(key, shape) / 2 for key, (name, shape) in pairs}
        return {"params": params, "batch_stats": {"seen": jnp.zeros(())}}

    def apply(self, variables, x, train, keys=None):
        self.calls.append((train, keys is not None))
        w, state = variables["params"], {"batch_stats": {"seen": variables["batch_stats"]["seen"] + train}}

        def conv(x, kernel):
            numbers = ("NHWC", "HWIO", "NHWC")
            return jax.lax.conv_general_dilated(x, kernel, (1, 1), "SAME", dimension_numbers=numbers)

        first = jax.nn.softplus(conv(x, w["w1"]))
        second = jax.nn.softplus(conv(first[:, ::2, ::2], w["w2"]))
        logits = second.mean(axis=(1, 2)) @ w["w3"]
        return {"stage1": first, "stage2": second, "pooled": logits, "logits": logits}, state


def in_torch(w, x):
    """The same network; maps are `[B, C, H, W]`."""
    first = F.softplus(F.conv2d(x, w["w1"].permute(3, 2, 0, 1), padding=1))
    second = F.softplus(F.conv2d(first[:, :, ::2, ::2], w["w2"].permute(3, 2, 0, 1), padding=1))
    return {"stage1": first, "stage2": second, "logits": second.mean((2, 3)) @ w["w3"]}


class Run:
    def __init__(self):
        self.student, self.teacher = Smooth(5), Smooth(7)
        drawn = batch(3, side=SIDE)
        self.batch = dataclasses.replace(drawn, views=(drawn.views[0].astype(jnp.float64),))
        networks = self.student, self.teacher
        self.variables, self.teachers = (
            jax.tree.map(lambda x: x.astype(jnp.float64), net.init(jax.random.key(i), None))
            for i, net in enumerate(networks)
        )
        self.asked = []

    def loss(self, method, params=None):
        def ask(x, views=None):
            self.asked.append(views)
            return self.teacher.apply(self.teachers, x, False)[0]

        params = self.variables["params"] if params is None else params
        state = {"batch_stats": self.variables["batch_stats"]}
        nets = Nets(self.student, ask)
        return method.loss(nets, params, state, {}, self.batch, CLOCK, jax.random.key(0))

    def tensors(self):
        def tensor(x, leaf=False):
            return torch.tensor(np.asarray(x), requires_grad=leaf)

        student = {name: tensor(w, leaf=True) for name, w in self.variables["params"].items()}
        teacher = {name: tensor(w) for name, w in self.teachers["params"].items()}
        x = tensor(self.batch.views[0][:, 0]).permute(0, 3, 1, 2)
        return SimpleNamespace(student=student, teacher=teacher, x=x, label=tensor(self.batch.label).long())


def torch_loss(t, method):
    """The paper's sum, with the activation part as szagoruyko/attention-transfer, utils.py, computes it."""

    def gradient(w, x, create_graph=True):
        x = x.clone().requires_grad_()
        ce = F.cross_entropy(in_torch(w, x)["logits"], t.label, reduction="sum")
        return torch.autograd.grad(ce, x, create_graph=create_graph)[0]

    def at(x):
        return F.normalize(x.pow(2).mean(1).view(len(x), -1))

    def norm(x):
        return x.reshape(len(x), -1).norm(dim=1).mean()

    student, teacher = in_torch(t.student, t.x), in_torch(t.teacher, t.x)
    total = method.gamma * F.cross_entropy(student["logits"], t.label)
    if method.alpha:
        log_s, p_t = F.log_softmax(student["logits"] / 4, 1), F.softmax(teacher["logits"] / 4, 1)
        total = total + method.alpha * 16 * F.kl_div(log_s, p_t, reduction="batchmean")
    if method.beta:
        stages = ("stage1", "stage2")
        total = total + method.beta * sum((at(student[s]) - at(teacher[s])).pow(2).mean() for s in stages)
    if method.gradient or method.symmetry:
        own = gradient(t.student, t.x)
    if method.gradient:
        total = total + method.gradient / 2 * norm(own - gradient(t.teacher, t.x, False))
    if method.symmetry:
        total = total + method.symmetry / 2 * norm(own - gradient(t.student, t.x.flip(3)).flip(3))
    return total


MAPS = AttentionTransfer(gamma=0.1, alpha=0.9)
GRADIENT = AttentionTransfer(beta=0.0, gradient=10.0)
SYMMETRY = AttentionTransfer(beta=0.0, symmetry=10.0)


@pytest.mark.parametrize(
    ("method", "passes", "asked"),
    [(MAPS, 1, [(0,)]), (GRADIENT, 2, [None]), (SYMMETRY, 3, [])],
    ids=["maps", "gradient", "symmetry"],
)
@pytest.mark.usefixtures("float64")
def test_value_and_gradient_are_those_of_torch(method, passes, asked):
    run = Run()
    total = jax.jit(jax.value_and_grad(lambda params: run.loss(method, params), has_aux=True))
    (value, out), found = total(run.variables["params"])
    tensors = run.tensors()
    want = torch_loss(tensors, method)
    want.backward()
    rtol = 1e-5 if method is MAPS else 1e-9  # the losses of maps and of logits are float32 inside
    np.testing.assert_allclose(value, want.item(), rtol=rtol)
    for name, w in tensors.student.items():
        np.testing.assert_allclose(found[name], w.grad, rtol=rtol, atol=rtol * w.grad.abs().max().item())
    assert out.model_state["batch_stats"]["seen"] == 1
    assert run.student.calls == [(True, True)] + (passes - 1) * [(False, False)]  # eval mode, no dropout
    assert run.asked == asked


@pytest.mark.parametrize("method", [GRADIENT, SYMMETRY], ids=["gradient", "symmetry"])
@pytest.mark.usefixtures("float64")
def test_second_derivatives_against_finite_differences(method):
    """Along random directions, to 1e-3 of the derivative."""
    run = Run()
    value = jax.jit(lambda params: run.loss(method, params)[0])
    params = run.variables["params"]
    found = jax.jit(jax.grad(value))(params)
    for seed in range(3):
        keys = dict(zip(params, jax.random.split(jax.random.key(seed), len(params)), strict=True))
        way = {name: jax.random.normal(keys[name], w.shape, jnp.float64) for name, w in params.items()}
        near, far = (jax.tree.map(lambda w, d, s=s: w + s * d, params, way) for s in (-1e-4, 1e-4))
        difference = (value(far) - value(near)) / 2e-4
        slope = sum(jnp.vdot(found[name], way[name]) for name in params)
        np.testing.assert_allclose(slope, difference, rtol=1e-3)


@pytest.mark.usefixtures("float64")
def test_gradients_by_pixels_against_finite_differences():
    """The metric is half the distance of two gradients that are found here pixel by pixel."""
    run = Run()
    _, out = run.loss(GRADIENT)
    x, label = run.batch.views[0][:, 0], run.batch.label

    def of(network, variables):
        def ce(x):
            log_p = jax.nn.log_softmax(network.apply(variables, x, False)[0]["logits"])
            return -log_p[jnp.arange(3), label]

        def one(pixel):
            return (ce(x + 1e-5 * pixel) - ce(x - 1e-5 * pixel)) / 2e-5

        pixels = jnp.eye(SIDE * SIDE * 3).reshape(-1, 1, SIDE, SIDE, 3)
        return jax.jit(jax.vmap(one))(pixels)

    differences = of(run.student, run.variables) - of(run.teacher, run.teachers)
    np.testing.assert_allclose(out.metrics["gradient"], jnp.linalg.norm(differences, axis=0) / 2, rtol=1e-3)


@pytest.mark.usefixtures("float64")
def test_chosen_maps_and_the_papers_form():
    run = Run()
    _, all_maps = run.loss(AttentionTransfer())
    loss, out = run.loss(AttentionTransfer(stages=("stage2",), form="norm", beta=3.0))
    assert {"attention_stage1", "attention_stage2"} <= set(all_maps.metrics)
    assert "attention_stage1" not in out.metrics
    norm = out.metrics["attention_stage2"]  # 4 / (H W) times its square is the other form
    np.testing.assert_allclose(4 * norm**2 / 4, all_maps.metrics["attention_stage2"], rtol=1e-5)
    np.testing.assert_allclose(loss, out.metrics["ce"].mean() + 3 * norm.mean(), rtol=1e-6)


def test_what_it_needs():
    assert AttentionTransfer().needs_teacher and GRADIENT.needs_teacher
    assert not SYMMETRY.needs_teacher


def given(**teacher):
    shapes = {name: jax.ShapeDtypeStruct((2, *shape), jnp.float32) for name, shape in teacher.items()}
    return Given(2, CLASSES, SIDE, 10, 5, FeatureShapes(shapes) if teacher else None)


SHAPES = {"stage1": (4, 4, 9), "stage2": (2, 2, 9), "logits": (4,)}


@pytest.mark.parametrize(
    ("fields", "teacher", "message"),
    [
        ({}, {"stage3": (4, 4, 9)}, "share no stage that is a map"),
        ({}, {"stage1": (16, 9)}, "share no stage that is a map"),
        ({"stages": ("stage3",)}, SHAPES, "the student has no map 'stage3': it has stage1, stage2"),
        ({"stages": ("stage1",)}, {"stage2": (2, 2, 9)}, "the teacher has no map 'stage1': it has stage2"),
        ({"stages": ("pooled",)}, SHAPES, "the student has no map 'pooled'"),
        ({}, {"stage2": (3, 3, 9)}, "the student's stage2 is 2x2 and the teacher's 3x3, and neither divides"),
        ({"alpha": 0.5}, {**SHAPES, "logits": (5,)}, "The teacher has 5 classes and the data 4"),
        ({"gradient": 0.5}, {"stage1": (4, 4, 9)}, "the method needs the teacher's 'logits'"),
    ],
)
def test_networks_that_do_not_fit_are_named(fields, teacher, message):
    with pytest.raises(UserError, match=message):
        AttentionTransfer(**fields).network(Smooth(5), given(**teacher))


def test_parts():
    method = AttentionTransfer(gradient=1.0)
    assert list(method.network(Smooth(5), given(**{**SHAPES, "stage1": (16, 8, 9)})).parts) == ["classifier"]
    assert list(SYMMETRY.network(Smooth(5), given()).parts) == ["classifier"]
    assert method.whole_batch() == ""


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"beta": -1.0}, "method.beta is -1.0: use 0 or more"),
        ({"gamma": 0.0, "beta": 0.0}, "are all 0"),
        ({"power": 0.5}, "method.power is 0.5: use 1 or more"),
        ({"form": "l2"}, "Unknown method.form 'l2'"),
        ({"reduce": "mean"}, "Unknown method.reduce 'mean'"),
        ({"temperature": 0.0}, "method.temperature is 0.0"),
        ({"stages": ("stage1", "stage1")}, "name each map once"),
    ],
)
def test_wrong_values_are_named(fields, message):
    with pytest.raises(UserError, match=message):
        AttentionTransfer(**fields).check(None, None)
