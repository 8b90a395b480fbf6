"""Losses of attention maps against float64 NumPy, the released forms restated in torch, and properties."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from numeric import assert_equals_float64, assert_finite, assert_same_on_8_devices, draw
from torch.nn import functional as F

from seed_jax.losses import (
    attention_map,
    attention_transfer_loss,
    fsp_loss,
    fsp_matrix,
    input_gradient_loss,
    sad_loss,
)


def map64(x, power, reduce):
    powers = np.abs(np.float64(x)) ** power
    return powers.sum(axis=3) if reduce == "sum" else powers.max(axis=3)


def unit64(maps):
    flat = maps.reshape(len(maps), -1)
    return flat / np.linalg.norm(flat, axis=1, keepdims=True)


@pytest.mark.parametrize("reduce", ["sum", "max"])
@pytest.mark.parametrize("power", [1, 2, 2.5, 4])
def test_maps(power, reduce):
    x = draw(2, 3, 4, 5)
    got = attention_map(x, power=power, reduce=reduce)
    np.testing.assert_allclose(got, map64(x, power, reduce), rtol=1e-5)
    assert_finite(functools.partial(attention_map, power=power, reduce=reduce), np.zeros((1, 2, 2, 3)))


@pytest.mark.parametrize("form", ["mean_square", "norm"])
@pytest.mark.parametrize(("power", "reduce"), [(2, "sum"), (4, "sum"), (1, "max")])
def test_attention_transfer_in_float64(power, reduce, form):
    student, teacher = draw(3, 2, 3, 4, seed=1), draw(3, 2, 3, 6, seed=2)

    def direct(student):
        d = unit64(map64(student, power, reduce)) - unit64(map64(teacher, power, reduce))
        squares = (d**2).sum(axis=1)
        return squares / 6 if form == "mean_square" else np.sqrt(squares) / 2

    loss = functools.partial(attention_transfer_loss, teacher=teacher, power=power, reduce=reduce, form=form)
    assert_equals_float64(loss, direct, student)


def test_attention_transfer_is_the_released_one():
    """The mean over the batch of szagoruyko/attention-transfer, utils.py, which averages over channels."""
    student, teacher = draw(4, 3, 3, 5, seed=1), draw(4, 3, 3, 7, seed=2)

    def at(x):
        return F.normalize(torch.tensor(x).permute(0, 3, 1, 2).pow(2).mean(1).view(len(x), -1))

    want = (at(student) - at(teacher)).pow(2).mean()
    np.testing.assert_allclose(attention_transfer_loss(student, teacher).mean(), want, rtol=1e-5)


@pytest.mark.parametrize("larger", ["student", "teacher"])
def test_the_larger_features_are_averaged_as_in_repdistiller(larger):
    sides = {"student": 2, "teacher": 2, larger: 6}
    student, teacher = (draw(3, side, side, 5, seed=side) for side in sides.values())

    def at(x):
        pooled = F.adaptive_avg_pool2d(torch.tensor(x).permute(0, 3, 1, 2), 2)
        return F.normalize(pooled.pow(2).mean(1).view(len(x), -1))

    want = (at(student) - at(teacher)).pow(2).mean()
    np.testing.assert_allclose(attention_transfer_loss(student, teacher).mean(), want, rtol=1e-5)


def test_distance_of_input_gradients():
    first, second = draw(3, 2, 4, 3, seed=1), draw(3, 2, 4, 3, seed=2)

    def direct(first):
        return np.linalg.norm((first - np.float64(second)).reshape(3, -1), axis=1) / 2

    assert_equals_float64(lambda x: input_gradient_loss(x, second), direct, first)
    value, gradient = assert_finite(lambda x: input_gradient_loss(x, second), second)
    assert value == 0 and not gradient.any()
    np.testing.assert_allclose(
        jax.grad(lambda x: input_gradient_loss(first, x).sum())(jnp.asarray(second)),
        -jax.grad(lambda x: input_gradient_loss(x, second).sum())(jnp.asarray(first)),
        rtol=1e-6,
    )


def test_nan_stays_visible():
    x = draw(2, 2, 2, 3)
    broken = np.where(np.arange(2).reshape(2, 1, 1, 1) == 0, np.float32(np.nan), x)
    norm = functools.partial(attention_transfer_loss, form="norm")
    for loss in (input_gradient_loss, attention_transfer_loss, norm):
        assert np.isnan(loss(jnp.asarray(broken), x)).tolist() == [True, False]


def test_one_form_follows_from_the_other():
    student, teacher = draw(4, 3, 5, 2, seed=1), draw(4, 3, 5, 2, seed=2)
    norm = attention_transfer_loss(student, teacher, form="norm")
    np.testing.assert_allclose(attention_transfer_loss(student, teacher), 4 * norm**2 / 15, rtol=1e-5)


@pytest.mark.parametrize("form", ["mean_square", "norm"])
def test_dead_and_equal_maps_have_a_finite_gradient(form):
    x = draw(2, 2, 2, 3)
    loss = functools.partial(attention_transfer_loss, form=form)
    value, gradient = assert_finite(lambda s: loss(s, x), x)
    assert 0 <= value < 1e-6
    assert np.abs(gradient).max() < 1e-6 or form == "norm"  # rounding has a direction, of length 1 / 2
    assert_finite(lambda s: loss(s, x), np.zeros_like(x))
    assert_finite(lambda s: loss(s, np.zeros_like(x)), x)
    _, to_teacher = jax.value_and_grad(lambda t: loss(x, t).sum())(jnp.asarray(x[::-1]))
    assert not to_teacher.any()


def bilinear64(maps, height, width):
    """Half-pixel centres, edges repeated, no antialiasing."""

    def weights(new, old):
        centres = np.clip((np.arange(new) + 0.5) * old / new - 0.5, 0, old - 1)
        low = np.floor(centres).astype(int)
        matrix = np.zeros((new, old))
        for i, (at, start) in enumerate(zip(centres, low, strict=True)):
            matrix[i, start] += 1 - (at - start)
            matrix[i, min(start + 1, old - 1)] += at - start
        return matrix

    return weights(height, maps.shape[1]) @ maps @ weights(width, maps.shape[2]).T


@pytest.mark.parametrize("side", [2, 3, 6, 12])
@pytest.mark.parametrize("reduction", ["sum", "mean"])
def test_sad_in_float64(reduction, side):
    shallow, deep = draw(2, 6, 6, 3, seed=1, scale=0.7), draw(2, side, side, 5, seed=2, scale=0.5)

    def direct(shallow):
        maps = map64(shallow, 2, "sum"), bilinear64(map64(deep, 2, "sum"), 6, 6)
        a, b = (x.reshape(2, -1) - x.max() for x in maps)
        a, b = (np.exp(x) / np.exp(x).sum(axis=1, keepdims=True) for x in (a, b))
        squares = ((a - b) ** 2).sum(axis=1)
        return squares if reduction == "sum" else squares / 36

    assert_equals_float64(functools.partial(sad_loss, deep=deep, reduction=reduction), direct, shallow)


def test_sad_resizes_as_torch_does():
    deep = draw(2, 3, 5, 4)
    maps = torch.tensor(deep).permute(0, 3, 1, 2).pow(2).sum(1, keepdim=True)
    larger = F.interpolate(maps, (6, 7), mode="bilinear", align_corners=False)[:, 0].numpy()
    np.testing.assert_allclose(bilinear64(map64(deep, 2, "sum"), 6, 7), larger, rtol=1e-4)


def test_the_mean_of_sad_does_nothing():
    """Two different points in a map of 36 x 100, the size of ENet-SAD's: 2 against 2 / 3600."""
    a, b = np.zeros((1, 36, 100, 1), np.float32), np.zeros((1, 36, 100, 1), np.float32)
    a[0, 3, 4], b[0, 30, 70] = 10.0, 10.0
    np.testing.assert_allclose(sad_loss(a, b), 2.0, rtol=1e-5)
    np.testing.assert_allclose(sad_loss(a, b, reduction="mean"), 5.6e-4, rtol=1e-2)


def test_both_stages_of_sad_receive_a_gradient_unless_stopped():
    a, b = draw(2, 4, 4, 3, seed=1), draw(2, 2, 2, 3, seed=2)
    for gradient in jax.grad(lambda a, b: sad_loss(a, b).sum(), (0, 1))(a, b):
        assert np.abs(gradient).max() > 0
    stopped = jax.grad(lambda b: sad_loss(a, jax.lax.stop_gradient(b)).sum())(b)
    assert not stopped.any()


def test_fsp_in_float64():
    """Position by position, as in RepDistiller's FSP.py, with the larger map averaged to the smaller one."""
    student = draw(2, 4, 4, 3, seed=1), draw(2, 2, 2, 5, seed=2)
    teacher = draw(2, 2, 2, 3, seed=3), draw(2, 2, 2, 5, seed=4)

    def flow(first, second):
        first = np.float64(first)
        if first.shape[1] == 4:
            first = first.reshape(2, 2, 2, 2, 2, 3).mean(axis=(2, 4))
        return np.einsum("bhwc,bhwd->bcd", first, np.float64(second)) / 4

    np.testing.assert_allclose(fsp_matrix(*student), flow(*student), rtol=1e-5, atol=1e-6)

    def direct(first):
        return ((flow(first, student[1]) - flow(*teacher)) ** 2).mean(axis=(1, 2))

    assert_equals_float64(lambda first: fsp_loss((first, student[1]), teacher), direct, student[0])


def test_sharding_does_not_matter():
    student, teacher = draw(16, 4, 4, 3, seed=1), draw(16, 4, 4, 5, seed=2)
    for loss in (attention_transfer_loss, sad_loss):
        assert_same_on_8_devices(loss, student, teacher)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda x: attention_map(x[0]), "features"),
        (lambda x: attention_map(x, power=0.5), "power is 0.5"),
        (lambda x: attention_map(x, reduce="mean"), "reduce is 'mean'"),
        (lambda x: attention_transfer_loss(x, x, form="l1"), "form is 'l1'"),
        (lambda x: attention_transfer_loss(x, x[:, :3, :3]), "does not divide"),
        (lambda x: input_gradient_loss(x, x[:, :1]), "shape"),
        (lambda x: sad_loss(x, x, reduction="batch"), "reduction is 'batch'"),
        (lambda x: fsp_matrix(x, x[:, :3, :3]), "does not divide"),
        (lambda x: fsp_loss((x, x), (x, x[..., :1])), "FSP matrices"),
    ],
)
def test_wrong_arguments_are_named(call, message):
    with pytest.raises(AssertionError, match=message):
        call(draw(2, 4, 4, 3))
