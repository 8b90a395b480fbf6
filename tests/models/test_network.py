import functools
import re

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image
from tiny import Tiny

from seed_jax import models, parallel
from seed_jax.errors import UserError
from seed_jax.models import heads, layers, mobilenetv3, resnet
from seed_jax.models.network import for_views


class Small(nn.Module):
    """A few operations with everything that the seam must carry: statistics, dropout, features."""

    @nn.compact
    def __call__(self, x, train, keys):
        x = layers.Conv(4, 3, name="conv")(x)
        x = layers.BatchNorm(name="bn")(x, train)
        x = layers.global_average(x)
        return {"pooled": layers.Dropout(0.5, name="dropout")(x, train, keys)}


def inputs(batch=8, size=8):
    x = jax.random.uniform(jax.random.key(1), (batch, size, size, 3))
    return x, jax.random.split(jax.random.key(2), batch)


def init(network, x):
    return jax.jit(network.init)(jax.random.key(0), x)


def joined(**options):
    parts = {"head": heads.ProjectionHead(dim=3, batch_norm=True), "classifier": heads.Classifier(5)}
    return models.Joined(models.LinenNetwork(Small()), parts, **options)


def test_normalisation_belongs_to_the_network():
    x, _ = inputs()
    plain = models.LinenNetwork(Small(), mean=(0.0, 0.0, 0.0), std=(1.0, 1.0, 1.0))
    network = models.LinenNetwork(Small(), mean=(0.1, 0.2, 0.3), std=(0.5, 0.6, 0.7))
    variables = init(network, x)
    by_hand = (x - np.array([[[[0.1, 0.2, 0.3]]]])) / np.array([[[[0.5, 0.6, 0.7]]]])
    np.testing.assert_allclose(
        network.apply(variables, x, train=False)[0]["pooled"],
        plain.apply(variables, by_hand, train=False)[0]["pooled"],
        rtol=1e-5,
    )


@pytest.mark.parametrize("side", [5, 12])
def test_a_network_of_another_size_resizes_as_pil_does(side):
    x, _ = inputs()
    network = models.LinenNetwork(Small(), size=side)
    variables = init(network, x)
    channels = [
        [
            Image.fromarray(np.array(image[..., c])).resize((side, side), Image.Resampling.BILINEAR)
            for c in range(3)
        ]
        for image in x
    ]
    resized = np.stack([np.stack([np.asarray(c) for c in image], axis=-1) for image in channels])
    np.testing.assert_allclose(
        network.apply(variables, x, train=False)[0]["pooled"],
        models.LinenNetwork(Small()).apply(variables, resized, train=False)[0]["pooled"],
        atol=1e-5,
    )


def test_eval_returns_the_state_passed_and_train_a_new_one():
    x, keys = inputs()
    network = joined()
    variables = init(network, x)
    state = {"batch_stats": variables["batch_stats"]}
    _, unchanged = network.apply(variables, x, train=False)
    jax.tree.map(np.testing.assert_array_equal, unchanged, state)
    _, changed = network.apply(variables, x, train=True, keys=keys)
    assert jax.tree.structure(changed) == jax.tree.structure(state)
    assert not np.array_equal(
        changed["batch_stats"]["backbone"]["bn"]["mean"], state["batch_stats"]["backbone"]["bn"]["mean"]
    )


def test_joined_puts_variables_where_the_contract_says():
    x, _ = inputs()
    variables = init(joined(), x)
    assert set(variables) == {"params", "batch_stats"}
    assert set(variables["params"]) == {"backbone", "head", "classifier"}
    assert set(variables["batch_stats"]) == {"backbone", "head"}


def test_joined_is_backbone_then_parts():
    x, keys = inputs()
    network = joined()
    variables = init(network, x)
    features, _ = network.apply(variables, x, train=False)
    backbone = {name: tree["backbone"] for name, tree in variables.items()}
    alone, _ = network.backbone.apply(backbone, x, train=False)
    np.testing.assert_array_equal(features["pooled"], alone["pooled"])
    fc = variables["params"]["classifier"]["fc"]
    np.testing.assert_allclose(
        features["logits"], alone["pooled"] @ fc["kernel"] + fc["bias"][None], rtol=1e-4
    )
    assert features["embedding"].shape == (8, 3)


def test_frozen_backbone_keeps_its_statistics_and_has_no_dropout():
    x, keys = inputs()
    network = joined(backbone_train=False)
    variables = init(network, x)
    trained, state = network.apply(variables, x, train=True, keys=keys)
    evaluated, _ = network.apply(variables, x, train=False)
    np.testing.assert_array_equal(trained["pooled"], evaluated["pooled"])
    stats = variables["batch_stats"]
    jax.tree.map(np.testing.assert_array_equal, state["batch_stats"]["backbone"], stats["backbone"])
    assert not np.array_equal(state["batch_stats"]["head"]["bn1"]["mean"], stats["head"]["bn1"]["mean"])


def test_a_joined_network_is_a_backbone_too():
    x, _ = inputs()
    network = models.Joined(joined(), {"second": heads.ProjectionHead(dim=2, layers=1, out="second")})
    variables = init(network, x)
    assert set(variables["params"]["backbone"]) == {"backbone", "head", "classifier"}
    assert network.apply(variables, x, train=False)[0]["second"].shape == (8, 2)


def test_parts_of_one_kind_stand_side_by_side():
    x, _ = inputs()
    network = models.Joined(
        models.LinenNetwork(Small()),
        {
            "exit1": heads.Classifier(5, out="exit1_logits"),
            "exit2": heads.Classifier(7, out="exit2_logits"),
            "copy": heads.PooledEmbedding(out="copy"),
            "head": heads.ProjectionHead(dim=3, out="z"),
        },
    )
    variables = init(network, x)
    features, _ = network.apply(variables, x, train=False)
    shapes = {name: leaf.shape for name, leaf in features.items()}
    assert shapes == {
        "pooled": (8, 4),
        "exit1_logits": (8, 5),
        "exit2_logits": (8, 7),
        "copy": (8, 4),
        "z": (8, 3),
    }
    fc = variables["params"]["exit2"]["fc"]
    np.testing.assert_allclose(
        features["exit2_logits"], features["pooled"] @ fc["kernel"] + fc["bias"][None], rtol=1e-4, atol=1e-6
    )


@pytest.mark.parametrize(
    ("backbone", "parts", "message"),
    [
        (
            {"num_classes": 4},
            {"classifier": heads.Classifier(5)},
            "The part 'classifier' would overwrite 'logits', which the backbone returns: leave num_classes "
            "out of student.options.",
        ),
        (
            {},
            {"copy": heads.PooledEmbedding(out="stem")},
            "The part 'copy' would overwrite 'stem', which the backbone returns: choose another name",
        ),
        (
            {},
            {"exit1": heads.Classifier(5), "exit2": heads.Classifier(5)},
            "The part 'exit2' would overwrite 'logits', which an earlier part returns: choose another name",
        ),
    ],
)
def test_a_part_that_would_overwrite_an_entry_is_refused(backbone, parts, message):
    network = models.Joined(models.create("resnet18", width=0.125, **backbone), parts)
    alone = models.Joined(network.backbone, {"head": heads.ProjectionHead(dim=3)})
    x, _ = inputs(size=32)
    with pytest.raises(UserError, match=re.escape(message)):
        jax.eval_shape(network.init, jax.random.key(0), x)
    variables = jax.eval_shape(alone.init, jax.random.key(0), x)
    params = {name: {"fc": {"kernel": jnp.zeros((64, 5)), "bias": jnp.zeros(5)}} for name in parts}
    variables = variables | {"params": params | {"backbone": variables["params"]["backbone"]}}
    with pytest.raises(UserError, match=re.escape(message)):
        jax.eval_shape(lambda v, x: network.apply(v, x, False), variables, x)


def test_groups_of_several_views_are_of_as_many_samples():
    """Rows of sample 0's views, then sample 1's: a group of 2 samples is normalised apart from the others."""
    module = Tiny(dropout=0.0, bn_group=2)
    network = models.Joined(models.LinenNetwork(module), {"head": heads.ProjectionHead(dim=3)})
    x = jax.random.uniform(jax.random.key(1), (4 * 3, 8, 8, 3))
    variables = init(network, x)
    whole, _ = for_views(network, 3).apply(variables, x, True)
    alone = models.Joined(models.LinenNetwork(module.clone(bn_group=None)), network.parts)
    halves = [alone.apply(variables, half, True)[0]["embedding"] for half in (x[:6], x[6:])]
    np.testing.assert_allclose(whole["embedding"], np.concatenate(halves), atol=1e-5)
    plain = models.LinenNetwork(Small())
    assert for_views(plain, 3) is plain  # no groups: the whole batch, whatever is in it


def test_groups_of_several_views_in_a_part():
    part = heads.ProjectionHead(dim=3, batch_norm=True, last_norm=True, bn_group=2)
    network = models.Joined(models.LinenNetwork(Tiny(dropout=0.0, bn_group=2)), {"head": part})
    x = jax.random.uniform(jax.random.key(1), (4 * 3, 8, 8, 3))
    variables = init(network, x)
    whole, state = for_views(network, 3).apply(variables, x, True)
    alone = models.Joined(models.LinenNetwork(Tiny(dropout=0.0)), {"head": part.clone(bn_group=None)})
    halves = [alone.apply(variables, half, True) for half in (x[:6], x[6:])]
    embeddings = [features["embedding"] for features, _ in halves]
    np.testing.assert_allclose(whole["embedding"], np.concatenate(embeddings), atol=1e-4)
    means = [np.asarray(half["batch_stats"]["head"]["bn1"]["mean"]) for _, half in halves]
    np.testing.assert_allclose(state["batch_stats"]["head"]["bn1"]["mean"], np.mean(means, 0), atol=1e-5)


def test_a_classifier_starts_as_pytorchs_linear_and_a_narrow_one_small():
    features = {"pooled": jnp.ones((1, 400))}
    for std, bound in ((None, 1 / 20), (0.01, 0.06)):
        part = heads.Classifier(100, std=std)
        linear = part.init(jax.random.key(0), features, train=False)["params"]["fc"]
        assert np.abs(linear["kernel"]).max() <= bound
        np.testing.assert_allclose(np.std(linear["kernel"]), std or 0.05 / np.sqrt(3), rtol=0.02)
        assert np.any(linear["bias"]) == (std is None)


def test_a_head_in_bfloat16_keeps_parameters_and_output_in_float32():
    part = heads.ProjectionHead(hidden=64, dim=32, batch_norm=True)
    features = {"pooled": jax.random.normal(jax.random.key(1), (16, 48))}
    variables = part.init(jax.random.key(0), features, train=False)
    assert {leaf.dtype for leaf in jax.tree.leaves(variables)} == {jnp.dtype("float32")}
    half = part.clone(dtype=jnp.bfloat16)
    (want,), (got,) = (
        module.apply(variables, features, train=True, mutable=["batch_stats"])[0].values()
        for module in (part, half)
    )
    assert got.dtype == jnp.float32
    assert not np.array_equal(got, want)
    np.testing.assert_allclose(got, want, atol=0.05 * float(jnp.abs(want).max()))
    program = str(jax.make_jaxpr(lambda v: half.apply(v, features, train=False))(variables))
    assert "bf16[16,32] = dot_general" in program


def test_network_without_state_trains():
    x, keys = inputs()

    class Stateless(nn.Module):
        @nn.compact
        def __call__(self, x, train, keys):
            return {"pooled": layers.global_average(x)}

    network = models.Joined(models.LinenNetwork(Stateless()), {"classifier": heads.Classifier(2)})
    variables = init(network, x)
    assert set(variables) == {"params"}
    features, state = network.apply(variables, x, train=True, keys=keys)
    assert features["logits"].shape == (8, 2)
    assert state == {}


@pytest.mark.parametrize(
    ("options", "shapes"),
    [
        ({}, {"linear1": (7, 7), "linear2": (7, 128)}),
        ({"hidden": 9, "dim": 4}, {"linear1": (7, 9), "linear2": (9, 4)}),
        ({"layers": 1}, {"linear1": (7, 128)}),
    ],
)
def test_projection_head_layers(options, shapes):
    features = {"pooled": jnp.ones((2, 7))}
    out, variables = heads.ProjectionHead(**options).init_with_output(
        jax.random.key(0), features, train=False
    )
    assert {name: layer["kernel"].shape for name, layer in variables["params"].items()} == shapes
    assert out["embedding"].dtype == jnp.float32


@pytest.mark.parametrize(
    ("arguments", "options", "message"),
    [
        (("resnet19",), {}, "resnet18"),
        (("resnet18",), {"num_class": 3}, "num_classes"),
        (("resnet18",), {"precision": "bf32"}, "bf16|fp32"),
        (("resnet18",), {"dropout": 0.1}, "Unknown option of resnet18"),
    ],
)
def test_unknown_names_are_answered_with_the_nearest(arguments, options, message):
    with pytest.raises(UserError, match=message):
        models.create(*arguments, **options)


BLOCKS = (mobilenetv3.Block(3, 2, 8, True, "h_swish", 2),)


@pytest.mark.parametrize(
    "module",
    [
        resnet.ResNet(resnet.BasicBlock, (1, 1), width=0.125, small_stem=True),
        mobilenetv3.MobileNetV3(BLOCKS, 16, se_last=False, bn_group=2),
    ],
    ids=["resnet", "mobilenetv3"],
)
def test_eight_devices_compute_what_one_does(module):
    network = models.Joined(models.LinenNetwork(module), {"classifier": heads.Classifier(3)})
    x, keys = inputs(batch=16, size=8)
    variables = init(network, x[:1])
    state = {"batch_stats": variables["batch_stats"]}

    @jax.jit
    def step(params, state, x, keys):
        def loss(params):
            features, new_state = network.apply({"params": params, **state}, x, train=True, keys=keys)
            return jnp.square(features["logits"] - 1).mean() + features["stage1"].mean(), new_state

        return jax.value_and_grad(loss, has_aux=True)(params)

    expected = step(variables["params"], state, x, keys)
    mesh = parallel.make_mesh()
    whole, batch = parallel.replicated(mesh), parallel.batch_sharding(mesh)
    arguments = (
        *jax.device_put((variables["params"], state), whole),
        jax.device_put(x, batch),
        jax.device_put(keys, batch),
    )
    compiled = step.lower(*arguments).compile()
    assert "all-gather" not in compiled.as_text()
    close = functools.partial(np.testing.assert_allclose, rtol=1e-3, atol=1e-5)
    jax.tree.map(close, compiled(*arguments), expected)


def test_torchvisions_name_of_a_model():
    with pytest.raises(UserError, match="torchvision's is 'mobilenetv3_small_torchvision' here"):
        models.create("mobilenet_v3_small")


@pytest.mark.parametrize(
    ("name", "options", "grid"),
    [
        ("vit_small", {}, 4),
        ("vit_small", {"form": "dinov2_registers"}, 4),
        ("fd_vit_small", {}, 4),
        ("swin_tiny", {}, 2),
        ("swinv2_tiny", {}, 2),
    ],
)
def test_tokens_are_a_grid_after_the_prefix(name, options, grid):
    network = models.Joined(models.create(name, **options), {})
    images = jax.ShapeDtypeStruct((1, 64, 64, 3), jnp.float32)
    variables = jax.eval_shape(network.init, jax.random.key(0), images)
    tokens = jax.eval_shape(lambda v, x: network.apply(v, x, False)[0]["tokens"], variables, images)
    assert tokens.shape[1] == network.prefix_tokens + grid**2
