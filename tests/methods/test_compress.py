"""CompRess against UMBCvision/CompRess, nn/compress_loss.py and its training loops, on a linear network."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from siamese import B, F, Pooled, pixels, wave

from seed_jax import config
from seed_jax.config import Data
from seed_jax.errors import UserError
from seed_jax.methods.base import Batch, Clock, FeatureShapes, Given, Nets
from seed_jax.methods.compress import CompRess
from seed_jax.methods.queue import Queue

T = 5  # width of the teacher's feature


def given():
    shapes = [{"pooled": jax.ShapeDtypeStruct((B, width), jnp.float32)} for width in (T, F)]
    return Given(B, 0, 2, 10, 5, FeatureShapes(shapes[0]), student=lambda: shapes[1])


def unit(x):
    return x / np.linalg.norm(x, axis=1, keepdims=True)


def four_steps(method):
    """Losses, parameters and state of plain gradient descent at 0.5 from full queues of two slots."""
    network = method.network(Pooled(), given())
    variables = network.init(jax.random.key(0), jnp.zeros((2, 2, 2, 3)))
    params = variables["params"]
    params["backbone"]["w"] = jnp.asarray(0.3 * wave(12, F, 0.0), jnp.float32)
    anchors = unit(wave(2 * B, T, 0.6))
    if method.queues == 1:
        linear = {"kernel": 0.3 * wave(F, T, 0.1), "bias": wave(1, T, 0.5)[0]}
        params["predictor"]["linear1"] = jax.tree.map(lambda x: jnp.asarray(x, jnp.float32), linear)
    else:
        anchors = np.concatenate([anchors, unit(wave(2 * B, F, 0.9))], axis=1)
    aux = method.init_aux(jax.random.key(0), given(), {"params": params})
    slots = jnp.asarray(anchors.reshape(2, B, -1), jnp.float32)
    assert aux["queue"].slots.shape == slots.shape
    aux["queue"] = Queue(slots, jnp.int32(0), jnp.int32(2))

    @jax.jit
    def step(params, aux, x, answer):
        seen = Batch((x,), jnp.zeros(B, jnp.int32), jax.random.split(jax.random.key(0), B))
        nets = Nets(network, lambda x, views: {"pooled": answer})

        def loss(params):
            return method.loss(nets, params, {}, aux, seen, Clock(jnp.int32(0), 4, 4), jax.random.key(0))

        (value, out), grads = jax.value_and_grad(loss, has_aux=True)(params)
        return jax.tree.map(lambda p, g: p - 0.5 * g, params, grads), out.aux, value

    losses = []
    for n in range(4):
        answer = jnp.asarray(wave(B, T, 0.2 + n), jnp.float32)
        params, aux, value = step(params, aux, pixels(n, 0), answer)
        losses.append(float(value))
    return losses, params, aux


def test_two_queues_equal_the_released_code():
    losses, params, aux = four_steps(CompRess(temperature=0.2, momentum=0.9, queue_size=2 * B))
    np.testing.assert_allclose(losses, [3.60476892, 1.96327335, 1.92288697, 1.98279382], rtol=1e-4)
    weights = [0.0087132, 0.96222765, -0.70076325, 0.66831282, -0.83263074, 0.94689353, -0.72488688]
    np.testing.assert_allclose(params["backbone"]["w"][0], weights, rtol=1e-3, atol=1e-4)
    oldest, newest = aux["queue"].slots[0, 0], aux["queue"].slots[1, -1]
    key = [0.0904846, 0.53859973, 0.10923806, 0.43259528, -0.19512108, 0.13886409, -0.66730485]
    np.testing.assert_allclose(oldest[T:], key, rtol=1e-3, atol=1e-4)
    np.testing.assert_allclose(
        newest[:T], [0.57414103, 0.55808749, 0.45901858, 0.3281081, 0.20136394], rtol=1e-4
    )


def test_one_queue_equals_the_released_code():
    method = CompRess(queues=1, temperature=0.2, queue_size=2 * B)
    losses, params, aux = four_steps(method)
    np.testing.assert_allclose(losses, [2.90951312, 2.38880978, 2.23438254, 1.6852923], rtol=1e-4)
    weights = [-0.05777003, 0.66985864, -0.82368896, 0.7213355, -0.90255718, 1.05411027, -0.87485007]
    np.testing.assert_allclose(params["backbone"]["w"][0], weights, rtol=1e-3, atol=1e-4)
    bias = [1.44968553, 2.47990211, -2.95979079, 2.91748988, -3.02965246]
    np.testing.assert_allclose(params["predictor"]["linear1"]["bias"], bias, rtol=1e-3)
    assert set(aux) == {"queue"}
    assert set(method.served({"params": params}, aux)["params"]) == {"backbone"}


def test_noise_fills_both_queues_at_length_1_and_an_empty_start_has_no_loss():
    noise = CompRess(queue_size=2 * B, queue_start="noise").init_aux(jax.random.key(0), given(), {})["queue"]
    for half in jnp.split(noise.slots, [T], axis=2):
        np.testing.assert_allclose(jnp.linalg.norm(half, axis=2), np.ones((2, B)), rtol=1e-5)
    assert int(noise.filled) == 2
    empty = CompRess(queue_size=2 * B).init_aux(jax.random.key(0), given(), {})["queue"]
    assert int(empty.filled) == 0


def test_mistakes():
    for field, value, words in (
        ("queues", 3, "method.queues is 3: use 1 or 2"),
        ("temperature", 0.0, "method.temperature is 0.0: use a value above 0"),
        ("momentum", 1.5, "method.momentum is 1.5: use 0 to 1"),
    ):
        raw = config.default("compress")
        raw.train.steps, raw.method[field] = 1, value
        with pytest.raises(UserError, match=words):
            config.resolve(raw)
    with pytest.raises(UserError, match="a slot of the queue takes a full batch"):
        CompRess().check(Data(last="keep"), None)
    with pytest.raises(UserError, match="method.queue_size is 100, which is not a positive multiple"):
        CompRess(queue_size=100).init_aux(jax.random.key(0), dataclasses.replace(given(), batch_size=64), {})
