"""MoCo v2 against facebookresearch/moco's order of events and InfoNCE in float64."""

import jax
import jax.numpy as jnp
import numpy as np
from fake import CLOCK, FakeNetwork, batch, embed64, given, log_softmax64

from seed_jax.methods.base import Nets
from seed_jax.methods.moco import MoCo

B, D = 16, 6
METHOD = MoCo(queue_size=3 * B, dim=D, temperature=0.2, momentum=0.9)


def start(seed=0):
    """A network, its variables, and an EMA copy that differs from them."""
    network = FakeNetwork(D)
    sample = batch(B).views[0][:, 0]
    variables = network.init(jax.random.key(seed), sample)
    aux = METHOD.init_aux(jax.random.key(7), given(B), variables)
    aux["ema"]["params"] = network.init(jax.random.key(seed + 1), sample)["params"]
    return network, variables, aux


def loss_of(network, variables, aux, x, step=0):
    state = {"batch_stats": variables["batch_stats"]}
    return METHOD.loss(Nets(network, None), variables["params"], state, aux, x, CLOCK, jax.random.key(step))


def info_nce64(q, k, queue, tau):
    logits = np.concatenate([(q * k).sum(axis=1, keepdims=True), q @ queue.T], axis=1) / tau
    return -log_softmax64(logits)[:, 0]


def test_the_average_starts_as_a_copy():
    network, variables, _ = start()
    aux = METHOD.init_aux(jax.random.key(7), given(B), variables)
    np.testing.assert_array_equal(aux["ema"]["params"]["w"], variables["params"]["w"])


def test_loss_keys_and_queue_over_several_steps():
    """The average moves first, its keys are matched with their queries, then queued."""
    network, variables, aux = start()
    average = np.asarray(aux["ema"]["params"]["w"], np.float64)
    past = np.zeros((0, D))
    for n in range(5):
        x = batch(B, views=2, seed=n)
        average = 0.9 * average + 0.1 * np.asarray(variables["params"]["w"], np.float64)
        q = embed64(variables["params"]["w"], x.views[0][:, 0])
        k = embed64(average, x.views[0][:, 1])
        loss, out = loss_of(network, variables, aux, x, step=n)
        want = info_nce64(q, k, past, 0.2)
        np.testing.assert_allclose(loss, want.mean(), rtol=1e-4, atol=1e-5)
        np.testing.assert_allclose(out.metrics["positive_cosine"], (q * k).sum(axis=1), atol=1e-5)
        np.testing.assert_allclose(out.aux["queue"].slots[n % 3], k, atol=1e-5)
        np.testing.assert_allclose(out.aux["ema"]["params"]["w"], average, rtol=1e-5, atol=1e-6)
        aux, past = out.aux, np.concatenate([past, k])[-3 * B :]


def test_each_encoder_keeps_its_own_statistics():
    network, variables, aux = start()
    aux["ema"]["batch_stats"] = {"seen": jnp.float32(10)}
    _, out = loss_of(network, variables, aux, batch(B, views=2))
    np.testing.assert_array_equal(out.model_state["batch_stats"]["seen"], 1)
    np.testing.assert_array_equal(out.aux["ema"]["batch_stats"]["seen"], 11)
    assert [call["train"] for call in network.calls] == [True, True]


def order_of(shuffled, images):
    """Where each row of `shuffled` lies in `images`."""
    same = (np.asarray(shuffled)[:, None] == np.asarray(images)[None]).all(axis=(2, 3, 4))
    return same.argmax(axis=1)


def test_key_batch_is_shuffled_anew_each_step_so_that_groups_differ():
    """With groups of 4 a key is normalised among other images than its query."""
    network, variables, aux = start()
    x = batch(B, views=2)
    for step in range(3):
        loss_of(network, variables, aux, x, step)
    np.testing.assert_array_equal(network.calls[0]["x"], x.views[0][:, 0])
    orders = [order_of(call["x"], x.views[0][:, 1]) for call in network.calls[1::2]]
    assert len({tuple(order) for order in orders}) == 3
    queries = {frozenset(group) for group in np.arange(B).reshape(-1, 4).tolist()}
    for order in orders:
        np.testing.assert_array_equal(np.sort(order), np.arange(B))
        assert not queries & {frozenset(group) for group in order.reshape(-1, 4).tolist()}


def test_query_and_key_of_an_image_draw_their_own_dropout():
    """A mask that both share would give the pair away; each belongs to the sample still, not to its place."""
    network, variables, aux = start()
    x = batch(B, views=2)
    for step in range(2):
        loss_of(network, variables, aux, x, step)
    data = [np.asarray(jax.random.key_data(call["keys"])) for call in network.calls]
    assert len(np.unique(np.concatenate(data[:2]), axis=0)) == 2 * B
    by_sample = [
        keys[np.argsort(order_of(call["x"], x.views[0][:, 1]))]
        for keys, call in zip(data[1::2], network.calls[1::2], strict=True)
    ]
    np.testing.assert_array_equal(*by_sample)


def test_gradient_flows_through_the_query_alone():
    network, variables, aux = start()
    for n in range(2):
        aux = loss_of(network, variables, aux, batch(B, views=2, seed=n))[1].aux
    x = batch(B, views=2, seed=5)
    average = 0.9 * np.asarray(aux["ema"]["params"]["w"]) + 0.1 * np.asarray(variables["params"]["w"])
    keys = jnp.asarray(embed64(average, x.views[0][:, 1]), jnp.float32)
    past = aux["queue"].slots[:2].reshape(-1, D)

    def ours(params):
        return loss_of(network, {"params": params, "batch_stats": variables["batch_stats"]}, aux, x)[0]

    def direct(params):
        q = x.views[0][:, 0].reshape(B, -1) @ params["w"]
        q = q / jnp.linalg.norm(q, axis=1, keepdims=True)
        logits = jnp.concatenate([(q * keys).sum(axis=1, keepdims=True), q @ past.T], axis=1) / 0.2
        return -jax.nn.log_softmax(logits)[:, 0].mean()

    got, want = jax.grad(ours)(variables["params"]), jax.grad(direct)(variables["params"])
    assert float(jnp.abs(want["w"]).max()) > 1e-2
    np.testing.assert_allclose(got["w"], want["w"], rtol=1e-3, atol=1e-5)
