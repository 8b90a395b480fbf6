"""The CRD zoo: parameter counts, features and first values. Forwards: tests/weights/test_parity.py."""

import flax
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from seed_jax import models
from seed_jax.models import layers, shufflenet

# Parameters of the released networks with 100 classes: of convolutions and Linear layers, and all.
PARAMETERS = {
    "cifar_resnet8": (83_220, 83_892),
    "cifar_resnet14": (179_988, 181_108),
    "cifar_resnet20": (276_756, 278_324),
    "cifar_resnet32": (470_292, 472_756),
    "cifar_resnet44": (663_828, 667_188),
    "cifar_resnet56": (857_364, 861_620),
    "cifar_resnet110": (1_728_276, 1_736_564),
    "cifar_resnet8x4": (1_230_788, 1_233_540),
    "cifar_resnet32x4": (7_423_940, 7_433_860),
    "wrn_16_1": (179_988, 180_916),
    "wrn_16_2": (701_460, 703_284),
    "wrn_40_1": (567_060, 569_780),
    "wrn_40_2": (2_249_748, 2_255_156),
    "vgg8": (3_962_084, 3_965_028),
    "vgg13": (9_456_292, 9_462_180),
    "mobilenetv2_half": (794_468, 812_836),
    "shufflenetv1": (925_522, 949_258),
    "shufflenetv2": (1_339_348, 1_355_528),
    "resnet18": (11_210_532, 11_220_132),
    "resnet50": (23_652_132, 23_705_252),
}
RESNET = {"stem": (32, 16), "stage1": (32, 16), "stage2": (16, 32), "stage3": (8, 64)}
MAPS = {
    "cifar_resnet20": RESNET,
    "cifar_resnet8x4": {"stem": (32, 32), "stage1": (32, 64), "stage2": (16, 128), "stage3": (8, 256)},
    "wrn_16_2": {"stem": (32, 16), "stage1": (32, 32), "stage2": (16, 64), "stage3": (8, 128)},
    "vgg8": {
        "stem": (32, 64),
        "stage1": (16, 128),
        "stage2": (8, 256),
        "stage3": (4, 512),
        "stage4": (4, 512),
    },
    "mobilenetv2_half": {
        "stem": (16, 16),
        "stage1": (16, 12),
        "stage2": (8, 16),
        "stage3": (4, 48),
        "stage4": (2, 160),
    },
    "shufflenetv1": {"stem": (32, 24), "stage1": (16, 240), "stage2": (8, 480), "stage3": (4, 960)},
    "shufflenetv2": {"stem": (32, 24), "stage1": (16, 116), "stage2": (8, 232), "stage3": (4, 464)},
}
POOLED = {"mobilenetv2_half": 1280, "shufflenetv2": 1024}
PREACT = ("cifar_resnet", "wrn", "vgg")


def shapes_of(network, size=32):
    images = jax.ShapeDtypeStruct((2, size, size, 3), jnp.float32)
    variables = jax.eval_shape(network.init, jax.random.key(0), images)
    features, _ = jax.eval_shape(lambda v, x: network.apply(v, x, False), variables, images)
    return variables, features


@pytest.mark.parametrize("name", PARAMETERS)
def test_parameter_counts(name):
    options = {"small_stem": True} if name.startswith("resnet") else {}
    variables, _ = shapes_of(models.create(name, num_classes=100, **options))
    flat = flax.traverse_util.flatten_dict(variables["params"])
    norms = sum(x.size for path, x in flat.items() if path[:-1] + ("scale",) in flat)
    total = sum(x.size for x in flat.values())
    assert (total - norms, total) == PARAMETERS[name]


@pytest.mark.parametrize("name", MAPS)
def test_features(name):
    _, features = shapes_of(models.create(name, num_classes=100))
    maps = {key: (2, side, side, channels) for key, (side, channels) in MAPS[name].items()}
    if name.startswith(PREACT):
        maps |= {key.replace("stage", "preact"): shape for key, shape in maps.items() if key != "stem"}
    last = maps[max(key for key in maps if key.startswith("stage"))][-1]
    vectors = {"pooled": (2, POOLED.get(name, last)), "logits": (2, 100)}
    assert {key: feature.shape for key, feature in features.items()} == maps | vectors
    assert "logits" not in shapes_of(models.create(name))[1]
    _, features = shapes_of(models.create(name, num_classes=100, precision="bf16"))
    assert {key: x.dtype for key, x in features.items()} == {
        key: jnp.float32 if key in vectors else jnp.bfloat16 for key in features
    }


@pytest.mark.parametrize(("size", "side"), [(32, 4), (48, 6), (64, 4), (96, 6)])
def test_vgg_pools_a_fourth_time_from_64_pixels_on(size, side):
    assert shapes_of(models.create("vgg8"), size)[1]["stage4"].shape == (2, side, side, 512)


@pytest.mark.parametrize("name", ["cifar_resnet8", "vgg8"])
def test_stages_are_the_relu_of_what_comes_before(name):
    network, x = models.create(name), jax.random.uniform(jax.random.key(0), (2, 16, 16, 3))
    features, _ = jax.jit(lambda key: network.apply(network.init(key, x), x, False))(jax.random.key(1))
    assert features["preact2"].min() < 0
    np.testing.assert_array_equal(features["stage2"], np.maximum(features["preact2"], 0))


def first_values(name, *modules):
    """The parameters of these modules, by module. The draws of all others are not compiled."""
    network, x = models.create(name, num_classes=100), jnp.zeros((1, 8, 8, 3))

    @jax.jit
    def draw(key):
        flat = flax.traverse_util.flatten_dict(network.init(key, x)["params"], sep="/")
        return [
            {path[len(m) + 1 :]: leaf for path, leaf in flat.items() if path.startswith(m + "/")}
            for m in modules
        ]

    return draw(jax.random.key(0))


@pytest.mark.parametrize(
    ("name", "wide", "uniform_fc", "zero_bias"),
    [
        ("cifar_resnet8x4", "layer3_0/conv2", True, False),
        ("wrn_16_2", "block3_1/conv2", True, True),
        ("vgg8", "block3_0/conv", False, True),
        ("mobilenetv2_half", "last_conv", False, True),
    ],
)
def test_first_values_of_networks_with_kaimings_filters(name, wide, uniform_fc, zero_bias):
    """Filters N(0, 2 / (k k channels out)); PyTorch's Linear, with or without its bias, or N(0, 0.01^2)."""
    conv, fc = first_values(name, wide, "fc")
    kernel = conv["kernel"]
    k, _, _, out = kernel.shape
    np.testing.assert_allclose(kernel.std() * np.sqrt(k * k * out / 2), 1, atol=0.02)
    assert jnp.abs(kernel).max() > 3.5 * kernel.std()  # normal, not uniform
    assert not conv.get("bias", jnp.zeros(1)).any()
    if uniform_fc:
        np.testing.assert_allclose(jnp.abs(fc["kernel"]).max() * np.sqrt(len(fc["kernel"])), 1, atol=0.01)
    else:
        np.testing.assert_allclose(fc["kernel"].std(), 0.01, rtol=0.02)
    assert bool(fc["bias"].any()) != zero_bias


@pytest.mark.parametrize(
    ("name", "fan_ins"),
    [
        ("shufflenetv1", {"layer2_1/conv3": 120 / 3, "layer2_1/conv2": 9, "conv1": 3}),
        ("shufflenetv2", {"layer2_1/conv3": 116, "layer3_0/conv4": 9, "conv2": 464}),
    ],
)
def test_first_values_of_the_shufflenets_are_pytorchs(name, fan_ins):
    """Filters U(+-1 / sqrt(k k channels in)); a filter of a group sees the channels of its group."""
    for module, params in zip(fan_ins, first_values(name, *fan_ins), strict=True):
        assert 0.9 < jnp.abs(params["kernel"]).max() * np.sqrt(fan_ins[module]) <= 1 + 1e-6, module


def test_shuffle_by_hand():
    np.testing.assert_array_equal(shufflenet.shuffle(jnp.arange(6), 3), [0, 2, 4, 1, 3, 5])
    np.testing.assert_array_equal(shufflenet.shuffle(jnp.arange(6), 2), [0, 3, 1, 4, 2, 5])


def test_a_convolution_with_bias_and_groups_is_torchs():
    torch = pytest.importorskip("torch")
    x = np.random.default_rng(0).standard_normal((2, 5, 5, 6)).astype(np.float32)
    module = layers.Conv(4, 3, stride=2, groups=2, use_bias=True)
    variables = module.init(jax.random.key(0), jnp.asarray(x))
    assert variables["params"]["kernel"].shape == (3, 3, 3, 4)
    assert not variables["params"]["bias"].any()
    variables = {"params": variables["params"] | {"bias": jnp.arange(4.0)}}
    kernel = torch.from_numpy(np.array(variables["params"]["kernel"])).permute(3, 2, 0, 1)
    there = torch.nn.functional.conv2d(
        torch.from_numpy(x).permute(0, 3, 1, 2), kernel, torch.arange(4.0), stride=2, padding=1, groups=2
    )
    here = module.apply(variables, jnp.asarray(x))
    np.testing.assert_allclose(here, there.permute(0, 2, 3, 1).numpy(), atol=1e-5)
