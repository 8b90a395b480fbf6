"""Online clustering against Sinkhorn's algorithm and a cross-entropy in float64."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from fake import CLOCK, FakeNetwork, batch, embed64, given, log_softmax64, unit64

from seed_jax import config
from seed_jax.config import Data
from seed_jax.errors import UserError
from seed_jax.methods.base import Nets
from seed_jax.methods.online_clustering import OnlineClustering

B, D, K = 6, 4, 5
METHOD = OnlineClustering(prototypes=K, temperature=0.3, epsilon=0.2, queue_size=2 * B)


class Scored(FakeNetwork):
    """`scores` are the products of its embedding, at length 1, with prototypes."""

    def apply(self, variables, x, train, keys=None):
        features, state = super().apply(variables, x, train, keys)
        z = features["embedding"]
        z = z / jnp.linalg.norm(z, axis=1, keepdims=True)
        return {"embedding": z, "scores": z @ variables["params"]["prototypes"]["kernel"]}, state


def assigned64(scores):
    """SwAV's algorithm 1 with its exponentials, rows of `[N, K]`."""
    q = np.exp(scores / 0.2)
    for _ in range(3):
        q = q / q.sum(axis=0, keepdims=True) / K
        q = q / q.sum(axis=1, keepdims=True)
    return q


def setting():
    network, sample = Scored(D), batch(B).views[0][:, 0]
    student, teacher = (FakeNetwork(D).init(jax.random.key(n), sample) for n in range(2))
    prototypes = {"kernel": jax.random.normal(jax.random.key(2), (D, K))}
    params = METHOD.project({**student["params"], "prototypes": prototypes}, CLOCK)
    return network, params, {"batch_stats": student["batch_stats"]}, teacher


def test_losses_over_four_steps_equal_the_formula():
    network, params, state, teacher = setting()
    kernel = np.asarray(params["prototypes"]["kernel"], np.float64)
    np.testing.assert_allclose(np.linalg.norm(kernel, axis=0), np.ones(K), rtol=1e-6)
    aux, past = METHOD.init_aux(jax.random.key(3), given(B, D), {}), np.zeros((0, D))

    @jax.jit
    def loss(aux, x):
        nets = Nets(network, lambda x, views: FakeNetwork(D).apply(teacher, x, False)[0])
        return METHOD.loss(nets, params, state, aux, x, CLOCK, jax.random.key(0))

    for n in range(4):
        x = batch(B, seed=n)
        z_s, z_t = (embed64(w, x.views[0][:, 0]) for w in (params["w"], teacher["params"]["w"]))
        q = assigned64(np.concatenate([past, z_t]) @ kernel)
        want = -(q[-B:] * log_softmax64(z_s @ kernel / 0.3)).sum(axis=1)
        value, out = loss(aux, x)
        np.testing.assert_allclose(value, want.mean(), rtol=1e-5)
        np.testing.assert_allclose(out.metrics["imbalance"], np.abs(K * q.mean(axis=0) - 1).max(), rtol=1e-3)
        entropy = -(q[-B:] * np.log(q[-B:])).sum(axis=1)
        np.testing.assert_allclose(out.metrics["assignment_entropy"], entropy, rtol=1e-4)
        np.testing.assert_allclose(out.metrics["teacher_cosine"], (z_s * z_t).sum(axis=1), atol=1e-5)
        aux, past = out.aux, np.concatenate([past, z_t])[-2 * B :]


def test_only_the_students_predictions_have_a_gradient():
    """The prototypes get the gradient of a cross-entropy whose targets are constant, written out here."""
    network, params, state, _ = setting()
    x, method = batch(B), OnlineClustering(prototypes=K, temperature=0.3, epsilon=0.2, queue_size=0)
    z_t = jnp.asarray(unit64(np.random.default_rng(1).standard_normal((B, D))), jnp.float32)

    def loss(params, z_t):
        nets = Nets(network, lambda x, views: {"embedding": z_t})
        return method.loss(nets, params, state, {}, x, CLOCK, jax.random.key(0))[0]

    of_params, of_teacher = jax.jit(jax.grad(loss, argnums=(0, 1)))(params, z_t)
    z_s = embed64(params["w"], x.views[0][:, 0])
    kernel = np.asarray(params["prototypes"]["kernel"], np.float64)
    q = assigned64(np.asarray(z_t, np.float64) @ kernel)
    want = z_s.T @ (np.exp(log_softmax64(z_s @ kernel / 0.3)) - q) / 0.3 / B
    np.testing.assert_allclose(of_params["prototypes"]["kernel"], want, rtol=1e-3, atol=1e-5)
    assert jnp.abs(of_params["w"]).max() > 1e-4 and not of_teacher.any()


def test_what_is_served_and_refused():
    assert METHOD.whole_batch()
    words = METHOD.notice({"imbalance": 2.0}, given(B))
    assert "3.0 times its share" in words and f"{B} rows and {2 * B} of the queue" in words
    assert set(METHOD.served({"params": {"backbone": 1, "head": 2, "prototypes": 3}}, {})["params"]) == {
        "backbone",
        "head",
    }
    for field, value, words in (
        ("prototypes", 1, "method.prototypes is 1: use 2 or more"),
        ("epsilon", 0.0, "method.epsilon is 0.0: use a value above 0"),
        ("queue_size", -1, "method.queue_size is -1: use 0 or more"),
    ):
        raw = config.default("online_clustering")
        raw.train.steps, raw.method[field] = 1, value
        with pytest.raises(UserError, match=words):
            config.resolve(raw)
    OnlineClustering(queue_size=0).check(Data(last="keep"), None)
    with pytest.raises(UserError, match="a slot of the queue takes a full batch"):
        METHOD.check(Data(last="keep"), None)
