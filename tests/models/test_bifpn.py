"""The self-teacher: sizes as published, values against torch, gradients into the backbone."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from flax import linen as nn
from torch.nn import functional as F

from seed_jax import models
from seed_jax.errors import UserError
from seed_jax.models.bifpn import SelfTeacher, _pooled


def count(tree):
    return sum(leaf.size for leaf in jax.tree.leaves(tree))


@pytest.mark.parametrize(
    ("settings", "parameters", "share"), [({}, 411_885, 0.59), ({"channels": 256}, 681_581, 0.97)]
)
def test_sizes_beside_wrn_16_2_are_the_published_ones(settings, parameters, share):
    network = models.Joined(
        models.create("wrn_16_2", num_classes=100), {"teacher": SelfTeacher(100, **settings)}
    )
    images = jax.ShapeDtypeStruct((2, 32, 32, 3), jnp.float32)
    params = jax.eval_shape(network.init, jax.random.key(0), images)["params"]
    assert count(params["teacher"]) == parameters
    assert count(params["backbone"]) == pytest.approx(703_060, rel=1e-3)  # its norms are at other places
    assert count(params["teacher"]) / count(params["backbone"]) == pytest.approx(share, abs=0.005)


def maps(sides=(8, 4, 2), channels=(3, 4, 5), batch=4):
    numbers = np.random.default_rng(0)
    return {
        f"stage{i + 1}": jnp.asarray(numbers.standard_normal((batch, side, side, width)), jnp.float32)
        for i, (side, width) in enumerate(zip(sides, channels, strict=True))
    }


def drawn(part, features):
    """Variables with every parameter drawn, so that none is 0 or 1."""
    variables = part.init(jax.random.key(0), features, train=False)
    leaves, treedef = jax.tree.flatten(variables["params"])
    numbers = np.random.default_rng(1)
    leaves = [jnp.asarray(numbers.standard_normal(x.shape) / 2 + 0.3, jnp.float32) for x in leaves]
    return {**variables, "params": jax.tree.unflatten(treedef, leaves)}


class Restated:
    """The released layer, written in torch with our parameters and batch statistics; maps are NCHW."""

    def __init__(self, params, mode):
        self.params = jax.tree.map(lambda x: torch.tensor(np.array(x)), params)
        self.mode = mode

    def conv(self, name, x, groups=1):
        kernel = self.params[name]["kernel"].permute(3, 2, 0, 1)
        return F.conv2d(x, kernel, padding=kernel.shape[-1] // 2, groups=groups)

    def norm(self, name, x):
        return F.batch_norm(x, None, None, self.params[name]["scale"], self.params[name]["bias"], True)

    def point(self, name, x):
        known = f"{name}_conv" in self.params
        return F.relu(self.norm(f"{name}_norm", self.conv(f"{name}_conv", x))) if known else x

    def node(self, name, *inputs):
        w = F.relu(self.params[f"{name}_weights"])
        w = w / (w.sum() + 1e-6)
        x = sum(a * b for a, b in zip(w, inputs, strict=True))
        for i in (1, 2):
            x = self.conv(f"{name}_depthwise{i}", F.relu(x) if i > 1 else x, groups=x.shape[1])
            x = self.norm(f"{name}_norm{i}", self.conv(f"{name}_conv{i}", x))
        return x

    def up(self, i, x):
        options = {} if self.mode == "nearest" else {"align_corners": False}
        return self.point(f"up{i}", F.interpolate(F.relu(x), scale_factor=2, mode=self.mode, **options))

    def down(self, i, x):
        return self.point(f"down{i}", F.max_pool2d(F.pad(F.relu(x), (0, 1, 0, 1)), 3, 2))

    def __call__(self, a, b, c):
        a1, b1, c1 = (self.point(f"lateral{i}", F.relu(x)) for i, x in ((1, a), (2, b), (3, c)))
        b2, c2 = (self.point(f"second_lateral{i}", F.relu(x)) for i, x in ((2, b), (3, c)))
        p2 = self.node("top_down2", b1, self.up(2, c1))
        t1 = self.node("top_down1", a1, self.up(1, p2))
        t2 = self.node("bottom_up2", b2, F.relu(p2), self.down(2, t1))
        t3 = self.node("bottom_up3", c2, self.down(3, t2))
        logits = F.relu(t3).mean((2, 3)) @ self.params["fc"]["kernel"] + self.params["fc"]["bias"]
        return [F.relu(t1), F.relu(t2), F.relu(t3), logits]


@pytest.mark.parametrize("upsample", ["nearest", "bilinear"])
@pytest.mark.parametrize("channels", [0, 6])
def test_values_are_those_of_the_released_layer(channels, upsample):
    features = maps()
    part = SelfTeacher(7, channels=channels, upsample=upsample)
    variables = drawn(part, features)
    got, _ = part.apply(variables, features, train=True, mutable=["batch_stats"])
    inputs = [torch.tensor(np.array(x)).permute(0, 3, 1, 2) for x in features.values()]
    *want, logits = Restated(variables["params"], upsample)(*inputs)
    for i, x in enumerate(want):
        np.testing.assert_allclose(
            got[f"teacher_stage{i + 1}"], x.permute(0, 2, 3, 1), rtol=1e-3, atol=1e-4, err_msg=str(i)
        )
    np.testing.assert_allclose(got["teacher_logits"], logits, rtol=1e-3, atol=1e-4)
    np.testing.assert_allclose(got["teacher_pooled"], want[-1].mean((2, 3)), rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("sides", [(8, 8), (7, 7), (7, 8), (1, 2)])
def test_pooling_and_its_gradient_against_flax(sides, stride):
    x = jnp.asarray(np.random.default_rng(2).random((2, *sides, 3)), jnp.float32)
    want, pull = jax.vjp(lambda x: nn.max_pool(x, (3, 3), (stride, stride), "SAME"), x)
    got, pull_ours = jax.vjp(lambda x: _pooled(x, stride), x)
    np.testing.assert_array_equal(got, want)
    np.testing.assert_allclose(*(np.asarray(f(1 + want)[0]) for f in (pull_ours, pull)), rtol=1e-6)


def test_it_reads_the_maps_before_the_last_relu():
    features = maps()
    part = SelfTeacher(7)
    variables = part.init(jax.random.key(0), features, train=False)
    normed = {name.replace("stage", "preact"): -x for name, x in features.items()}
    got = part.apply(variables, features | normed, train=False)
    want = part.apply(variables, {name: -x for name, x in features.items()}, train=False)
    np.testing.assert_array_equal(got["teacher_logits"], want["teacher_logits"])


@pytest.mark.parametrize("detach", [True, pytest.param(False, marks=pytest.mark.long)])
def test_what_reaches_the_backbone(detach):
    features = maps()
    part = SelfTeacher(7, detach=detach)
    variables = part.init(jax.random.key(0), features, train=False)

    def total(features):
        return jnp.square(part.apply(variables, features, train=False)["teacher_logits"]).sum()

    reached = [float(jnp.abs(x).max()) > 0 for x in jax.tree.leaves(jax.grad(total)(features))]
    assert reached == [not detach] * 3


def test_odd_sides_and_equal_sides():
    features = maps(sides=(7, 4, 4))
    part = SelfTeacher(7)
    added = jax.eval_shape(lambda: part.init_with_output(jax.random.key(0), features, train=False)[0])
    assert [added[f"teacher_stage{i}"].shape for i in (1, 2, 3)] == [
        (4, 7, 7, 6),
        (4, 4, 4, 8),
        (4, 4, 4, 10),
    ]


@pytest.mark.parametrize(
    ("features", "words"),
    [
        ({"stage1": jnp.zeros((2, 9, 4)), "stage2": jnp.zeros((2, 9, 4))}, "two stages .* backbone has 0"),
        ({"stage1": jnp.zeros((2, 4, 4, 3))}, "two stages .* backbone has 1"),
        (maps(sides=(8, 2, 1)), "stage2 has 2 x 2 pixels and stage1 8 x 8"),
    ],
)
def test_backbones_without_such_maps(features, words):
    with pytest.raises(UserError, match=f"student.model: .*{words}"):
        SelfTeacher(7).init(jax.random.key(0), features, train=False)
