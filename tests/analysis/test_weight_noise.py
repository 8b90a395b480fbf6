"""Noise on the weights: its moments, and BatchNorm's statistics against NumPy on a real network."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from tiny import Tiny

from seed_jax.analysis import noisy, recomputed_statistics
from seed_jax.models.network import LinenNetwork


def weights():
    draw = np.random.default_rng(0)
    return {
        "conv": {"kernel": jnp.asarray(draw.normal(1.0, 0.2, (3, 3, 50, 60)), jnp.float32)},
        "bn": {"scale": jnp.ones(7)},
    }


@pytest.mark.parametrize(("relative", "scale"), [(True, 0.5 * 0.2), (False, 0.5)])
def test_noise_has_the_standard_deviation_that_was_asked_for(relative, scale):
    params = weights()
    changed = noisy(jax.random.key(1), params, 0.5, relative=relative)
    noise = np.asarray(changed["conv"]["kernel"], np.float64) - np.asarray(params["conv"]["kernel"])
    np.testing.assert_allclose(noise.std(), scale, rtol=0.02)
    np.testing.assert_allclose(noise.mean(), 0, atol=0.02 * scale)
    same = np.array_equal(changed["bn"]["scale"], params["bn"]["scale"])
    assert same == relative  # its values are all equal, so its own standard deviation is 0


def test_noise_of_a_tensor_does_not_depend_on_the_others_and_grows_with_sigma():
    params, key = weights(), jax.random.key(2)
    alone = noisy(key, {"conv": params["conv"]}, 0.3)
    both = noisy(key, params, 0.3)
    np.testing.assert_array_equal(alone["conv"]["kernel"], both["conv"]["kernel"])
    twice = noisy(key, params, 0.6)["conv"]["kernel"] - params["conv"]["kernel"]
    once = both["conv"]["kernel"] - params["conv"]["kernel"]
    np.testing.assert_allclose(twice, 2 * once, atol=1e-6)
    np.testing.assert_array_equal(noisy(key, params, 0.0)["conv"]["kernel"], params["conv"]["kernel"])


def test_two_tensors_have_different_noise():
    params = {"a": jnp.zeros(100), "b": jnp.zeros(100)}
    changed = noisy(jax.random.key(0), params, 1.0, relative=False)
    assert abs(np.corrcoef(changed["a"], changed["b"])[0, 1]) < 0.4


def test_statistics_are_those_of_the_batches():
    network = LinenNetwork(Tiny(bn_group=4, dropout=0.0), mean=(0, 0, 0), std=(1, 1, 1))
    images = jax.random.uniform(jax.random.key(0), (3, 8, 8, 8, 3))
    variables = network.init(jax.random.key(1), images[0])
    params, state = variables["params"], {"batch_stats": variables["batch_stats"]}
    params["conv2"]["kernel"] *= 30  # far from the statistics of a fresh network

    def forward(state, x):
        return network.apply({"params": params, **state}, x, True)[1]

    anew = jax.jit(lambda state: recomputed_statistics(forward, state, images))(state)["batch_stats"]
    maps = jax.lax.conv_general_dilated(
        images.reshape(24, 8, 8, 3),
        params["conv1"]["kernel"],
        (2, 2),
        ((1, 1), (1, 1)),
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
    )
    groups = np.asarray(maps, np.float64).reshape(6, -1, maps.shape[-1])
    np.testing.assert_allclose(anew["bn1"]["mean"], groups.mean(axis=1).mean(axis=0), atol=1e-5)
    np.testing.assert_allclose(anew["bn1"]["var"], groups.var(axis=1, ddof=1).mean(axis=0), rtol=1e-4)
    again = recomputed_statistics(forward, {"batch_stats": anew}, images)["batch_stats"]
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-5), again, anew)


def test_a_layer_that_keeps_its_statistics_and_a_network_without_any():
    state = {"batch_stats": jnp.float32(3)}
    np.testing.assert_array_equal(
        recomputed_statistics(lambda state, x: state, state, jnp.ones((2, 4)))["batch_stats"], 3
    )
    assert recomputed_statistics(None, {}, jnp.ones((2, 4))) == {}
