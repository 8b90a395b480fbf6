"""K-means pseudo-labels: what is clustered, the cross entropy, what is refused."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from fake import CLOCK, FakeNetwork, batch, log_softmax64, unit64
from sklearn.cluster import KMeans as SklearnKMeans

from seed_jax import config, parallel
from seed_jax.errors import UserError
from seed_jax.methods.base import Nets
from seed_jax.methods.kmeans import KMeans


def test_clusters_are_those_of_features_of_length_1():
    numbers = np.random.default_rng(0)
    directions = numbers.standard_normal((3, 8))
    own = np.repeat(np.arange(3), 20)
    x = directions[own] + 0.1 * numbers.standard_normal((60, 8))
    x *= numbers.uniform(0.1, 10, (60, 1))  # lengths that would mix the clusters
    offline = KMeans(clusters=3).offline(60)
    mesh = parallel.make_mesh(jax.devices()[:1])
    rows, note = offline.find(x.astype(np.float32), np.arange(60), mesh, 0)
    found = rows["cluster"]
    assert (found.dtype, found.shape, note) == (np.int32, (60,), "")
    theirs = SklearnKMeans(3, n_init=10, random_state=0).fit(unit64(x)).labels_
    np.testing.assert_array_equal(found[:, None] == found, theirs[:, None] == theirs)
    np.testing.assert_array_equal(theirs[:, None] == theirs, own[:, None] == own)


def test_a_search_that_has_not_converged_says_so():
    x = np.random.default_rng(0).standard_normal((200, 3)).astype(np.float32)
    mesh = parallel.make_mesh(jax.devices()[:1])
    _, note = KMeans(clusters=20, iterations=1).offline(200).find(x, np.arange(200), mesh, 0)
    assert re.fullmatch(
        r"k-means has not converged: [1-9]\d* of 200 images changed .* after method.iterations=1", note
    )


class Scored(FakeNetwork):
    def apply(self, variables, x, train, keys=None):
        features, state = super().apply(variables, x, train, keys)
        return {"scores": features["embedding"]}, state


def test_the_loss_is_the_cross_entropy_of_the_cluster():
    x, network = batch(6), Scored(5)
    variables = network.init(jax.random.key(0), x.views[0][:, 0])
    cluster = jnp.array([0, 4, 2, 2, 1, 3], jnp.int32)
    params, state = variables["params"], {"batch_stats": variables["batch_stats"]}
    seen = x.replace(targets={"cluster": cluster})
    value, out = KMeans(clusters=5).loss(
        Nets(network, None), params, state, {}, seen, CLOCK, jax.random.key(0)
    )
    pixels = np.asarray(x.views[0][:, 0], np.float64).reshape(6, -1)
    log_p = log_softmax64(pixels @ np.asarray(params["w"], np.float64))
    np.testing.assert_allclose(value, -log_p[np.arange(6), cluster].mean(), rtol=1e-5)
    np.testing.assert_array_equal(out.metrics["cluster_accuracy"], log_p.argmax(axis=1) == cluster)


def test_what_is_served_and_refused():
    served = KMeans().served({"params": {"backbone": 1, "clusters": 2}}, {})
    assert served == {"params": {"backbone": 1}}
    for field, value, words in (
        ("clusters", 1, "method.clusters is 1: use 2 or more"),
        ("feature", "tokens", "Unknown method.feature 'tokens': it is one of embedding, pooled"),
        ("iterations", 0, "method.iterations is 0: use 1 or more"),
    ):
        raw = config.default("kmeans")
        raw.train.steps, raw.method[field] = 1, value
        with pytest.raises(UserError, match=words):
            config.resolve(raw)
    with pytest.raises(UserError, match="has only 40 images: use --config.method.clusters=4, or more images"):
        KMeans(clusters=41).offline(40)
