"""BYOT's loss against NumPy in float64, the sizes of its exits against the released code's."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from fake import CLOCK, FakeNetwork, batch, log_softmax64

from seed_jax import config, models
from seed_jax.errors import UserError
from seed_jax.methods import mixed
from seed_jax.methods.base import Given, Nets
from seed_jax.methods.byot import BYOT
from seed_jax.models.exits import Exit

CLASSES = 4


class Exits(FakeNetwork):
    """One matrix product, whose columns are the logits and features of two exits and of the deepest."""

    def apply(self, variables, x, train, keys=None):
        features, state = super().apply(variables, x, train, keys)
        exit1, exit2, deepest, *vectors = jnp.split(features["embedding"], 6, axis=1)
        entries = {"exit1_logits": exit1, "exit2_logits": exit2, "logits": deepest}
        names = ("exit1_pooled", "exit2_pooled", "pooled")
        entries |= dict(zip(names, vectors, strict=True))
        return entries | {f"exit{i}_adapted": -2 * vectors[i - 1] for i in (1, 2)}, state


def run(method, size=6):
    """The loss, its outputs, its gradient, and the entries of the features in float64."""
    network, seen = Exits(6 * CLASSES), batch(size)
    x = seen.views[0][:, 0]
    variables = network.init(jax.random.key(1), x)

    def loss(params):
        state = {"batch_stats": variables["batch_stats"]}
        return method.loss(Nets(network, None), params, state, {}, seen, CLOCK, jax.random.key(0))

    (value, out), gradient = jax.value_and_grad(loss, has_aux=True)(variables["params"])
    w = np.asarray(variables["params"]["w"], np.float64)
    columns = np.split(np.asarray(x, np.float64).reshape(size, -1) @ w, 6, axis=1)
    return value, out, np.asarray(gradient["w"]), columns, np.asarray(seen.label)


def ce64(logits, label):
    return -log_softmax64(logits)[np.arange(len(label)), label]


def kl64(student, teacher, temperature):
    log_s, log_t = log_softmax64(student / temperature), log_softmax64(teacher / temperature)
    return (np.exp(log_t) * (log_t - log_s)).sum(axis=1)


def test_the_iccv_form():
    method = BYOT(alpha=0.2, feature=0.01, temperature=3.0)
    value, out, _, (e1, e2, deepest, f1, f2, f), label = run(method)
    want = ce64(deepest, label).mean()
    for e, g in ((e1, f1), (e2, f2)):
        want += 0.8 * ce64(e, label).mean() + 0.2 * 9 * kl64(e, deepest, 3).mean()
        want += 0.01 * sum((a - b) ** 2 for a, b in zip(g.ravel(), f.ravel(), strict=True) if a > 0 or b > 0)
    np.testing.assert_allclose(value, want, rtol=1e-5)
    np.testing.assert_allclose(out.metrics["exit2_kl"], 9 * kl64(e2, deepest, 3), rtol=1e-4, atol=1e-6)
    assert out.model_state["batch_stats"]["seen"] == 1


def test_the_journals_form():
    method = BYOT(alpha=0.3, feature=0.03, form="journal")
    value, _, _, (e1, e2, deepest, f1, f2, f), label = run(method)
    want = ce64(deepest, label).mean()
    for e, g in ((e1, f1), (e2, f2)):
        want += 0.7 * ce64(e, label).mean() + 0.3 * kl64(e, deepest, 3).mean()
        want += 0.03 * np.linalg.norm(-2 * g - f)
    np.testing.assert_allclose(value, want, rtol=1e-5)


def test_deep_supervision_is_the_sum_of_cross_entropies():
    method = BYOT(alpha=0.0, feature=0.0)
    value, out, _, (e1, e2, deepest, *_), label = run(method)
    np.testing.assert_allclose(value, sum(ce64(e, label).mean() for e in (e1, e2, deepest)), rtol=1e-5)
    assert set(out.metrics) == {"ce", "accuracy", "exit1_ce", "exit2_ce"}
    assert method.whole_batch() == ""


def test_the_answers_of_the_deepest_alone():
    value, out, _, (e1, e2, deepest, *_), label = run(BYOT(alpha=1.0, feature=0.0))
    want = ce64(deepest, label).mean() + sum(9 * kl64(e, deepest, 3).mean() for e in (e1, e2))
    np.testing.assert_allclose(value, want, rtol=1e-5)
    assert set(out.metrics) == {"ce", "accuracy", "exit1_kl", "exit2_kl"}


@pytest.mark.parametrize(("form", "rises"), [("iccv", True), ("journal", False)])
def test_the_features_distance_with_the_batch(form, rises):
    """Twice the same batch: a sum doubles, a length grows with the root."""
    network = Exits(6 * CLASSES)
    seen = batch(4)
    variables = network.init(jax.random.key(1), seen.views[0][:, 0])
    features, _ = network.apply(variables, seen.views[0][:, 0], False)
    method = BYOT(form=form)
    one = method._terms(features, "exit1", lambda of: of(seen.label))["feature"]
    twice = {name: jnp.concatenate([x, x]) for name, x in features.items()}
    two = method._terms(twice, "exit1", lambda of: of(jnp.concatenate([seen.label] * 2)))["feature"]
    np.testing.assert_allclose(two / one, 2 if rises else 2**0.5, rtol=1e-5)
    assert "batch" in method.whole_batch()


@pytest.mark.parametrize("form", ["iccv", "journal"])
def test_the_exits_do_not_move_the_deepest(form):
    """The gradient of its columns is that of its cross entropy, and its features get none."""
    *_, gradient, _, _ = run(BYOT(alpha=0.5, feature=0.5, form=form))
    *_, plain, _, _ = run(BYOT(alpha=0.0, feature=0.0, form=form))
    deepest, pooled = slice(2 * CLASSES, 3 * CLASSES), slice(5 * CLASSES, 6 * CLASSES)
    np.testing.assert_allclose(gradient[:, deepest], plain[:, deepest], rtol=1e-5, atol=1e-7)
    assert not gradient[:, pooled].any()
    assert np.abs(gradient[:, :CLASSES] - plain[:, :CLASSES]).max() > 1e-3


def test_equal_features_have_a_finite_gradient():
    def length(f):
        entries = {"exit1_logits": jnp.zeros((2, 3)), "logits": jnp.zeros((2, 3))}
        entries |= {"exit1_adapted": f, "pooled": jnp.ones((2, 5))}
        return BYOT(form="journal")._terms(entries, "exit1", lambda of: of(jnp.zeros(2, jnp.int32)))[
            "feature"
        ]

    np.testing.assert_array_equal(jax.grad(length)(jnp.ones((2, 5))), 0)


@pytest.mark.parametrize("form", ["iccv", "journal"])
def test_a_difference_that_is_not_a_number_stays_so(form):
    logits = jnp.zeros((2, 3))
    entries = {"exit1_logits": logits, "logits": logits, "pooled": -jnp.ones((2, 5))}
    entries |= dict.fromkeys(("exit1_pooled", "exit1_adapted"), jnp.full((2, 5), jnp.nan))
    terms = BYOT(form=form)._terms(entries, "exit1", lambda of: of(jnp.zeros(2, jnp.int32)))
    assert jnp.isnan(terms["feature"])


def sizes(model, method, side=32, classes=100, **options):
    """Parameters of each part, without building an array."""
    backbone = models.create(model, **options)
    known = Given(4, classes, side, 1, 1)
    network = method.network(backbone, known)
    images = jax.ShapeDtypeStruct((2, side, side, 3), jnp.float32)
    variables = jax.eval_shape(network.init, jax.random.key(0), images)
    return {name: sum(x.size for x in jax.tree.leaves(tree)) for name, tree in variables["params"].items()}


@pytest.mark.parametrize(
    ("model", "millions"), [("resnet18", (1.18, 0.40, 0.22)), ("resnet50", (18.2, 5.7, 2.8))]
)
def test_the_bottlenecks_of_resnets_have_the_released_codes_size(model, millions):
    parts = sizes(model, BYOT(), small_stem=True)
    for number, want in enumerate(millions, start=1):
        assert abs(parts[f"exit{number}"] / 1e6 - want) < 0.006 * (10 if want > 2 else 1)
    assert set(parts) == {"backbone", "exit1", "exit2", "exit3", "classifier"}


def separable(inputs, outputs):
    return 9 * inputs + inputs**2 + 2 * inputs + 9 * inputs + inputs * outputs + 2 * outputs


def test_the_journals_exits_have_the_size_of_its_layers():
    parts = sizes("resnet18", BYOT(form="journal"), small_stem=True)
    linear, adapt = 512 * 100 + 100, 512 * 512 + 512
    for number, channels in enumerate((64, 128, 256), start=1):
        chain = sum(separable(channels * 2**i, channels * 2 ** (i + 1)) for i in range(4 - number))
        assert parts[f"exit{number}"] == separable(channels, channels) + 2 * channels + chain + linear
        assert parts[f"adapt{number}"] == adapt


@pytest.mark.parametrize("form", ["iccv", "journal"])
@pytest.mark.parametrize(
    ("model", "exits"),
    [("cifar_resnet8", 2), ("wrn_16_1", 2), ("vgg8", 3), ("shufflenetv2", 2), ("mobilenetv3_small", 3)],
)
def test_exits_join_any_backbone_of_maps(model, exits, form):
    parts = sizes(model, BYOT(form=form), classes=10)
    assert {name for name in parts if name.startswith("exit")} == {f"exit{i + 1}" for i in range(exits)}


def test_tokens_have_no_exits():
    with pytest.raises(UserError, match="byot needs a backbone with maps"):
        sizes("vit_small", BYOT(), side=224)


def test_the_bottleneck_against_torch():
    """1x1, k x k with stride k and 1x1, each with norm and ReLU, then the average and a Linear."""
    torch = pytest.importorskip("torch")
    part = Exit(2, (2, 2), 16, num_classes=5)
    numbers = np.random.default_rng(0)
    x = numbers.standard_normal((3, 8, 8, 6)).astype(np.float32)
    shapes = jax.eval_shape(lambda: part.init(jax.random.key(0), {"stage2": x}, train=False))
    variables = jax.tree.map(lambda s: 0.1 + numbers.random(s.shape).astype(np.float32), shapes)
    ours = part.apply(variables, {"stage2": x}, train=False)
    p, s = variables["params"], variables["batch_stats"]
    y = torch.tensor(x.transpose(0, 3, 1, 2))
    for i, stride in ((1, 1), (2, 4), (3, 1)):
        kernel = torch.tensor(p[f"conv{i}"]["kernel"].transpose(3, 2, 0, 1).copy())
        y = torch.nn.functional.conv2d(y, kernel, stride=stride)
        stats = [torch.tensor(v) for v in (s[f"bn{i}"]["mean"], s[f"bn{i}"]["var"])]
        scale = [torch.tensor(v) for v in (p[f"bn{i}"]["scale"], p[f"bn{i}"]["bias"])]
        y = torch.relu(torch.nn.functional.batch_norm(y, *stats, *scale))
    pooled = y.mean(dim=(2, 3))
    np.testing.assert_allclose(ours["exit2_pooled"], pooled, rtol=1e-4)
    logits = pooled @ torch.tensor(p["fc"]["kernel"]) + torch.tensor(p["fc"]["bias"])
    np.testing.assert_allclose(ours["exit2_logits"], logits, rtol=1e-4)


def test_the_journals_attention_against_torch():
    torch = pytest.importorskip("torch")
    part = Exit(1, (2,), 16, num_classes=5, form="journal")
    numbers = np.random.default_rng(0)
    x = numbers.standard_normal((3, 8, 8, 6)).astype(np.float32)
    shapes = jax.eval_shape(lambda: part.init(jax.random.key(0), {"stage1": x}, train=False))
    variables = jax.tree.map(lambda s: numbers.random(s.shape).astype(np.float32) + 0.1, shapes)
    ours = part.apply(variables, {"stage1": x}, train=False)["exit1_pooled"]
    p, s = variables["params"], variables["batch_stats"]
    functional = torch.nn.functional

    def norm(y, params, stats):
        mean, var, weight, bias = (
            torch.tensor(tree[leaf])
            for tree, leaves in ((stats, ("mean", "var")), (params, ("scale", "bias")))
            for leaf in leaves
        )
        return torch.relu(functional.batch_norm(y, mean, var, weight, bias))

    def separable(y, name, stride):
        for i in (1, 2):
            depthwise, pointwise = (
                torch.tensor(p[name][f"{kind}{i}"]["kernel"].transpose(3, 2, 0, 1).copy())
                for kind in ("depthwise", "pointwise")
            )
            step = stride if i == 1 else 1
            y = functional.conv2d(y, depthwise, stride=step, padding=1, groups=y.shape[1])
            y = functional.conv2d(y, pointwise)
            y = norm(y, p[name][f"bn{i}"], s[name][f"bn{i}"])
        return y

    y = torch.tensor(x.transpose(0, 3, 1, 2))
    weights = norm(separable(y, "attention", 2), p["attention_bn"], s["attention_bn"])
    weights = functional.interpolate(weights, scale_factor=2, mode="bilinear")
    pooled = separable(y * torch.sigmoid(weights), "separable1", 2).mean(dim=(2, 3))
    np.testing.assert_allclose(ours, pooled, rtol=1e-3)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"alpha": 1.5}, "method.alpha is 1.5: use 0 to 1"),
        ({"feature": -1.0}, "method.feature is -1.0"),
        ({"temperature": 0.0}, "method.temperature is 0.0"),
        ({"form": "tpami"}, "method.form"),
    ],
)
def test_wrong_values_are_named(fields, message):
    with pytest.raises(UserError, match=message):
        BYOT(**fields).check(config.Data(), None)


def test_what_training_alone_needs_is_left_behind():
    variables = {"params": {"backbone": 1, "adapt1": 2, "exit1": 3}, "batch_stats": {"backbone": 4}}
    assert BYOT().served(variables, {}) == {
        "params": {"backbone": 1, "exit1": 3},
        "batch_stats": {"backbone": 4},
    }


def test_mixed_images_have_the_labels_of_both():
    """All images are equal, so that mixing changes the labels alone."""
    method, network, seen = BYOT(feature=0.0, mix="mixup"), Exits(6 * CLASSES), batch(6)
    x = jnp.broadcast_to(seen.views[0][:1], seen.views[0].shape)
    seen = seen.replace(views=(x,))
    variables = network.init(jax.random.key(1), x[:, 0])
    key = jax.random.key(3)
    state = {"batch_stats": variables["batch_stats"]}
    value, _ = method.loss(Nets(network, None), variables["params"], state, {}, seen, CLOCK, key)
    pair = mixed.MIXES["mixup"](x[:, 0], key)
    share, label = np.float64(pair.weight), np.asarray(seen.label)
    w = np.asarray(variables["params"]["w"], np.float64)
    e1, e2, deepest, *_ = np.split(np.asarray(x, np.float64).reshape(6, -1) @ w, 6, axis=1)
    partner = label[np.asarray(pair.partner)]
    assert (partner != label).any()
    ce1, ce2, ce = (
        (share * ce64(e, label) + (1 - share) * ce64(e, partner)).mean() for e in (e1, e2, deepest)
    )
    kl = sum(9 * kl64(e, deepest, 3).mean() for e in (e1, e2))
    np.testing.assert_allclose(value, ce + 0.9 * (ce1 + ce2) + 0.1 * kl, rtol=1e-5)
    assert "mixes samples" in method.whole_batch()
