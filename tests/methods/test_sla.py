"""SLA and SLA-SD against the released loss restated in torch, rows one by one; the joint labels by hand."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from fake import CLOCK, FakeNetwork, batch, log_softmax64
from torch.nn import functional as F

from seed_jax import config
from seed_jax.data import mixing
from seed_jax.errors import UserError
from seed_jax.methods.base import Nets
from seed_jax.methods.sla import SLA, joint_cross_entropy

CLASSES = 4


class Answers(FakeNetwork):
    """A matrix product whose columns are joint logits, then the logits of a second classifier."""

    def __init__(self, views):
        super().__init__(CLASSES * views + CLASSES)

    def apply(self, variables, x, train, keys=None):
        features, state = super().apply(variables, x, train, keys)
        y = features["embedding"]
        return {"joint_logits": y[:, :-CLASSES], "logits": y[:, -CLASSES:]}, state


def released(x, w, label, turns, temperature=None):
    """hankook/SLA: rows interleaved, column y n + j; with a temperature the loss of SLA-SD."""
    n = len(turns)
    rows = torch.stack([torch.rot90(x, k, (1, 2)) for k in turns], 1).flatten(0, 1)
    y = rows.flatten(1) @ w
    joint, u = y[:, :-CLASSES], y[::n, -CLASSES:]
    loss = F.cross_entropy(joint, torch.stack([label * n + j for j in range(n)], 1).flatten())
    if temperature:
        agg = sum(joint[j::n, j::n] for j in range(n)) / n
        target = F.softmax(agg.detach() / temperature, 1)
        kl = F.kl_div(F.log_softmax(u / temperature, 1), target, reduction="batchmean")
        loss = loss + F.cross_entropy(u, label) + temperature**2 * kl
    return loss


@pytest.mark.parametrize("temperature", [None, 1.0, 2.0])
@pytest.mark.parametrize(("rotations", "turns"), [(4, (0, 1, 2, 3)), (2, (0, 2))])
def test_the_released_loss_and_its_gradient(rotations, turns, temperature):
    seen, student = batch(8), Answers(rotations)
    method = SLA(rotations=rotations, distil=bool(temperature), temperature=temperature or 1.0)
    x = seen.views[0][:, 0]
    variables = student.init(jax.random.key(0), x)
    state = {"batch_stats": variables["batch_stats"]}

    def loss(params):
        return method.loss(Nets(student, None), params, state, {}, seen, CLOCK, jax.random.key(1))

    (value, out), gradient = jax.value_and_grad(loss, has_aux=True)(variables["params"])
    w = torch.tensor(np.array(variables["params"]["w"]), requires_grad=True)
    label = torch.tensor(np.asarray(seen.label)).long()
    want = released(torch.tensor(np.array(x)), w, label, turns, temperature)
    want.backward()
    np.testing.assert_allclose(value, want.detach(), rtol=1e-5)
    np.testing.assert_allclose(gradient["w"], w.grad, rtol=1e-4, atol=1e-6)
    assert student.calls[-1]["x"].shape == (8 * rotations, 2, 2, 3)
    assert len(set(map(str, student.calls[-1]["keys"]))) == 8 * rotations
    terms = {"joint_ce"} | ({"ce", "kd"} if temperature else set())
    assert set(out.metrics) == terms | {"accuracy", "aggregated_accuracy"}


def test_joint_labels_by_hand():
    """Two views of an image of class 1 among three: its columns are 2 and 3."""
    logits = np.zeros((1, 2, 6), np.float32)
    logits[0, 0, 2] = logits[0, 1, 3] = 20
    right = joint_cross_entropy(jnp.asarray(logits), jnp.array([1]))
    np.testing.assert_allclose(right, 5 * np.exp(-20), atol=1e-7)
    np.testing.assert_allclose(joint_cross_entropy(jnp.asarray(logits), jnp.array([2])), 20, rtol=1e-5)


def test_mixed_images_have_mixed_joint_labels():
    seen, student = batch(8), Answers(4)
    variables = student.init(jax.random.key(0), seen.views[0][:, 0])
    state = {"batch_stats": variables["batch_stats"]}
    method = SLA(mix="mixup")
    key = jax.random.key(1)
    value, out = method.loss(Nets(student, None), variables["params"], state, {}, seen, CLOCK, key)
    rows = student.calls[-1]["x"].reshape(8, 4, 2, 2, 3)
    drawn = mixing.mixup(seen.views[0][:, 0], key, alpha=0.2)
    joint = np.asarray(rows, np.float64).reshape(8, 4, -1) @ np.asarray(variables["params"]["w"], np.float64)
    log_p = log_softmax64(joint[..., :-CLASSES].reshape(32, -1)).reshape(8, 4, -1)
    label, weight = np.asarray(seen.label), np.asarray(drawn.weight, np.float64)
    want = np.zeros(8)
    for i in range(8):
        for y, share in ((label[i], weight[i]), (label[drawn.partner[i]], 1 - weight[i])):
            want[i] -= share * np.mean([log_p[i, j, 4 * y + j] for j in range(4)])
    np.testing.assert_allclose(out.metrics["joint_ce"], want, rtol=1e-5)
    np.testing.assert_allclose(value, want.mean(), rtol=1e-5)
    other = label != label[np.asarray(drawn.partner)]
    assert other.any() and 0.01 < weight[0] < 0.99  # so that both labels count
    assert np.abs(rows[:, 0] - seen.views[0][:, 0]).max() > 0
    np.testing.assert_array_equal(rows[:, 1], np.rot90(rows[:, 0], axes=(1, 2)))
    assert "mixes" in method.whole_batch() and SLA().whole_batch() == ""


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        (
            {"rotations": 1},
            r"method\.rotations and method\.colours are 1, .*use --config.method.rotations=4",
        ),
        ({"rotations": 3}, r"method\.rotations is 3: use one of 1, 2, 4"),
        ({"colours": 2}, r"method\.colours is 2: use one of 1, 3, 6"),
        ({"temperature": 0.0}, r"method\.temperature is 0\.0: use a value above 0"),
        ({"mix": "mix"}, r"Unknown method\.mix 'mix'"),
    ],
)
def test_mistakes_in_sla(settings, words):
    raw = config.default("sla")
    raw.train.steps = 1
    raw.method.update(settings)
    with pytest.raises(UserError, match=words):
        config.resolve(raw)
