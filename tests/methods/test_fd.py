"""Feature distillation: which tokens are compared, with what weight, and what is refused."""

import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny
import torch
from torch.nn import functional as F

from seed_jax import config, models
from seed_jax.errors import UserError
from seed_jax.methods.base import Batch, Clock, FeatureShapes, Given, Nets
from seed_jax.methods.fd import FD, PROJECTED
from seed_jax.models.fd_vit import FDVisionTransformer
from seed_jax.models.network import Joined
from seed_jax.models.vit import VisionTransformer

IMAGES = jnp.zeros((2, 16, 16, 3))
SMALL = {"patch": 4, "image_size": 16}
FD_VIT = models.LinenNetwork(FDVisionTransformer(12, 4, 3, **SMALL))


def draw(*shape, seed=0):
    return (2 * np.random.default_rng(seed).standard_normal(shape)).astype(np.float32)


def loss(method, projected, teacher, befores=(1, 1)):
    """Value and metrics for features that are given; `befores`: tokens before the grid, of both networks."""
    student = types.SimpleNamespace(
        apply=lambda *_: ({PROJECTED: jnp.asarray(projected)}, {}), prefix_tokens=befores[0]
    )
    nets = Nets(student, lambda x, views: {name: jnp.asarray(x) for name, x in teacher.items()}, befores[1])
    batch = Batch((IMAGES[:, None],), jnp.zeros(2, jnp.int32), jax.random.split(jax.random.key(0), 2))
    value, out = method.loss(nets, {}, {}, {}, batch, Clock(jnp.int32(0), 1, 1), jax.random.key(1))
    return value, out.metrics


def whitened(x):
    return F.layer_norm(torch.from_numpy(x), x.shape[-1:])


def test_all_tokens_count_alike_as_in_the_released_code():
    student, teacher = draw(2, 10, 6, seed=1), draw(2, 10, 6, seed=2)
    value, metrics = loss(FD(), student, {"tokens": teacher})
    target = whitened(teacher)
    want = F.smooth_l1_loss(torch.from_numpy(student), target, beta=2.0)
    np.testing.assert_allclose(value, want, rtol=1e-5)
    cosine = F.cosine_similarity(torch.from_numpy(student), target, dim=-1).mean(dim=1)
    np.testing.assert_allclose(metrics["cosine"], cosine, rtol=1e-4, atol=1e-6)


def test_the_weight_of_the_cls_token():
    student, teacher = draw(2, 10, 6, seed=1), draw(2, 10, 6, seed=2)
    each = F.smooth_l1_loss(torch.from_numpy(student), whitened(teacher), beta=2.0, reduction="none").mean(2)
    for weight in (0.0, 3.0):
        value, _ = loss(FD(cls_weight=weight), student, {"tokens": teacher})
        want = (weight * each[:, 0] + each[:, 1:].sum(dim=1)) / (weight + 9)
        np.testing.assert_allclose(value, want.mean(), rtol=1e-5)


def test_registers_and_a_lone_cls_token_are_left_out():
    student, teacher = draw(2, 9, 6, seed=1), draw(2, 14, 6, seed=2)  # a map of 3 x 3; cls and 4 registers
    value, _ = loss(FD(), student.reshape(2, 3, 3, 6), {"tokens": teacher}, (0, 5))
    want = F.smooth_l1_loss(torch.from_numpy(student), whitened(teacher[:, 5:]), beta=2.0)
    np.testing.assert_allclose(value, want, rtol=1e-5)


def test_a_smaller_grid_of_the_student_is_resized():
    student, teacher = draw(2, 2, 2, 6, seed=1), draw(2, 4, 4, 6, seed=2)
    value, _ = loss(FD(), student, {"stage1": draw(2, 8, 8, 3), "stage2": teacher}, (0, 0))
    resized = F.interpolate(torch.from_numpy(student).permute(0, 3, 1, 2), (4, 4), mode="bilinear")
    want = F.smooth_l1_loss(resized.permute(0, 2, 3, 1), whitened(teacher), beta=2.0)
    np.testing.assert_allclose(value, want, rtol=1e-5)


@pytest.mark.parametrize("side", [1, 2])
def test_the_smallest_grids(side):
    """With four registers, 2 x 2 patches are nine tokens, as 3 x 3 patches without any are."""
    student, teacher = draw(2, side**2, 6, seed=1), draw(2, 5 + side**2, 6, seed=2)
    value, _ = loss(FD(), student, {"tokens": teacher}, (0, 5))
    want = F.smooth_l1_loss(torch.from_numpy(student), whitened(teacher[:, 5:]), beta=2.0)
    np.testing.assert_allclose(value, want, rtol=1e-5)


def test_the_teachers_tokens_before_its_final_norm():
    student, before = draw(2, 10, 6, seed=1), draw(2, 10, 6, seed=2)
    features = {"stage3": draw(2, 10, 6), "stage4": before, "tokens": draw(2, 10, 6, seed=3)}
    value, _ = loss(FD(final_norm=False), student, features)
    want = F.smooth_l1_loss(torch.from_numpy(student), whitened(before), beta=2.0)
    np.testing.assert_allclose(value, want, rtol=1e-5)


@pytest.mark.parametrize("target", ["cls", "pooled", "logits"])
def test_one_vector(target):
    student, teacher = draw(2, 6, seed=1), draw(2, 10, 6, seed=2)
    features = {"tokens": teacher, "pooled": teacher[:, 0], "logits": teacher[:, 4]}
    value, _ = loss(FD(target=target, distance="mse", normalise="none"), student, features)
    want = {"cls": teacher[:, 0], "pooled": teacher[:, 1:].mean(axis=1), "logits": teacher[:, 4]}[target]
    np.testing.assert_allclose(value, np.square(student - want).mean(), rtol=1e-5)


def test_pooled_is_the_mean_over_patches_of_both():
    student, teacher = draw(2, 17, 6, seed=1), draw(2, 10, 6, seed=2)
    value, _ = loss(FD(target="pooled", distance="mse", normalise="none"), student, {"tokens": teacher})
    want = np.square(student[:, 1:].mean(axis=1) - teacher[:, 1:].mean(axis=1)).mean()
    np.testing.assert_allclose(value, want, rtol=1e-5)


def test_what_compares_samples_says_so():
    assert FD().whole_batch() == ""
    assert FD(normalise="standardise").whole_batch() == "method.normalise standardises over the batch"


def given(features, before=1):
    return Given(2, 0, 16, 1, 1, FeatureShapes(features), teacher_prefix=before)


def shape(*sizes):
    return jax.ShapeDtypeStruct(sizes, jnp.float32)


@pytest.mark.parametrize(
    ("model", "options", "target", "entry", "width"),
    [
        ("fd_vit_small", SMALL, "tokens", "tokens", 8),
        ("fd_vit_small", SMALL, "cls", "tokens", 8),
        ("fd_vit_small", SMALL, "logits", "pooled", 5),
        ("cifar_resnet8", {}, "tokens", "stage3", 8),
        ("cifar_resnet8", {}, "cls", "pooled", 8),
    ],
)
def test_the_projector(model, options, target, entry, width):
    backbone = models.create(model, **options)
    teacher = {"tokens": shape(2, 17, 8), "pooled": shape(2, 8), "logits": shape(2, 5)}
    network = FD(target=target).network(backbone, given(teacher))
    projector = network.parts["projector"]
    assert (projector.of, projector.width) == (entry, width)
    variables = jax.eval_shape(network.init, jax.random.key(0), IMAGES)
    assert set(FD().served(variables, {})["params"]) == {"backbone"}


@pytest.mark.parametrize(
    ("fields", "teacher", "message"),
    [
        ({"target": "cls"}, {"stage1": shape(2, 4, 4, 8)}, "the teacher has no cls token: use 'pooled'"),
        ({"target": "logits"}, {"pooled": shape(2, 8)}, "the method needs the teacher's 'logits'"),
        ({}, {"pooled": shape(2, 8)}, "the method needs the teacher's 'tokens'"),
    ],
)
def test_teachers_that_lack_the_target(fields, teacher, message):
    with pytest.raises(UserError, match=message):
        FD(**fields).network(models.create("cifar_resnet8"), given(teacher, 0))


@pytest.mark.parametrize(
    ("network", "tokens", "before"),
    [
        (models.create("cifar_resnet8"), 16, 0),  # a map
        (FD_VIT, 21, 5),  # registers
        (FD_VIT, 16, 0),  # no cls token
        (FD_VIT, 10, 1),  # another grid
    ],
)
def test_parity_refuses_what_the_released_code_cannot_pair(network, tokens, before):
    teacher = given({"tokens": shape(2, tokens, 8)}, before)
    FD().network(network, teacher)
    with pytest.raises(UserError, match=rf"method.parity is set, .* {tokens} tokens \({before} of them"):
        FD(parity=True).network(network, teacher)


def test_parity_takes_equal_grids():
    teacher = given({"tokens": shape(2, 17, 8)})
    assert FD(parity=True).network(FD_VIT, teacher).parts.keys() == {"projector"}
    FD(parity=True).check_teacher(Joined(FD_VIT, {}))


@pytest.mark.parametrize("module", [FDVisionTransformer, VisionTransformer])
def test_parity_refuses_tokens_without_their_final_norm(module):
    pooled = models.LinenNetwork(module(12, 4, 3, pool="mean", **SMALL))
    FD().check_teacher(Joined(pooled, {}))
    with pytest.raises(UserError, match="the teacher has pool='mean', so no final norm of its tokens"):
        FD(parity=True).check_teacher(Joined(pooled, {}))
    with pytest.raises(UserError, match="the student has pool='mean'"):
        FD(parity=True).network(pooled, given({"tokens": shape(2, 17, 8)}))


def test_patches_that_are_no_square_are_named():
    with pytest.raises(UserError, match="a network has 11 patches, which are not a square"):
        FD().network(FD_VIT, given({"tokens": shape(2, 12, 8)}))


def test_a_student_without_tokens_and_maps_is_named():
    network = models.LinenNetwork(tiny.Tiny())
    with pytest.raises(UserError, match="the student has neither tokens nor a map: use 'pooled'"):
        FD().network(network, given({"tokens": shape(2, 17, 8)}))
    pooled = FD(target="pooled").network(network, given({"tokens": shape(2, 17, 8)}))
    assert pooled.parts["projector"].of == "pooled"


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"target": "token"}, "method.target 'token': did you mean 'tokens'"),
        ({"normalise": "batch"}, "method.normalise"),
        ({"distance": "l1"}, "method.distance"),
        ({"beta": -1.0}, "method.beta is -1.0: use 0 or more"),
        ({"cls_weight": -1.0}, "method.cls_weight is -1.0: use 0 or more"),
        ({"mix": 1.5}, "method.mix is 1.5: use 0 to 1"),
        ({"parity": True, "beta": 1.0}, "method.beta is 1.0, where the released code has 2.0: use that"),
        (
            {"parity": True, "final_norm": False},
            "method.final_norm is False, where the released code has True",
        ),
    ],
)
def test_mistakes_are_named(fields, message):
    raw = config.default("fd")
    raw.train.steps = 4
    raw.method.update(fields)
    with pytest.raises(UserError, match=message):
        config.resolve(raw)
