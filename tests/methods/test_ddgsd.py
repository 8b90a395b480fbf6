"""DDGSD against NumPy in float64: two views of each image, and which gradients stop."""

import jax
import numpy as np
import pytest
from fake import CLOCK, FakeNetwork, batch, given, log_softmax64

from seed_jax import config
from seed_jax.errors import UserError
from seed_jax.methods.base import Nets
from seed_jax.methods.ddgsd import DDGSD


class Logits(FakeNetwork):
    def apply(self, variables, x, train, keys=None):
        features, state = super().apply(variables, x, train, keys)
        return {"logits": features["embedding"], "pooled": features["embedding"] ** 2}, state


def direct(views, label, w, fixed, weight=2.0, features=0.5, temperature=3.0):
    """`fixed`: the logits of the two views that are targets."""
    logits = [x @ w for x in views]
    rows = np.arange(len(label))
    total = np.mean([-log_softmax64(z)[rows, label].mean() for z in logits])
    for student, teacher in ((logits[0], fixed[1]), (logits[1], fixed[0])):
        log_p, log_q = log_softmax64(teacher / temperature), log_softmax64(student / temperature)
        total += weight * temperature**2 * (np.exp(log_p) * (log_p - log_q)).sum(axis=1).mean()
    means = [(z**2).mean(axis=0) for z in logits]
    return total + features * ((means[0] - means[1]) ** 2).sum()


def test_loss_and_gradient_in_float64():
    network, seen = Logits(4), batch(5, views=2)
    variables = network.init(jax.random.key(0), seen.views[0][:, 0])
    state = {"batch_stats": variables["batch_stats"]}
    method = DDGSD(weight=2.0, features=0.5, temperature=3.0)

    def loss(params):
        return method.loss(Nets(network, None), params, state, {}, seen, CLOCK, jax.random.key(1))

    (value, out), gradient = jax.value_and_grad(loss, has_aux=True)(variables["params"])
    views = [np.asarray(seen.views[0][:, v], np.float64).reshape(5, -1) for v in range(2)]
    w, label = np.float64(variables["params"]["w"]), np.asarray(seen.label)
    fixed = [x @ w for x in views]
    np.testing.assert_allclose(value, direct(views, label, w, fixed), rtol=1e-5)
    assert out.metrics["ce"].shape == out.metrics["accuracy"].shape == out.metrics["kd"].shape == (5,)
    for row, column in ((0, 0), (5, 2), (11, 3)):
        step = np.zeros_like(w)
        step[row, column] = 1e-5
        near, far = (direct(views, label, w + s * step, fixed) for s in (-1, 1))
        np.testing.assert_allclose(gradient["w"][row, column], (far - near) / 2e-5, rtol=1e-3, atol=1e-4)
    (call,) = network.calls
    assert call["x"].shape[0] == 10 and out.model_state["batch_stats"]["seen"] == 1
    assert len({tuple(key) for key in jax.random.key_data(call["keys"]).tolist()}) == 10


def test_two_views_drawn_alike():
    data = config.Data()
    (spec,) = DDGSD().views(data)
    assert (spec.count, spec.size, spec.photometric) == (2, data.image_size, data.photometric)
    assert list(DDGSD().network(None, given(8)).parts) == ["classifier"]


def test_only_the_means_compare_samples():
    assert DDGSD().whole_batch() == "method.features compares means over the batch"
    assert DDGSD(features=0.0).whole_batch() == ""


@pytest.mark.parametrize("field", ["weight", "temperature", "features"])
def test_wrong_values_are_named(field):
    with pytest.raises(UserError, match=f"method.{field} is -1.0"):
        DDGSD(**{field: -1.0}).check(None, None)
