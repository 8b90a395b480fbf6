"""DisCo against the released formula in float64."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from fake import CLOCK, FakeNetwork, batch, embed64, given, log_softmax64

from seed_jax import config
from seed_jax.config import Data
from seed_jax.errors import UserError
from seed_jax.methods.base import Nets
from seed_jax.methods.disco import DisCo

B, D = 8, 6
METHOD = DisCo(temperature=0.3, momentum=0.9, weight=B, queue_size=2 * B)


def released64(w, of_teacher, average, first, second, past):
    """The loss of one GPU, as DisCo/main.py adds it up: cross-entropy's mean and MSELoss's sums."""
    q, key = embed64(w, first), embed64(average, second)
    logits = np.concatenate([(q * key).sum(axis=1, keepdims=True), q @ past.T], axis=1) / 0.3
    loss = -log_softmax64(logits)[:, 0].mean()
    for view in (first, second):
        loss += ((embed64(of_teacher, view) - embed64(w, view)) ** 2).sum()
    return loss, key


def test_loss_queue_average_and_statistics_over_three_steps():
    """At a weight equal to the batch of one GPU; the third step overwrites the first slot of the queue."""
    network, sample = FakeNetwork(D), batch(B).views[0][:, 0]
    student, teacher, ema = (network.init(jax.random.key(n), sample) for n in range(3))
    aux = METHOD.init_aux(jax.random.key(7), given(B, D), student)
    np.testing.assert_array_equal(aux["ema"]["params"]["w"], student["params"]["w"])
    aux["ema"]["params"] = ema["params"]
    average, w = np.asarray(ema["params"]["w"], np.float64), student["params"]["w"]
    past = np.zeros((0, D))

    @jax.jit
    def loss(aux, x, rng):
        nets = Nets(network, lambda x, views: network.apply(teacher, x, False)[0])
        state = {"batch_stats": student["batch_stats"]}
        return METHOD.loss(nets, student["params"], state, aux, x, CLOCK, rng)

    for n in range(3):
        x = batch(B, views=2, seed=n)
        value, out = loss(aux, x, jax.random.key(n))
        average = 0.9 * average + 0.1 * np.asarray(w, np.float64)
        first, second = x.views[0][:, 0], x.views[0][:, 1]
        want, key = released64(w, teacher["params"]["w"], average, first, second, past)
        np.testing.assert_allclose(value, want, rtol=1e-5)
        cosine = (embed64(w, first) * embed64(teacher["params"]["w"], first)).sum(axis=1)
        np.testing.assert_allclose(out.metrics["teacher_cosine"], cosine, atol=1e-5)
        np.testing.assert_allclose(out.aux["queue"].slots[n % 2], key, atol=1e-5)
        np.testing.assert_allclose(out.aux["ema"]["params"]["w"], average, rtol=1e-5, atol=1e-6)
        assert out.model_state["batch_stats"]["seen"] == student["batch_stats"]["seen"] + 2
        aux = out.aux
        past = np.concatenate([past, key])[-2 * B :]


def test_gradient_is_that_of_both_views_and_none_flows_into_teacher_and_keys():
    """Central differences of the formula, whose key and teacher stay as they are."""
    network, x = FakeNetwork(D), batch(B, views=2)
    first, second = x.views[0][:, 0], x.views[0][:, 1]
    student, teacher = (network.init(jax.random.key(n), first) for n in range(2))
    aux = METHOD.init_aux(jax.random.key(7), given(B, D), student)
    nets = Nets(network, lambda x, views: network.apply(teacher, x, False)[0])
    state, rng = {"batch_stats": student["batch_stats"]}, jax.random.key(1)
    gradient = jax.jit(jax.grad(lambda p: METHOD.loss(nets, p, state, aux, x, CLOCK, rng)[0]))
    found = gradient(student["params"])["w"]
    w, of_teacher = (np.asarray(v["params"]["w"], np.float64) for v in (student, teacher))
    for i, j in ((0, 0), (5, 3), (11, 5)):
        ends = []
        for step in (1e-5, -1e-5):
            moved = w.copy()
            moved[i, j] += step
            ends.append(released64(moved, of_teacher, w, first, second, np.zeros((0, D)))[0])
        np.testing.assert_allclose(found[i, j], (ends[0] - ends[1]) / 2e-5, rtol=1e-3, atol=1e-4)


def test_the_teacher_sees_both_views_and_no_two_forwards_share_dropout():
    network, x = FakeNetwork(D), batch(B, views=2)
    student, asked = network.init(jax.random.key(0), x.views[0][:, 0]), []
    aux = METHOD.init_aux(jax.random.key(7), given(B, D), student)
    nets = Nets(network, lambda *args: asked.append(args) or {"embedding": jnp.ones((B, D))})
    METHOD.loss(
        nets, student["params"], {"batch_stats": student["batch_stats"]}, aux, x, CLOCK, jax.random.key(1)
    )
    assert [views for _, views in asked] == [(0,), (1,)]
    for v, (seen, _) in enumerate(asked):
        np.testing.assert_array_equal(seen, x.views[0][:, v])
        np.testing.assert_array_equal(seen, network.calls[v]["x"])
    assert [call["train"] for call in network.calls] == [True, True, True]
    drawn = [{bytes(key) for key in np.asarray(jax.random.key_data(c["keys"]))} for c in network.calls]
    assert len(set.union(*drawn)) == 3 * B
    assert [view.count for view in METHOD.views(Data())] == [2]


def test_mistakes():
    for key, value, words in (
        ("method.temperature", 0.0, "method.temperature is 0.0: use a value above 0"),
        ("method.momentum", 2.0, "method.momentum is 2.0: use 0 to 1"),
        ("method.weight", -1.0, "method.weight is -1.0: use 0 or more"),
        ("train.bn_group", 0, "train.bn_group is 0: MoCo needs groups smaller than the batch"),
        ("data.last", "keep", "a slot of the queue takes a full batch"),
    ):
        raw = config.default("disco")
        raw.train.steps, raw.train.bn_group = 1, 8
        raw.update_from_flattened_dict({key: value})
        with pytest.raises(UserError, match=words):
            config.resolve(raw)
