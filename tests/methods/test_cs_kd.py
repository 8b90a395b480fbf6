"""CS-KD against NumPy in float64, given the pairs; and how pairs are drawn."""

from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from fake import CLOCK, FakeNetwork, batch, given, log_softmax64

from seed_jax.errors import UserError
from seed_jax.methods.base import Nets
from seed_jax.methods.cs_kd import CSKD, partners

LABEL = np.array([0, 1, 0, 2, 1, 0, 0])  # class 2 is alone


class Logits(FakeNetwork):
    def apply(self, variables, x, train, keys=None):
        features, state = super().apply(variables, x, train, keys)
        return {"logits": features["embedding"]}, state


def run(label=LABEL, **fields):
    network, seen = Logits(4), batch(len(label)).replace(label=jnp.asarray(label))
    variables = network.init(jax.random.key(0), seen.views[0][:, 0])
    state = {"batch_stats": variables["batch_stats"]}

    def loss(params):
        key = jax.random.key(3)
        return CSKD(**fields).loss(Nets(network, None), params, state, {}, seen, CLOCK, key)

    (value, out), gradient = jax.value_and_grad(loss, has_aux=True)(variables["params"])
    x = np.asarray(seen.views[0][:, 0], np.float64).reshape(len(label), -1)
    return x, np.float64(variables["params"]["w"]), value, out, gradient["w"]


def direct(x, w, targets, partner, weight=3.0, temperature=4.0):
    """`targets`: the logits of which the partner's are taken, held fixed."""
    logits = x @ w
    ce = -log_softmax64(logits)[np.arange(len(x)), LABEL]
    kd = []
    for i, j in partner.items():
        log_p, log_q = (log_softmax64(z[None] / temperature)[0] for z in (targets[j], logits[i]))
        kd.append(temperature**2 * (np.exp(log_p) * (log_p - log_q)).sum())
    return ce.mean() + weight * np.mean(kd)


def test_loss_and_gradient_in_float64():
    x, w, value, out, gradient = run(weight=3.0)
    drawn, paired = partners(jax.random.key(3), jnp.asarray(LABEL))
    assert np.asarray(paired).tolist() == [True, True, True, False, True, True, True]
    partner = {i: int(drawn[i]) for i in range(7) if paired[i]}
    assert all(i != j and LABEL[i] == LABEL[j] for i, j in partner.items())
    np.testing.assert_allclose(value, direct(x, w, x @ w, partner), rtol=1e-5)
    np.testing.assert_allclose(out.metrics["paired"].mean(), 6 / 7, rtol=1e-6)
    assert out.model_state["batch_stats"]["seen"] == 1
    for row, column in ((0, 0), (5, 2), (11, 3)):
        step = np.zeros_like(w)
        step[row, column] = 1e-5
        near, far = (direct(x, w + s * step, x @ w, partner) for s in (-1, 1))
        np.testing.assert_allclose(gradient[row, column], (far - near) / 2e-5, rtol=1e-3, atol=1e-4)


def test_partners_are_drawn_evenly_and_anew():
    draws = jax.vmap(lambda key: partners(key, jnp.asarray(LABEL))[0])(
        jax.random.split(jax.random.key(0), 600)
    )
    counts = np.bincount(np.asarray(draws)[:, 0], minlength=7)
    assert counts[[0, 1, 3, 4]].sum() == 0
    assert (counts[[2, 5, 6]] > 150).all()  # 200 each, plus or minus 12


def test_a_batch_without_pairs_has_the_cross_entropy_alone():
    _, _, value, out, gradient = run(np.array([0, 1, 2, 3]))
    np.testing.assert_allclose(value, out.metrics["ce"].mean(), rtol=1e-6)
    assert out.metrics["kd"] == 0 and np.isfinite(gradient).all()


def test_a_step_needs_the_whole_batch():
    assert CSKD().whole_batch() == "it pairs the images of a class"
    assert list(CSKD().network(None, given(8)).parts) == ["classifier"]


@pytest.mark.parametrize(
    ("fields", "size", "message"),
    [
        ({"weight": -1.0}, 8, "method.weight is -1.0"),
        ({"temperature": 0.0}, 8, "method.temperature is 0.0"),
        ({}, 1, "data.batch_size is 1: use --config.data.batch_size=2"),
    ],
)
def test_wrong_values_are_named(fields, size, message):
    with pytest.raises(UserError, match=message):
        CSKD(**fields).check(SimpleNamespace(batch_size=size), None)
