"""SEED + MoCo v2 against both formulas in float64."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from fake import CLOCK, FakeNetwork, batch, embed64, given, log_softmax64

from seed_jax import config
from seed_jax.config import Data
from seed_jax.errors import UserError
from seed_jax.methods.base import Nets
from seed_jax.methods.seed_moco import SeedMoCo

B, D = 8, 6
METHOD = SeedMoCo(tau_teacher=0.05, temperature=0.3, momentum=0.9, weight=0.5, queue_size=2 * B)


def seed64(z_s, z_t, queue):
    own = (z_s * z_t).sum(axis=1, keepdims=True), (z_t * z_t).sum(axis=1, keepdims=True)
    log_q = log_softmax64(np.concatenate([own[0], z_s @ queue.T], axis=1) / 0.2)
    p = np.exp(log_softmax64(np.concatenate([own[1], z_t @ queue.T], axis=1) / 0.05))
    return -(p * log_q).sum(axis=1)


def info_nce64(query, key, queue):
    logits = np.concatenate([(query * key).sum(axis=1, keepdims=True), query @ queue.T], axis=1) / 0.3
    return -log_softmax64(logits)[:, 0]


def test_losses_queues_and_average_over_three_steps():
    """The third step overwrites the first slot of both queues."""
    network, sample = FakeNetwork(D), batch(B).views[0][:, 0]
    student, teacher, ema = (network.init(jax.random.key(n), sample) for n in range(3))
    aux = METHOD.init_aux(jax.random.key(7), given(B, D), student)
    np.testing.assert_array_equal(aux["ema"]["params"]["w"], student["params"]["w"])
    aux["ema"]["params"] = ema["params"]
    average, w = np.asarray(ema["params"]["w"], np.float64), student["params"]["w"]
    past = keys = np.zeros((0, D))

    @jax.jit
    def loss(aux, x, rng):
        nets = Nets(network, lambda x, views: network.apply(teacher, x, False)[0])
        return METHOD.loss(
            nets, student["params"], {"batch_stats": student["batch_stats"]}, aux, x, CLOCK, rng
        )

    for n in range(3):
        x = batch(B, views=2, seed=n)
        value, out = loss(aux, x, jax.random.key(n))
        average = 0.9 * average + 0.1 * np.asarray(w, np.float64)
        first, second = x.views[0][:, 0], x.views[0][:, 1]
        z_s, z_t, key = embed64(w, first), embed64(teacher["params"]["w"], first), embed64(average, second)
        distilled, contrasted = seed64(z_s, z_t, past), info_nce64(z_s, key, keys)
        np.testing.assert_allclose(value, (distilled + 0.5 * contrasted).mean(), rtol=1e-4, atol=1e-5)
        np.testing.assert_allclose(out.metrics["seed_loss"], distilled, rtol=1e-4, atol=1e-5)
        np.testing.assert_allclose(out.metrics["moco_loss"], contrasted, rtol=1e-4, atol=1e-5)
        np.testing.assert_allclose(out.metrics["teacher_cosine"], (z_s * z_t).sum(axis=1), atol=1e-5)
        np.testing.assert_allclose(out.aux["queue"].slots[n % 2], z_t, atol=1e-5)
        np.testing.assert_allclose(out.aux["keys"].slots[n % 2], key, atol=1e-5)
        np.testing.assert_allclose(out.aux["ema"]["params"]["w"], average, rtol=1e-5, atol=1e-6)
        aux = out.aux
        past, keys = np.concatenate([past, z_t])[-2 * B :], np.concatenate([keys, key])[-2 * B :]


def test_the_teacher_sees_the_students_view_and_noise_differs():
    network, x = FakeNetwork(D), batch(B, views=2)
    student, asked = network.init(jax.random.key(0), x.views[0][:, 0]), []
    method = SeedMoCo(queue_size=B, queue_start="noise")
    aux = method.init_aux(jax.random.key(7), given(B, D), student)
    assert jnp.abs(aux["queue"].slots - aux["keys"].slots).max() > 0.1
    nets = Nets(network, lambda *args: asked.append(args) or {"embedding": jnp.ones((B, D))})
    state = {"batch_stats": student["batch_stats"]}
    method.loss(nets, student["params"], state, aux, x, CLOCK, jax.random.key(1))
    ((seen, views),) = asked
    assert views == (0,) and [call["train"] for call in network.calls] == [True, True]
    np.testing.assert_array_equal(seen, network.calls[0]["x"])
    assert [view.count for view in method.views(Data())] == [2]


def test_mistakes():
    for key, value, words in (
        ("method.tau_teacher", 0.0, "method.tau_teacher is 0.0: use a value above 0"),
        ("method.momentum", 2.0, "method.momentum is 2.0: use 0 to 1"),
        ("method.weight", -1.0, "method.weight is -1.0: use 0 or more"),
        ("train.bn_group", 0, "train.bn_group is 0: MoCo needs groups smaller than the batch"),
        ("data.last", "keep", "a slot of the queue takes a full batch"),
    ):
        raw = config.default("seed_moco")
        raw.train.steps, raw.train.bn_group = 1, 8
        raw.update_from_flattened_dict({key: value})
        with pytest.raises(UserError, match=words):
            config.resolve(raw)
