"""Inputs by formula, gradients by differences, and the two questions that every loss is asked."""

import jax
import jax.numpy as jnp
import numpy as np

from seed_jax import parallel


def wave(rows, columns, phase):
    """`[rows, columns]` in float64 from -3 to 3: what the released code was run on, without a generator."""
    return 3 * np.sin(1.7 * np.arange(rows * columns) ** 1.3 + phase).reshape(rows, columns)


def draw(*shape, seed=0, scale=2.0):
    return (scale * np.random.default_rng(seed).standard_normal(shape)).astype(np.float32)


def softmax(x):
    e = np.exp(x - x.max(axis=-1, keepdims=True))
    return e / e.sum(axis=-1, keepdims=True)


def gradient(direct, x, step=1e-5):
    """The gradient of the sum of `direct(x)` at a float64 array, by central differences."""
    found = np.zeros_like(x)
    for index in np.ndindex(x.shape):
        moved = np.zeros_like(x)
        moved[index] = step
        found[index] = (np.sum(direct(x + moved)) - np.sum(direct(x - moved))) / (2 * step)
    return found


def value_and_gradient(loss, x):
    """`loss(x)` and the gradient of its sum, in one compiled program."""

    def total(x):
        value = loss(x)
        return value.sum(), value

    (_, value), found = jax.jit(jax.value_and_grad(total, has_aux=True))(jnp.asarray(x, jnp.float32))
    return np.asarray(value), np.asarray(found)


def assert_equals_float64(loss, direct, x, rtol=1e-5):
    """Values to 1e-5 of each, gradients to 1e-5 of the largest."""
    value, got = value_and_gradient(loss, x)
    assert value.dtype == jnp.float32
    np.testing.assert_allclose(value, direct(np.float64(x)), rtol=rtol, atol=1e-7)
    want = gradient(direct, np.float64(x))
    np.testing.assert_allclose(got, want, rtol=rtol, atol=rtol * np.abs(want).max())


def assert_released(loss, x, value, first_row):
    """The mean over the batch and the gradient of the first sample are those of the released code."""
    got, gradient = value_and_gradient(lambda x: loss(x).mean(), x)
    np.testing.assert_allclose(got, value, rtol=1e-5)
    np.testing.assert_allclose(gradient[0], first_row, rtol=1e-5, atol=1e-5 * np.abs(first_row).max())


def assert_same_on_8_devices(loss, *args):
    """Values and gradients with the batches sharded are those of one device, in one float32 array each."""

    def both(*args):
        return loss(*args), jax.grad(lambda x: loss(x, *args[1:]).sum())(args[0])

    want = jax.jit(both)(*args)
    mesh = parallel.make_mesh()
    with jax.set_mesh(mesh):
        got = jax.jit(both)(*(jax.device_put(x, parallel.batch_sharding(mesh)) for x in args))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=2e-6), got, want)


def assert_finite(loss, x):
    value, gradient = value_and_gradient(lambda x: loss(x).sum(), x)
    assert np.isfinite(value) and np.isfinite(gradient).all(), (value, gradient)
    return value, gradient
