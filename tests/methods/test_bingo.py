"""BINGO against the formula of the released code, in float64."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from fake import FakeNetwork, batch, embed64, given, log_softmax64, unit64

from seed_jax import config, parallel
from seed_jax.config import Data
from seed_jax.data import mixing
from seed_jax.errors import UserError
from seed_jax.methods.base import Clock, Nets
from seed_jax.methods.bingo import BINGO

B, D, SIDE = 6, 4, 8
METHOD = BINGO(temperature=0.3, weights=(0.7, 0.2), intra_epochs=1.5, queue_size=2 * B)


def pair(seed):
    """A batch with two views of an image and two of its neighbour."""
    one, other = (batch(B, views=2, side=SIDE, seed=s) for s in (seed, 100 + seed))
    return one.replace(views=(one.views[0], other.views[0]))


def cross_entropies(q, positives, past):
    """haohang96/bingo, moco/builder.py, logits_q_nk, and torch's CrossEntropyLoss with target 0: `[N, 2]`."""
    negatives = q @ past.T
    columns = []
    for m in range(2):
        positive = (positives[:, m] * q).sum(axis=1, keepdims=True)
        columns.append(-log_softmax64(np.concatenate([positive, negatives], axis=1) / 0.3)[:, 0])
    return np.stack(columns, axis=1)


def released(w_s, w_t, x, past, key, weights):
    """The loss of each sample, as main_moco.py adds it up, and the teacher's embedding of the anchors."""
    anchor, neighbour = (np.asarray(views, np.float64) for views in x.views)
    box = mixing.random_box(x.views[0][:, 0], key, alpha=2.0)
    left, top, right, bottom = (int(edge[0]) for edge in box)
    mixed = anchor[:, 0].copy()
    mixed[:, top:bottom, left:right] = neighbour[:, 0, top:bottom, left:right]
    share = 1 - (bottom - top) * (right - left) / SIDE**2
    k = np.stack([embed64(w_t, anchor[:, 1]), embed64(w_t, neighbour[:, 1])], axis=1)
    queries = [embed64(w_s, images) for images in (anchor[:, 0], neighbour[:, 0], mixed)]
    (first, second), total = weights, 0
    for q, of_keys in zip(queries, ((first, second), (second, first), (share, 1 - share)), strict=True):
        total = total + (cross_entropies(q, k, past) * np.array(of_keys)).sum(axis=1)
    return total / 3, k[:, 0]


def test_losses_over_four_steps_equal_the_released_formula():
    """Two in the three steps with the weights 1 and 0, two after them; the queue fills meanwhile."""
    x = pair(0)
    student, teacher = (FakeNetwork(D).init(jax.random.key(n), x.views[0][:, 0]) for n in range(2))
    state = {"batch_stats": student["batch_stats"]}
    aux, past = METHOD.init_aux(jax.random.key(3), given(B, D), {}), np.zeros((0, D))

    def asked(x, views):
        seen.append(views)
        return FakeNetwork(D).apply(teacher, x, False)[0]

    @jax.jit
    def loss(aux, x, step, key):
        nets = Nets(FakeNetwork(D), asked)
        return METHOD.loss(nets, student["params"], state, aux, x, Clock(step, 10, 2), key)

    mixtures, seen = [], []
    for n, step in enumerate((0, 2, 3, 9)):
        x, key = pair(n), jax.random.key(50 + n)
        weights = (1, 0) if step < 3 else (0.7, 0.2)
        want, own = released(student["params"]["w"], teacher["params"]["w"], x, past, key, weights)
        value, out = loss(aux, x, jnp.int32(step), key)
        np.testing.assert_allclose(value, want.mean(), rtol=1e-5, atol=1e-7)  # 0 over an empty queue
        assert float(out.model_state["batch_stats"]["seen"]) == 3
        aux, past = out.aux, np.concatenate([past, own])[-2 * B :]
        mixtures.append(float(np.mean(out.metrics["mixture_loss"])))
    assert len(set(mixtures)) == 4 and seen == [(1,), (3,)]


def test_a_bag_has_the_nearest_other_images_of_the_split():
    x = np.random.default_rng(0).standard_normal((30, 5)).astype(np.float32)
    index = np.sort(np.random.default_rng(1).choice(100, 30, replace=False))
    offline = BINGO(neighbours=3).offline(30)
    found, note = offline.find(x, index, parallel.make_mesh(jax.devices()[:1]), 0)
    bags = found["bag"]
    similarity = unit64(x) @ unit64(x).T
    np.fill_diagonal(similarity, -np.inf)
    np.testing.assert_array_equal(bags, index[np.argsort(-similarity, axis=1)[:, :3]])
    assert (bags.dtype, offline.entry, note) == (np.int32, "pooled", "")


def test_what_is_refused():
    for field, value, words in (
        ("neighbours", 0, "method.neighbours is 0: use 1 or more"),
        ("cutmix", 0.0, "method.cutmix is 0.0: use a value above 0"),
        ("feature", "embeding", "Unknown method.feature 'embeding': did you mean 'embedding'"),
        ("weights", (0.5,), r"method.weights is \(0.5,\): use two numbers"),
        ("intra_epochs", -1.0, "method.intra_epochs is -1.0: use 0 or more"),
    ):
        raw = config.default("bingo")
        raw.train.steps, raw.method[field] = 1, value
        with pytest.raises(UserError, match=words):
            config.resolve(raw)
    with pytest.raises(UserError, match="method.neighbours is 5, and the training split has only 5 images"):
        BINGO().offline(5)
    with pytest.raises(UserError, match="a slot of the queue takes a full batch"):
        METHOD.check(Data(last="keep"), None)
