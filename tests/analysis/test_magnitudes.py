"""Gradient magnitudes of a network of two layers, by hand."""

import jax
import jax.numpy as jnp
import numpy as np

from seed_jax.analysis import gradient_magnitudes


def test_mean_absolute_gradient_of_each_kernel():
    draw = np.random.default_rng(0)
    x, a, b = draw.standard_normal((6, 3)), draw.standard_normal((3, 4)), draw.standard_normal((4, 2))
    params = {"first": {"kernel": a, "bias": np.zeros(4)}, "last": {"kernel": b}}

    def loss(params):
        first, last = params["first"], params["last"]
        return jnp.square((x @ first["kernel"] + first["bias"][None]) @ last["kernel"]).sum()

    got = gradient_magnitudes(jax.grad(loss)(jax.tree.map(jnp.float32, params)))
    y = 2 * x @ a @ b
    want = {"first/kernel": np.abs(x.T @ y @ b.T).mean(), "last/kernel": np.abs((x @ a).T @ y).mean()}
    assert got.keys() == want.keys()
    for name, value in want.items():
        np.testing.assert_allclose(got[name], value, rtol=1e-5)
