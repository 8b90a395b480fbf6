"""The frozen teacher, folded by `teacher.prepare`, against the same network as it was loaded."""

import dataclasses
from functools import cache, partial

import flax
import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax.traverse_util import flatten_dict, unflatten_dict

from seed_jax import parallel
from seed_jax.models import DTYPES, Joined, LinenNetwork, layers
from seed_jax.models.efficientnet import EfficientNet
from seed_jax.models.fold import fold
from seed_jax.models.heads import ProjectionHead
from seed_jax.models.mobilenetv3 import SMALL, MobileNetV3
from seed_jax.models.resnet import BasicBlock, Bottleneck, ResNet
from seed_jax.models.shufflenet import ShuffleNetV1
from seed_jax.models.swin import SwinTransformer
from seed_jax.models.swinv2 import SwinTransformerV2
from seed_jax.models.vgg import VGG
from seed_jax.models.vit import VisionTransformer
from seed_jax.models.wrn import WideResNet
from seed_jax.train import teacher

SIZE = 32
PIXELS = jax.ShapeDtypeStruct((2, SIZE, SIZE, 3), jnp.float32)
NORM = {"batch_norm": True}
BLOCKS = (*SMALL[:4], SMALL[8])
CASES = {  # module, settings of its head
    "resnet": (partial(ResNet, BasicBlock, (2, 1, 1, 1), width=0.125), {**NORM, "last_norm": True}),
    "resnet, small stem": (
        partial(ResNet, Bottleneck, (1, 1, 1, 1), width=0.125, small_stem=True),
        {**NORM, "bias": False},
    ),
    "mobilenetv3": (partial(MobileNetV3, BLOCKS, 32, False, small_stem=True), {}),
    "mobilenetv3, torchvision": (partial(MobileNetV3, BLOCKS, 32, True, bn_epsilon=1e-3), None),
    "efficientnet": (partial(EfficientNet, 0.25, 0.3, 224, False), {}),
    "efficientnet, torchvision": (partial(EfficientNet, 0.25, 0.3, None, False, bn_epsilon=1e-5), None),
    "efficientnet, lite": (partial(EfficientNet, 0.25, 0.3, 224, True), {"layers": 1}),
    "wrn": (partial(WideResNet, 1, 1), {}),
    "vgg": (partial(VGG, 1), {}),
    "shufflenetv1": (ShuffleNetV1, {}),
    "vit": (partial(VisionTransformer, 32, 4, 2, 8, "deit", SIZE), {}),
    "vit, mean": (partial(VisionTransformer, 32, 4, 2, 8, "deit", SIZE, pool="mean"), None),
    "vit, clip": (partial(VisionTransformer, 32, 4, 2, 8, "clip", SIZE), {"layers": 1, "bias": False}),
    "vit, dinov2": (partial(VisionTransformer, 32, 4, 2, 8, "dinov2", SIZE), NORM),
    "swin": (partial(SwinTransformer, 8, (1, 1, 1), (2, 2, 2), 4, SIZE), {}),
    "swinv2": (partial(SwinTransformerV2, 8, (1, 1, 1), (2, 2, 2), 4, SIZE), {}),
    "vit, registers": (partial(VisionTransformer, 32, 4, 2, 8, "dinov2_registers", SIZE), None),
}
LONG = {"resnet, small stem", "mobilenetv3", "efficientnet"}  # another form of the family is short
KEPT = {"vit": {"norm"}, "vit, mean": {"fc_norm"}, "vit, clip": {"norm_pre", "norm"}}
KEPT |= {"swin": {"norm1", "patch_norm", "norm"}, "swinv2": {"norm1", "norm2", "patch_norm", "norm"}}
KEPT |= {"wrn": {"bn1", "last_bn"}}  # they read sums, and a map that is a feature
KEPT |= {"vit, dinov2": {"norm"}, "vit, registers": {"norm"}}  # their outputs are features


@cache
def loaded(case, precision="fp32"):
    """A teacher whose statistics, scales and biases are not those of a fresh network."""
    module, head = CASES[case]
    backbone = LinenNetwork(module(num_classes=5, dtype=DTYPES[precision]))
    network = Joined(backbone, {} if head is None else {"head": ProjectionHead(dim=8, **head)})
    return teacher.Loaded(network, drawn(network), {"source": "a.pth", "sha256": "12ab"})


@cache
def prepared(case, precision="fp32"):
    return teacher.prepare(loaded(case, precision), SIZE)


def drawn(network):
    numbers = np.random.default_rng(0)
    flat = flatten_dict(jax.eval_shape(network.init, jax.random.key(0), PIXELS))

    def draw(path, shape):
        if path[-1] in ("scale", "var", "gamma"):
            return numbers.uniform(0.5, 1.5, shape)
        return numbers.standard_normal(shape) / np.sqrt(np.prod(shape[:-1]) if path[-1] == "kernel" else 25)

    return unflatten_dict({path: draw(path, x.shape).astype(np.float32) for path, x in flat.items()})


def features(network, variables):
    x = np.random.default_rng(1).uniform(size=PIXELS.shape).astype(np.float32)
    return parallel.jit_once(lambda v, x: network.apply(v, x, False)[0])(variables, x)


def distances(one, other):
    """The largest difference of each feature, in units of its largest value."""
    assert one.keys() == other.keys()
    return {name: float(abs(one[name] - x).max() / abs(x).max()) for name, x in other.items()}


@pytest.mark.parametrize(
    "case", [pytest.param(case, marks=pytest.mark.long) if case in LONG else case for case in CASES]
)
def test_features_stay(case):
    before, after = loaded(case), prepared(case)
    bare = dataclasses.replace(after, variables=before.variables)
    between = distances(features(after.network, after.variables), features(bare.network, bare.variables))
    assert "embedding" in between and "stage3" in between
    assert max(between.values()) < 1e-5, between
    norms = {
        path[-2] for path in flatten_dict(after.variables) if path[-1] in ("scale", "mean", "var", "gamma")
    }
    assert norms == KEPT.get(case, set())
    assert after.provenance == before.provenance


@pytest.mark.parametrize("case", ["resnet", "vit, dinov2"])
def test_shapes_fold_to_the_shapes_of_folded_arrays(case):
    teacher_of = loaded(case)
    shapes = dataclasses.replace(teacher_of, variables=jax.eval_shape(lambda: teacher_of.variables))
    of_arrays = prepared(case).variables
    assert teacher.prepare(shapes, SIZE).variables == jax.eval_shape(lambda: of_arrays)


def test_in_bfloat16_the_folded_form_is_as_near_to_float32():
    def pooled(teacher_of):
        return features(teacher_of.network, teacher_of.variables)["pooled"]

    case = "vit, dinov2"
    exact = pooled(prepared(case))
    errors = [jnp.linalg.norm(pooled(t(case, "bf16")) - exact) for t in (loaded, prepared)]
    assert 0 < errors[1] < 1.5 * errors[0], errors


def test_values_in_float64():
    """The formulas, written out: a BatchNorm after a convolution, a LayerNorm before a Linear, LayerScale."""
    before, after = loaded("resnet"), prepared("resnet").variables["params"]["backbone"]
    v = jax.tree.map(lambda x: x.astype(np.float64), before.variables)
    norm = {**v["params"]["backbone"]["bn1"], **v["batch_stats"]["backbone"]["bn1"]}
    deviation = (norm["var"] + 1e-5) ** 0.5
    kernel = v["params"]["backbone"]["conv1"]["kernel"]
    np.testing.assert_allclose(after["conv1"]["kernel"], kernel * norm["scale"] / deviation, rtol=1e-7)
    shift = norm["bias"] - norm["mean"] * norm["scale"] / deviation
    np.testing.assert_allclose(after["bn1"]["bias"], shift, rtol=1e-6, atol=1e-7)

    before, after = (t("vit, dinov2").variables["params"]["backbone"]["block2"] for t in (loaded, prepared))
    v = jax.tree.map(lambda x: x.astype(np.float64), before)
    fc1, fc2, norm, gamma = v["mlp"]["fc1"], v["mlp"]["fc2"], v["norm2"], v["ls2"]["gamma"]
    x = np.random.default_rng(2).standard_normal((4, 32))
    want = (x * norm["scale"] + norm["bias"]) @ fc1["kernel"] + fc1["bias"]
    np.testing.assert_allclose(
        x @ after["mlp"]["fc1"]["kernel"] + after["mlp"]["fc1"]["bias"], want, atol=1e-5
    )
    want = (np.tile(x, 4) @ fc2["kernel"] + fc2["bias"]) * gamma
    got = np.tile(x, 4) @ after["mlp"]["fc2"]["kernel"] + after["mlp"]["fc2"]["bias"]
    np.testing.assert_allclose(got, want, atol=1e-5)


class Reads(nn.Module):
    """Norms that must not be folded: something else reads what the layer writes, or the norm comes first."""

    @nn.compact
    def __call__(self, x, train, keys=None):
        shared = layers.BatchNorm(name="shared")
        x = layers.Conv(4, 3, name="conv0")(x)
        seen = x
        x = layers.BatchNorm(name="seen")(x, train)
        x = layers.Conv(4, 3, name="conv1")(nn.relu(layers.BatchNorm(name="first")(x, train)))
        x = nn.relu(shared(x, train))
        x = shared(layers.Conv(4, 3, name="conv2")(x), train)
        x = layers.LayerNorm(1e-6, name="padded")(x)
        x = layers.Conv(4, 3, name="conv3")(x)
        x = layers.LayerNorm(1e-6, name="twice")(x)
        return {"seen": seen, "pooled": nn.Dense(3)(x).mean((1, 2)) + x.mean()}


def test_what_something_else_reads_is_not_folded():
    network = LinenNetwork(Reads())
    variables = drawn(network)
    folded = fold(network, variables, PIXELS)
    assert jax.tree.structure(folded) == jax.tree.structure(variables)
    jax.tree.map(np.testing.assert_array_equal, folded, variables)


def test_a_second_folding_changes_nothing():
    once = prepared("vit, dinov2")
    twice = teacher.prepare(once, SIZE)
    jax.tree.map(np.testing.assert_array_equal, once.variables, twice.variables)


@pytest.mark.parametrize("case", ["resnet", "vit, dinov2"])
def test_a_missing_norm_is_no_folded_norm(case):
    flat = flatten_dict(loaded(case).variables)
    path = next(path for path in flat if path[-1] == "scale" and path[-2] != "norm")
    variables = unflatten_dict({p: leaf for p, leaf in flat.items() if p != path})
    with pytest.raises(flax.errors.ScopeParamNotFoundError, match="scale"):
        jax.eval_shape(lambda: loaded(case).network.apply(variables, jnp.zeros(PIXELS.shape), False))
