"""Self attention distillation against NumPy in float64, its schedule, and what it refuses."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from absl import logging
from fake import batch, log_softmax64

from seed_jax.errors import UserError
from seed_jax.methods.base import Clock, Given, Nets
from seed_jax.methods.sad import SAD, _warn

CLASSES = 4


@dataclasses.dataclass(frozen=True)
class Stages:
    """Stage n is the pixels, every 2^(n-1)-th, times a matrix; `tokens` is no map."""

    count: int = 4

    def init(self, rng, sample):
        keys = jax.random.split(rng, self.count + 1)
        params = {f"w{n}": jax.random.normal(keys[n], (3, n + 1)) / 2 for n in range(1, self.count + 1)} | {
            "w": jax.random.normal(keys[0], (3, CLASSES))
        }
        return {"params": params, "batch_stats": {"seen": jnp.zeros(())}}

    def apply(self, variables, x, train, keys=None):
        w, seen = variables["params"], variables["batch_stats"]["seen"]
        features = {}
        for n in range(1, self.count + 1):
            step = 2 ** (n - 1)
            features[f"stage{n}"] = x[:, ::step, ::step] @ w[f"w{n}"]
        logits = x.mean(axis=(1, 2)) @ w["w"]
        tokens = x.reshape(len(x), -1, 3)
        return {**features, "tokens": tokens, "logits": logits}, {"batch_stats": {"seen": seen + train}}


def run(method, step=9, count=4):
    network, seen = Stages(count), batch(3, side=8)
    variables = network.init(jax.random.key(0), None)
    state = {"batch_stats": variables["batch_stats"]}

    def loss(params):
        clock = Clock(jnp.int32(step), steps=12, steps_per_epoch=6)
        return method.loss(Nets(network, None), params, state, {}, seen, clock, jax.random.key(1))

    (value, out), gradient = jax.value_and_grad(loss, has_aux=True)(variables["params"])
    return seen, jax.tree.map(np.float64, variables["params"]), value, out, gradient


def path64(x, shallow, deep, w):
    """The squared distance of the softmaxes of two maps; the deep one enlarged bilinearly."""
    maps = []
    for n in (shallow, deep):
        step = 2 ** (n - 1)
        maps.append(((x[:, ::step, ::step] @ w[f"w{n}"]) ** 2).sum(axis=3))
    side = maps[0].shape[1]
    old = maps[1].shape[1]
    at = np.clip((np.arange(side) + 0.5) * old / side - 0.5, 0, old - 1)
    weights = np.maximum(0, 1 - np.abs(at[:, None] - np.arange(old)))
    maps[1] = weights @ maps[1] @ weights.T
    p, q = (np.exp(log_softmax64(m.reshape(len(m), -1))) for m in maps)
    return ((p - q) ** 2).sum(axis=1)


@pytest.mark.parametrize(
    ("paths", "count", "pairs"),
    [((), 4, [(2, 3), (3, 4)]), ((), 3, [(1, 2), (2, 3)]), (("1-3",), 4, [(1, 3)]), (("3-2",), 3, [(3, 2)])],
)
def test_loss_in_float64(paths, count, pairs):
    seen, w, value, out, _ = run(SAD(weight=2.0, paths=paths), count=count)
    x = np.asarray(seen.views[0][:, 0], np.float64)
    ce = -log_softmax64(x.mean(axis=(1, 2)) @ w["w"])[np.arange(3), np.asarray(seen.label)]
    terms = {f"stage{a}_from_stage{b}": path64(x, a, b, w) for a, b in pairs}
    np.testing.assert_allclose(value, ce.mean() + 2 * sum(t.mean() for t in terms.values()), rtol=1e-5)
    assert set(out.metrics) == {"ce", "accuracy", *terms}
    for name, term in terms.items():
        np.testing.assert_allclose(out.metrics[name], term, rtol=1e-4, atol=1e-7)
    assert out.model_state["batch_stats"]["seen"] == 1


@pytest.mark.parametrize("detach", [True, False])
def test_the_imitated_stage_gets_no_gradient_unless_asked(detach):
    *_, gradient = run(SAD(paths=("2-3",), detach=detach))
    assert np.abs(gradient["w2"]).max() > 0
    assert np.abs(gradient["w3"]).max() == 0 if detach else np.abs(gradient["w3"]).max() > 0


@pytest.mark.parametrize(
    ("ramp", "shares"), [(0.0, [0, 0, 1, 1, 1]), (0.25, [0, 0, 0, 1 / 3, 1])], ids=["at once", "ramp"]
)
def test_the_term_starts_at_two_thirds_of_the_run(ramp, shares):
    """Steps 0, 7, 8, 9 and 11 of 12; a quarter of the run is three steps."""
    for step, share in zip((0, 7, 8, 9, 11), shares, strict=True):
        *_, value, out, _ = run(SAD(weight=1.0, ramp=ramp, paths=("1-2",)), step)
        added = value - out.metrics["ce"].mean()
        np.testing.assert_allclose(added, share * out.metrics["stage1_from_stage2"].mean(), atol=1e-6)


def given():
    return Given(2, CLASSES, 8, 12, 6)


@pytest.mark.parametrize(
    ("method", "count", "message"),
    [
        (
            SAD(paths=("3-4",)),
            3,
            "method.paths has '3-4', and the network has no map stage4: it has stage1",
        ),
        (SAD(), 1, "method.paths: the network has fewer than two maps"),
    ],
)
def test_stages_that_the_network_lacks_are_named(method, count, message):
    with pytest.raises(UserError, match=message):
        method.network(Stages(count), given())


def test_parts():
    assert list(SAD().network(Stages(), given()).parts) == ["classifier"]
    assert not SAD().needs_teacher and SAD().whole_batch() == ""


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"weight": -1.0}, "method.weight is -1.0"),
        ({"start": 40_000.0}, "method.start is 40000.0: use 0 to 1"),
        ({"ramp": -0.5}, "method.ramp is -0.5"),
        ({"start": 1.0}, "method.start is 1.0 and method.ramp is 0.0: use a start below 1"),
        ({"start": 0.75, "ramp": 0.5}, "method.start is 0.75 and method.ramp is 0.5: .*a sum of at most 1"),
        ({"paths": ("23",)}, "method.paths has '23': name two stages, such as '2-3'"),
        ({"paths": ("2-2",)}, "method.paths has '2-2'"),
        ({"paths": ("1-2", "1-2")}, "name each path once"),
    ],
)
def test_wrong_values_are_named(fields, message):
    with pytest.raises(UserError, match=message):
        SAD(**fields).check(None, None)


def test_an_upward_path_is_allowed_with_one_warning(monkeypatch):
    said = []
    monkeypatch.setattr(logging, "warning", lambda text, *words: said.append(text % words))
    _warn.cache_clear()
    for _ in range(2):
        SAD(paths=("2-3", "3-2")).check(None, None)
    (one,) = said
    assert "method.paths has '3-2'" in one and "'2-3' is the other direction" in one
