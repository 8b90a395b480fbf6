"""FRSKD's loss against the released formula restated in torch; whom each term trains; settings."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from fake import CLOCK, batch
from torch.nn import functional as F

from seed_jax import config
from seed_jax.errors import UserError
from seed_jax.methods.base import Nets
from seed_jax.methods.frskd import FRSKD


def answers(rows=8, seed=0):
    """Logits and maps of two stages, of the student and of its self-teacher."""
    numbers = np.random.default_rng(seed)

    def draw(*shape):
        return numbers.standard_normal((rows, *shape)).astype(np.float32)

    teacher = {"teacher_stage1": draw(4, 4, 6), "teacher_stage2": draw(2, 2, 10), "teacher_logits": draw(4)}
    student = {"stem": draw(4, 4, 2), "stage1": draw(4, 4, 3), "stage2": draw(2, 2, 5), "logits": draw(4)}
    return student | teacher


class Answers:
    """Returns its parameters as the features."""

    def apply(self, variables, x, train, keys=None):
        return variables["params"], {}


def loss(method, features, seen=None):
    seen = seen or batch(8)
    return method.loss(Nets(Answers(), None), features, {}, {}, seen, CLOCK, jax.random.key(0))


def released(features, label, alpha, beta):
    """The loss of MingiJi/FRSKD, and its gradients: everything by itself a leaf."""
    x = {name: torch.tensor(value, requires_grad=True) for name, value in features.items()}
    log_s, p_t = F.log_softmax(x["logits"] / 4, 1), F.softmax(x["teacher_logits"].detach() / 4, 1)
    total = F.cross_entropy(x["logits"], label) + F.cross_entropy(x["teacher_logits"], label)
    total = total + alpha * 16 * F.kl_div(log_s, p_t, reduction="sum") / len(label)

    def at(y):
        return F.normalize(F.relu(y).pow(2).mean(3).flatten(1))

    for stage in ("stage1", "stage2"):
        target = at(x[f"teacher_{stage}"]).detach()
        total = total + beta * (at(x[stage]) - target).pow(2).mean()
    total.backward()
    return total, {name: value.grad for name, value in x.items() if value.grad is not None}


@pytest.mark.parametrize(("alpha", "beta"), [(2.0, 100.0), (3.0, 0.0), (0.0, 100.0)])
def test_the_released_loss_and_its_gradients(alpha, beta):
    features, seen = answers(), batch(8)
    features["teacher_stage1"], features["teacher_stage2"] = (  # as the self-teacher writes them
        np.maximum(features[name], 0) for name in ("teacher_stage1", "teacher_stage2")
    )
    method = FRSKD(alpha=alpha, beta=beta)
    (value, out), gradients = jax.value_and_grad(lambda f: loss(method, f, seen), has_aux=True)(features)
    want, of_torch = released(features, torch.tensor(np.asarray(seen.label)).long(), alpha, beta)
    np.testing.assert_allclose(value, want.detach(), rtol=1e-5)
    for name, gradient in gradients.items():
        expected = of_torch.get(name, torch.zeros(gradient.shape))
        np.testing.assert_allclose(gradient, expected, rtol=1e-4, atol=1e-6, err_msg=name)
    right = features["logits"].argmax(axis=1) == np.asarray(seen.label)
    np.testing.assert_array_equal(out.metrics["accuracy"], right)
    weighted = {name for name, weight in (("kd", alpha), ("attention", beta)) if weight}
    assert set(out.metrics) == weighted | {"ce", "teacher_ce", "accuracy", "teacher_accuracy"}


def test_maps_before_the_last_relu_come_first():
    """A wide ResNet's stage is a sum; its map after the next norm is what the released code compares."""
    features = answers()
    normed = {f"preact{i}": np.flip(features[f"stage{i}"], axis=1) for i in (1, 2)}
    replaced = {f"stage{i}": normed[f"preact{i}"] for i in (1, 2)}
    got, want = (loss(FRSKD(), features | other)[0] for other in (normed, replaced))
    assert got == want != loss(FRSKD(), features)[0]


class TwoPasses:
    """Answers a pass over images, and one over the views of all images; its state counts them."""

    def __init__(self):
        self.seen = []

    def apply(self, variables, x, train, keys=None):
        self.seen.append(x)
        state = {"batch_stats": {"passes": variables["batch_stats"]["passes"] + 1}}
        return variables["params"]["image" if len(self.seen) == 1 else "views"], state


def test_several_views_are_the_released_frskd_with_sla():
    """MingiJi/FRSKD, distill_loss/sla.py: rows of images, then the interleaved rows of views."""
    numbers, n, seen = np.random.default_rng(3), 4, batch(8)
    views = answers(8 * n, seed=1)
    for name in ("joint_logits", "teacher_joint_logits"):
        views[name] = numbers.standard_normal((8 * n, 4 * n)).astype(np.float32)
    params = {"image": answers(), "views": views}
    for features in params.values():
        features |= {name: np.maximum(features[name], 0) for name in ("teacher_stage1", "teacher_stage2")}
    method, network = FRSKD(rotations=4, sla=0.5), TwoPasses()

    def ours(params):
        network.seen = []
        state = {"batch_stats": {"passes": jnp.zeros(())}}
        return method.loss(Nets(network, None), params, state, {}, seen, CLOCK, jax.random.key(0))

    (value, out), gradients = jax.value_and_grad(ours, has_aux=True)(params)
    x = jax.tree.map(lambda a: torch.tensor(np.array(a), requires_grad=True), params)
    image, views, y = x["image"], x["views"], torch.tensor(np.asarray(seen.label)).long()
    joint_y = torch.stack([y * n + j for j in range(n)], 1).flatten()

    def agg(name):
        return sum(views[name][j::n, j::n] for j in range(n)) / n

    def kd(s, t):
        log_s, p_t = F.log_softmax(s / 4, 1), F.softmax(t.detach() / 4, 1)
        return 16 * F.kl_div(log_s, p_t, reduction="sum") / len(s)

    student, teacher = image["logits"], image["teacher_logits"]
    want = F.cross_entropy(student, y) + F.cross_entropy(teacher, y)
    for name in ("joint_logits", "teacher_joint_logits"):
        want = want + F.cross_entropy(views[name], joint_y)
    agg_s, agg_t = agg("joint_logits"), agg("teacher_joint_logits")
    want = want + 0.5 * (kd(student, agg_s) + kd(teacher, agg_t))
    want = want + 2 * kd(torch.cat([student, agg_s]), torch.cat([teacher, agg_t]))
    for name in ("stage1", "stage2"):
        f, t = (torch.cat([image[k], views[k]]) for k in (name, f"teacher_{name}"))
        f, t = (F.normalize(F.relu(a).pow(2).mean(3).flatten(1)) for a in (f, t.detach()))
        want = want + 100 * (f - t).pow(2).mean()
    want.backward()
    np.testing.assert_allclose(value, want.detach(), rtol=1e-5)
    for part, name in [("image", name) for name in image] + [("views", name) for name in views]:
        gradient, expected = gradients[part][name], x[part][name].grad
        expected = np.zeros(gradient.shape) if expected is None else expected
        np.testing.assert_allclose(gradient, expected, rtol=1e-3, atol=1e-6, err_msg=f"{part} {name}")
    rows = network.seen[1].reshape(8, n, 2, 2, 3)
    np.testing.assert_array_equal(rows[:, 3], np.rot90(seen.views[0][:, 0], 3, axes=(1, 2)))
    assert {"joint_ce", "teacher_joint_ce", "sla"} < set(out.metrics)
    assert out.model_state["batch_stats"]["passes"] == 2
    weightless = FRSKD(alpha=0.0, beta=0.0, rotations=4, sla=0.0)
    network.seen, state = [], {"batch_stats": {"passes": jnp.zeros(())}}
    _, out = weightless.loss(Nets(network, None), params, state, {}, seen, CLOCK, jax.random.key(0))
    assert not {"kd", "attention", "sla"} & set(out.metrics)


def test_mixed_images_have_mixed_labels():
    assert FRSKD().whole_batch() == "" and "mixes samples" in FRSKD(mix="mixup").whole_batch()
    features, seen = answers(), batch(8)
    equal = dataclasses.replace(seen, label=jnp.zeros(8, jnp.int32))
    same = loss(FRSKD(), features, equal)[0]
    np.testing.assert_allclose(loss(FRSKD(mix="mixup"), features, equal)[0], same, rtol=1e-5)
    assert abs(loss(FRSKD(mix="mixup"), features, seen)[0] - loss(FRSKD(), features, seen)[0]) > 1e-3


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"alpha": -1.0}, r"method\.alpha is -1\.0: use 0 or more"),
        ({"beta": -1.0}, r"method\.beta is -1\.0: use 0 or more"),
        ({"channels": -1}, r"method\.channels is -1"),
        ({"sla": -0.5}, r"method\.sla is -0\.5"),
        ({"rotations": 3}, r"method\.rotations is 3: use one of 1, 2, 4"),
        ({"width": 0}, r"method\.width is 0: use 1 or more"),
        ({"depth": 0}, r"method\.depth is 0: use 1 or more"),
        ({"temperature": 0.0}, r"method\.temperature is 0\.0: use a value above 0"),
        ({"detach": "papers"}, r"Unknown method\.detach 'papers': did you mean 'paper'"),
        ({"upsample": "linear"}, r"Unknown method\.upsample 'linear'"),
        ({"mix": "cutmx"}, r"Unknown method\.mix 'cutmx': did you mean 'cutmix'"),
    ],
)
def test_mistakes_in_frskd(settings, words):
    raw = config.default("frskd")
    raw.train.steps = 1
    raw.method.update(settings)
    with pytest.raises(UserError, match=words):
        config.resolve(raw)
