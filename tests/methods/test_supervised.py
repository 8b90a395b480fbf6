"""Cross-entropy against NumPy, and the frozen backbone of a linear probe."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from fake import CLOCK, batch, log_softmax64
from tiny import Tiny

from seed_jax import models
from seed_jax.errors import UserError
from seed_jax.methods.base import Given, Nets
from seed_jax.methods.supervised import Supervised
from seed_jax.train import student


class Logits:
    """Answers with fixed logits."""

    def __init__(self, logits):
        self.logits = logits

    def apply(self, variables, x, train, keys=None):
        return {"logits": jnp.asarray(self.logits)}, {}


def test_cross_entropy_and_accuracy():
    x = batch(8)
    logits = np.random.default_rng(1).standard_normal((8, 4)).astype(np.float32) * 3
    loss, out = Supervised().loss(Nets(Logits(logits), None), {}, {}, {}, x, CLOCK, jax.random.key(0))
    label = np.asarray(x.label)
    want = -log_softmax64(logits.astype(np.float64))[np.arange(8), label]
    np.testing.assert_allclose(loss, want.mean(), rtol=1e-5)
    np.testing.assert_array_equal(out.metrics["accuracy"], logits.argmax(axis=1) == label)


def test_soft_targets():
    """Smoothed labels and the virtual teacher of Tf-KD_reg, in float64."""
    x, logits = batch(8), np.random.default_rng(1).standard_normal((8, 4)).astype(np.float32) * 3

    def loss(**fields):
        nets = Nets(Logits(logits), None)
        return Supervised(**fields).loss(nets, {}, {}, {}, x, CLOCK, jax.random.key(0))[0]

    log_p, label = log_softmax64(logits.astype(np.float64)), np.asarray(x.label)
    targets = np.full((8, 4), 0.1 / 4) + 0.9 * np.eye(4)[label]
    np.testing.assert_allclose(loss(smoothing=0.1), -(targets * log_p).sum(axis=1).mean(), rtol=1e-5)
    p = np.where(np.eye(4)[label] > 0, 0.99, 0.01 / 3) / 20
    p = np.exp(p) / np.exp(p).sum(axis=1, keepdims=True)
    taught = (p * (np.log(p) - log_p)).sum(axis=1).mean()
    np.testing.assert_allclose(loss(virtual_teacher=0.1), 0.9 * loss() + 0.1 * taught, rtol=1e-5)


def test_what_is_frozen():
    backbone, classifier = ("backbone", "conv1", "kernel"), ("classifier", "fc", "kernel")
    assert Supervised(freeze="backbone").frozen(backbone)
    assert not Supervised(freeze="backbone").frozen(classifier)
    assert not Supervised().frozen(backbone)


@pytest.mark.parametrize(("freeze", "spread"), [("backbone", 0.01), ("", 1 / np.sqrt(3 * 256))])
def test_the_start_of_the_classifier(freeze, spread):
    """N(0, 0.01) for a probe, as in its paper; else PyTorch's Linear, uniform within 1 / sqrt(256)."""
    classifier = Supervised(freeze=freeze).network(None, Given(4, 100, 16, 6, 6)).parts["classifier"]
    kernel = classifier.init(jax.random.key(0), {"pooled": jnp.ones((1, 256))}, False)["params"]["fc"][
        "kernel"
    ]
    np.testing.assert_allclose(kernel.std(), spread, rtol=0.05)


def test_the_start_of_a_fine_tuned_classifier():
    classifier = Supervised(classifier_std=2e-5).network(None, Given(4, 100, 16, 6, 6)).parts["classifier"]
    fc = classifier.init(jax.random.key(0), {"pooled": jnp.ones((1, 256))}, False)["params"]["fc"]
    np.testing.assert_allclose(fc["kernel"].std(), 2e-5, rtol=0.05)
    np.testing.assert_array_equal(fc["bias"], 0)


def test_a_normalised_probe_is_served_as_the_plain_classifier_that_computes_the_same():
    """In float64: (x - mean) / sqrt(var + 1e-6), then the Linear; also from a loaded run's point of view."""
    given = Given(16, 5, 8, 6, 6)
    method = Supervised(freeze="backbone", batch_norm=True)
    network = method.network(models.LinenNetwork(Tiny(features=6)), given)
    x = jax.random.uniform(jax.random.key(1), (16, 8, 8, 3))
    variables = network.init(jax.random.key(0), x)
    assert variables["params"]["classifier"].keys() == {"fc"}
    before, trained = network.apply(variables, x, True, jax.random.split(jax.random.key(2), 16))
    pooled = np.asarray(before["pooled"], np.float64)
    fc = jax.tree.map(lambda leaf: np.asarray(leaf, np.float64), variables["params"]["classifier"]["fc"])
    want = (pooled - pooled.mean(0)) / np.sqrt(pooled.var(0) + 1e-6) @ fc["kernel"] + fc["bias"]
    np.testing.assert_allclose(before["logits"], want, rtol=1e-3, atol=1e-5)

    stats = {"bn": {"mean": pooled.mean(0).astype(np.float32), "var": pooled.var(0).astype(np.float32)}}
    trained = {"batch_stats": {**trained["batch_stats"], "classifier": stats}}
    whole = {"params": variables["params"], **trained}
    logits = network.apply(whole, x, False)[0]["logits"]
    served, shapes = student.served(method, network, given, jax.eval_shape(lambda: whole))
    folded = method.served(whole, {})
    assert jax.tree.map(jnp.shape, folded) == jax.tree.map(jnp.shape, shapes)
    assert "classifier" not in folded.get("batch_stats", {})
    np.testing.assert_allclose(served.apply(folded, x, False)[0]["logits"], logits, rtol=1e-3, atol=1e-5)
    plain = Supervised(freeze="backbone").network(network.backbone, given)
    np.testing.assert_allclose(plain.apply(folded, x, False)[0]["logits"], logits, rtol=1e-3, atol=1e-5)
    assert jax.tree.structure(plain.init(jax.random.key(0), x)) == jax.tree.structure(folded)


def test_bad_input():
    with pytest.raises(UserError, match="method.freeze is 'head': use 'backbone' or an empty string"):
        Supervised(freeze="head")
    with pytest.raises(UserError, match="method.smoothing is 1.5: use 0 to 1"):
        Supervised(smoothing=1.5)
