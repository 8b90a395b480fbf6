"""SwAV against train() of facebookresearch/swav, main_swav.py: losses, prototypes, queue over two epochs."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from fake import FakeNetwork, given, unit64

from seed_jax import config, models
from seed_jax.config import Data
from seed_jax.errors import UserError
from seed_jax.losses import sinkhorn
from seed_jax.methods.base import Batch, Clock, Given, Nets
from seed_jax.methods.swav import SwAV

B, D, K, EPOCH = 4, 3, 5, 4
METHOD = SwAV(
    prototypes=K,
    dim=D,
    temperature=0.3,
    epsilon=0.25,
    queue_size=2 * B,
    queue_from=1,
    freeze_epochs=0.5,
    local_views=2,
)


class Assigned(FakeNetwork):
    """`embedding` is one matrix product, `scores` its products, at length 1, with prototypes."""

    def apply(self, variables, x, train, keys=None):
        features, state = super().apply(variables, x, train, keys)
        z = features["embedding"]
        z = z / jnp.linalg.norm(z, axis=1, keepdims=True)
        return {"embedding": z, "scores": z @ variables["params"]["prototypes"]["kernel"]}, state


def wave(rows, columns, phase):
    return 3 * np.sin(1.7 * np.arange(rows * columns) ** 1.3 + phase).reshape(rows, columns)


def images(n):
    """Two global views and two local ones of the batch of a step."""
    pixels = np.stack([wave(B, 12, 0.1 + n + 0.37 * v).reshape(B, 2, 2, 3) for v in range(4)], axis=1)
    pixels = jnp.asarray(pixels, jnp.float32)
    keys = jax.random.split(jax.random.key(n), B)
    return Batch((pixels[:, :2], pixels[:, 2:]), jnp.zeros(B, jnp.int32), keys)


def test_two_epochs_equal_the_released_code():
    """Plain gradient descent at 0.05, prototypes that wait for two steps, a queue from the second epoch on:
    it fills in two steps, and the assignments of the next two use it. The released code ran in float64 on
    the same linear network; the figures are its losses, and its prototypes after the last step."""
    network = Assigned(D)
    params = {
        "w": jnp.asarray(wave(12, D, 0.3), jnp.float32),
        "prototypes": {"kernel": jnp.asarray(wave(D, K, 0.7), jnp.float32)},
    }
    state, aux, losses = {"batch_stats": {"seen": jnp.zeros(())}}, METHOD.init_aux(None, given(B), None), []

    @jax.jit
    def step(params, aux, seen, n):
        clock = Clock(n, 2 * EPOCH, EPOCH)
        params = METHOD.project(params, clock)

        def loss(params):
            return METHOD.loss(Nets(network, None), params, state, aux, seen, clock, jax.random.key(0))

        (value, out), grads = jax.value_and_grad(loss, has_aux=True)(params)
        grads["prototypes"] = jax.tree.map(lambda x: jnp.where(n < 2, 0, x), grads["prototypes"])
        return jax.tree.map(lambda p, g: p - 0.05 * g, params, grads), out, value

    for n in range(2 * EPOCH):
        params, out, value = step(params, aux, images(n), jnp.int32(n))
        aux = out.aux
        losses.append(float(value))
    want = [1.55824374, 1.97807889, 1.37772353, 1.27112002, 1.70603458, 2.05410033, 1.09848721, 1.18419672]
    np.testing.assert_allclose(losses, want, rtol=1e-4)
    prototypes = [
        [0.5511745994, 0.4799338077, -0.951690921, 0.629206617, -0.7266455709],
        [0.8366543206, -0.5068211345, -0.0416249126, 0.5176592202, -0.6768001732],
        [-0.062329148, 0.7146481152, -0.254036505, -0.5743107252, 0.1324280963],
    ]
    np.testing.assert_allclose(params["prototypes"]["kernel"], prototypes, rtol=1e-3, atol=1e-4)
    assert 0 < out.metrics["imbalance"] < K
    assert out.metrics["assignment_entropy"].shape == (B,)


def test_each_view_has_dropout_of_its_own_and_prototypes_wait():
    network = Assigned(D)
    params = {"w": jnp.ones((12, D)), "prototypes": {"kernel": jnp.ones((D, K))}}
    state, clock = {"batch_stats": {"seen": jnp.zeros(())}}, Clock(jnp.int32(0), 8, EPOCH)
    method = SwAV(prototypes=K, dim=D, local_views=2)
    _, out = method.loss(Nets(network, None), params, state, {}, images(0), clock, jax.random.key(0))
    keys = [np.asarray(jax.random.key_data(call["keys"])) for call in network.calls]
    assert len(np.unique(np.concatenate(keys), axis=0)) == 4 * B
    assert out.model_state["batch_stats"]["seen"] == 2 and out.aux == {}
    assert method.late(("prototypes", "kernel")) and not method.late(("head", "linear1", "kernel"))
    assert method.late_epochs() == 1.0
    projected = METHOD.project({"prototypes": {"kernel": jnp.asarray(wave(D, K, 0))}}, clock)
    np.testing.assert_allclose(
        np.linalg.norm(projected["prototypes"]["kernel"], axis=0), np.ones(K), rtol=1e-5
    )


def test_views_head_and_what_is_served():
    """src/multicropdataset.py with the sizes and scales of the scripts; src/resnet50.py."""
    wide, local = SwAV().views(Data(crop_scale=(0.14, 1.0), photometric="simclr"))
    assert (wide.count, wide.size, wide.scale, wide.photometric) == (2, 224, (0.14, 1.0), "simclr")
    assert (local.count, local.size, local.scale, local.photometric) == (6, 96, (0.05, 0.14), "simclr")
    assert len(SwAV(local_views=0).views(Data())) == 1
    network = SwAV(hidden=32, prototypes=7).network(models.create("resnet18", width=0.125), given(4))
    image = jax.ShapeDtypeStruct((2, 96, 96, 3), jnp.float32)
    variables = jax.eval_shape(network.init, jax.random.key(0), image)
    shapes = jax.tree.map(lambda x: x.shape, variables["params"])
    assert shapes["prototypes"] == {"kernel": (128, 7)}
    assert set(shapes["head"]) == {"linear1", "bn1", "linear2"} and shapes["head"]["linear2"]["bias"] == (
        128,
    )
    assert set(SwAV().served(variables, {})["params"]) == {"backbone", "head"}


def test_a_sinkhorn_that_does_not_converge_is_noticed():
    method = SwAV(prototypes=16, queue_size=64)
    assert method.notice({"imbalance": 1.0}, given(16)) == ""
    words = method.notice({"imbalance": 2.46}, given(16))
    assert words.startswith(
        "Sinkhorn has not converged: after 3 iterations at method.epsilon 0.05 a prototype"
    )
    assert "3.5 times its share of 16 rows and 64 of the queue; raise method.epsilon" in words
    numbers = np.random.default_rng(1)
    rows, prototypes = unit64(numbers.standard_normal((64, 8))), unit64(numbers.standard_normal((16, 8)))
    for epsilon, noticed in ((0.5, False), (0.001, True)):
        q = sinkhorn(jnp.asarray(rows @ prototypes.T, jnp.float32), epsilon=epsilon)
        imbalance = float(jnp.abs(16 * q.mean(axis=0) - 1).max())
        assert bool(method.notice({"imbalance": imbalance}, given(16))) == noticed


@pytest.mark.parametrize(
    ("key", "value", "words"),
    [
        ("method.epsilon", 0.0, r"method\.epsilon is 0.0: use a value above 0"),
        ("method.iterations", 0, r"method\.iterations is 0: use 1 or more"),
        ("method.prototypes", 1, r"method\.prototypes is 1: use 2 or more"),
        ("method.queue_size", -1, r"method\.queue_size is -1: use 0 or more"),
        ("method.local_size", 0, r"method\.local_size is 0: use 1 or more"),
    ],
)
def test_mistakes(key, value, words):
    raw = config.default("swav")
    raw.train.steps = 1
    raw.update_from_flattened_dict({key: value})
    with pytest.raises(UserError, match=words):
        config.resolve(raw)


def test_the_queue_takes_whole_batches_and_micro_batches_are_refused():
    assert SwAV().whole_batch()
    with pytest.raises(UserError, match=r"data\.last is 'keep', but a slot of the queue"):
        SwAV(queue_size=512).check(Data(last="keep"), None)
    SwAV().check(Data(last="keep"), None)
    with pytest.raises(UserError, match=r"method\.queue_size is 100, which is not a positive multiple"):
        SwAV(queue_size=100).init_aux(None, Given(64, 0, 32, 10, 5), None)
