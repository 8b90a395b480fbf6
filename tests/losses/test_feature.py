"""Feature distillation against float64 NumPy and torch."""

import functools

import jax.numpy as jnp
import numpy as np
import pytest
import torch
from numeric import assert_equals_float64, assert_finite, assert_same_on_8_devices, draw
from torch.nn import functional as F

from seed_jax.losses import fd_loss, normalise_tokens, token_distances
from seed_jax.losses.feature import DISTANCES, NORMALISATIONS


def target64(x, how):
    x = np.float64(x)
    if how == "l2":
        return x / np.linalg.norm(x, axis=2, keepdims=True)
    if how == "none":
        return x
    axes = 2 if how == "layernorm" else (0, 1)
    return (x - x.mean(axis=axes, keepdims=True)) / np.sqrt(x.var(axis=axes, keepdims=True) + 1e-5)


@pytest.mark.parametrize("beta", [2.0, 0.5])
@pytest.mark.parametrize("normalise", NORMALISATIONS)
def test_in_float64(normalise, beta):
    student, teacher = draw(2, 3, 5, seed=1), draw(2, 3, 5, seed=2) + 1

    def direct(student):
        d = np.abs(student - target64(teacher, normalise))
        return np.where(d < beta, d**2 / (2 * beta), d - beta / 2).mean(axis=(1, 2))

    assert_equals_float64(
        functools.partial(fd_loss, teacher=teacher, beta=beta, normalise=normalise), direct, student
    )


@pytest.mark.parametrize("beta", [0.0, 1.0, 2.0])
def test_it_is_torchs_smooth_l1_of_torchs_layer_norm(beta):
    student, teacher = draw(4, 6, 8, seed=1, scale=3.0), draw(4, 6, 8, seed=2)
    target = F.layer_norm(torch.from_numpy(teacher), (8,))
    want = F.smooth_l1_loss(torch.from_numpy(student), target, beta=beta)
    np.testing.assert_allclose(fd_loss(student, teacher, beta=beta).mean(), want, rtol=1e-5)


@pytest.mark.parametrize("distance", DISTANCES)
def test_distances_in_float64(distance):
    student, target = draw(2, 3, 5, seed=1), draw(2, 3, 5, seed=2)

    def direct(student):
        d = np.abs(student - target)
        smooth = np.where(d < 1, d**2 / 2, d - 0.5).mean(axis=2)
        lengths = np.linalg.norm(student, axis=2) * np.linalg.norm(np.float64(target), axis=2)
        cosine = 1 - (student * target).sum(axis=2) / lengths
        mixed = 0.7 * cosine + 0.3 * smooth
        return {"smooth_l1": smooth, "mse": (d**2).mean(axis=2), "cosine": cosine, "mix": mixed}[distance]

    loss = functools.partial(token_distances, target=target, distance=distance, beta=1.0, mix=0.7)
    assert_equals_float64(loss, direct, student)
    assert_finite(loss, np.zeros_like(student))


@pytest.mark.parametrize("how", ["layernorm", "standardise"])
def test_tokens_far_from_0_are_normalised_as_exactly(how):
    tokens = draw(2, 4, 16, seed=3) + 1000
    np.testing.assert_allclose(normalise_tokens(tokens, how), target64(tokens, how), atol=2e-4)


def test_bfloat16_is_computed_in_float32():
    student, teacher = (jnp.asarray(draw(2, 3, 8, seed=seed), jnp.bfloat16) for seed in (1, 2))
    want = fd_loss(student.astype(jnp.float32), teacher.astype(jnp.float32))
    np.testing.assert_array_equal(fd_loss(student, teacher), want)


def test_tokens_of_0_are_safe():
    for how in NORMALISATIONS:
        assert_finite(functools.partial(fd_loss, teacher=np.zeros((2, 3, 4)), normalise=how), draw(2, 3, 4))


@pytest.mark.parametrize("normalise", NORMALISATIONS)
def test_the_same_on_8_devices(normalise):
    assert_same_on_8_devices(
        functools.partial(fd_loss, normalise=normalise), draw(8, 3, 4, seed=1), draw(8, 3, 4, seed=2)
    )


@pytest.mark.parametrize(
    ("student", "options", "message"),
    [
        (draw(2, 3, 5), {}, "student and target"),
        (np.zeros((2, 3, 4), int), {}, "student"),
        (draw(2, 3, 4), {"beta": -1.0}, "beta is -1.0: use 0 or more"),
        (draw(2, 3, 4), {"normalise": "batch"}, "normalise is 'batch': use one of layernorm, l2"),
    ],
)
def test_mistakes(student, options, message):
    with pytest.raises(AssertionError, match=message):
        fd_loss(student, draw(2, 3, 4), **options)
