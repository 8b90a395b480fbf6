"""SimSiam against facebookresearch/simsiam, simsiam/builder.py, on a network of one matrix product."""

import jax.numpy as jnp
import numpy as np
import pytest
from siamese import pixels, train, wave

from seed_jax import config
from seed_jax.errors import UserError
from seed_jax.methods.simsiam import SimSiam

METHOD = SimSiam(dim=5, bottleneck=3)


def test_three_steps_equal_the_released_code():
    """It ran in float64. The predictor's first bias, which it lacks, is undone by the norm behind it."""

    def change(params):
        params["predictor"]["linear2"]["bias"] = jnp.asarray(wave(1, 5, 0.5)[0], jnp.float32)

    def views(n):
        return (jnp.concatenate([pixels(n, 0), pixels(n, 1)], axis=1),)

    losses, params, out = train(METHOD, 3, 0.5, views, change)
    np.testing.assert_allclose(losses, [0.16465514, 0.04431024, 0.10988086], rtol=1e-3)
    weights = [-0.00363389, 0.89351466, -0.77979235, 0.65293994, -0.69525727, 0.84368452, -0.88657287]
    np.testing.assert_allclose(params["backbone"]["w"][0], weights, rtol=1e-3, atol=1e-4)
    means = out.model_state["batch_stats"]["head"]["bn1"]["mean"][:4]
    np.testing.assert_allclose(means, [0.62968458, 0.68117789, 0.52301269, -0.62025412], rtol=1e-3)
    bias = [1.40803517, 2.46674617, -2.99774966, 2.89027961, -2.92471738]
    np.testing.assert_allclose(params["predictor"]["linear2"]["bias"], bias, rtol=1e-3)
    assert 0 < out.metrics["embedding_std"] < 1 / np.sqrt(5) + 0.01
    assert set(METHOD.served({"params": params}, {})["params"]) == {"backbone", "head"}


def test_what_is_not_trained():
    assert METHOD.frozen(("head", "bn3", "scale")) and METHOD.frozen(("head", "bn3", "bias"))
    assert not METHOD.frozen(("head", "bn2", "scale")) and not METHOD.frozen(("predictor", "bn1", "bias"))


def test_mistakes():
    for field, value in (("dim", 0), ("bottleneck", 0), ("hidden", -1)):
        raw = config.default("simsiam")
        raw.train.steps, raw.method[field] = 1, value
        with pytest.raises(UserError, match=rf"method\.{field} is {value}: use"):
            config.resolve(raw)
