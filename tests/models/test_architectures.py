"""Parameter counts, shapes, and forward parity with the PyTorch models that SEED's authors released.

The golden numbers come from jacobswan1/SEED @f236cac (seed/architectures/moco/moco_resnet.py and
mobilenet/mobilenetv3.py) on torch 2.13 CPU, with 10 classes and without dropout. Each tensor of the
state_dict is `tensor(key, shape)` below, and the images are `images()` in NCHW.
"""

import functools
import re
import zlib

import flax
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from seed_jax import models
from seed_jax.models import layers

PARAMETERS = {
    "resnet18": 11_689_512,
    "resnet34": 21_797_672,
    "resnet50": 25_557_032,
    "resnet101": 44_549_160,
    "resnet152": 60_192_808,
    "mobilenetv3_large": 5_483_032,
    "mobilenetv3_small": 2_542_856,
    "mobilenetv3_large_torchvision": 5_483_032,
    "mobilenetv3_small_torchvision": 2_542_856,
    "efficientnet_b0": 5_288_548,
    "efficientnet_b1": 7_794_184,
    "efficientnet_b2": 9_109_994,
    "efficientnet_b3": 12_233_232,
    "efficientnet_b3_torchvision": 12_233_232,
    "efficientnet_lite0": 4_652_008,
    "efficientnet_lite2": 6_092_072,
}

# The first four logits of the first image in eval and in train mode, the last batch norm, and its first three
# running variances after the forward in train mode.
GOLDEN = {
    "resnet18": (
        [1.2155627, 1.0229986, -4.4547205, 1.0211108],
        [-0.2518088, 2.1690738, -1.8919734, -0.1282031],
        ("layer4_1", "bn2"),
        [0.5793726, 0.7724542, 1.0323809],
    ),
    "resnet50": (
        [-0.7097762, -5.5990300, 6.5601597, 4.7251205],
        [-0.1665933, -3.1172326, 1.6209207, -0.1195059],
        ("layer4_2", "bn3"),
        [0.9048961, 1.1999418, 1.3342500],
    ),
    "mobilenetv3_large": (
        [0.0933390, 0.1905236, -0.0587606, -0.0125016],
        [0.3347568, 0.4048534, -0.2169360, 0.2608863],
        ("last_bn",),
        [1.5527395, 1.4423968, 1.4608965],
    ),
}


def tensor(key, shape):
    """The value of a torch tensor, from NumPy's PCG64 seeded by the CRC-32 of its key."""
    generator = np.random.default_rng(zlib.crc32(key.encode()))
    if len(shape) > 1:
        return generator.standard_normal(shape) / np.sqrt(np.prod(shape[1:]))
    if key.endswith(("running_var", "weight")):
        return generator.uniform(0.5, 1.5, shape)
    return generator.normal(0, 0.1, shape)


def images():
    """`[4, 64, 64, 3]`, already normalised."""
    return np.random.default_rng(0).standard_normal((4, 64, 64, 3)).astype(np.float32)


def torch_module(name, path, unexpanded):
    """Name in the PyTorch model of our layer at `path`."""
    if name.startswith("resnet"):
        path = path.replace("downsample_conv", "downsample.0").replace("downsample_bn", "downsample.1")
        return re.sub(r"layer(\d)_(\d+)/", r"layer\1.\2.", path)
    outer = {
        "stem_conv": "features.0.0",
        "stem_bn": "features.0.1",
        "last_conv": "conv.0",
        "last_bn": "conv.1",
        "classifier": "classifier.0",
        "fc": "fc",
    }
    if path in outer:
        return outer[path]
    block, layer = path.split("/", 1)
    order = [
        "expand_conv",
        "expand_bn",
        None,
        "depthwise_conv",
        "depthwise_bn",
        "se",
        None,
        "project_conv",
        "project_bn",
    ]
    if block in unexpanded:
        order = ["depthwise_conv", "depthwise_bn", None, "se", "project_conv", "project_bn"]
    inner = {"se/reduce": ".fc.0", "se/expand": ".fc.2"}.get(layer, "")
    return f"features.{block.removeprefix('block')}.conv.{order.index(layer.split('/')[0])}{inner}"


def filled(name, shapes):
    """Our variables with the values that `tensor` gives the tensors of the PyTorch model."""
    flat = flax.traverse_util.flatten_dict(shapes, sep="/")
    blocks = {path.split("/")[1] for path in flat if "/block" in path}
    unexpanded = {block for block in blocks if f"params/{block}/expand_conv/kernel" not in flat}
    leaf_names = {
        "kernel": "weight",
        "scale": "weight",
        "bias": "bias",
        "mean": "running_mean",
        "var": "running_var",
    }

    def value(path, shape):
        _, layer, leaf = re.fullmatch(r"(\w+)/(.*)/(\w+)", path).groups()
        key = f"{torch_module(name, layer, unexpanded)}.{leaf_names[leaf]}"
        if len(shape) == 4:
            return tensor(key, tuple(shape[i] for i in (3, 2, 0, 1))).transpose(2, 3, 1, 0)
        return tensor(key, shape[::-1]).T

    values = {path: jnp.asarray(value(path, leaf.shape), jnp.float32) for path, leaf in flat.items()}
    return flax.traverse_util.unflatten_dict(values, sep="/")


def shapes_of(name, size=64, **options):
    network = models.create(name, **options)
    return jax.eval_shape(network.init, jax.random.key(0), jnp.zeros((1, size, size, 3)))


@functools.cache
def params_of(name, size=64, **options):
    """Shapes of the parameters with a classifier of 1000 classes."""
    return shapes_of(name, size, num_classes=1000, **options)["params"]


def features_of(name, size, **options):
    network = models.create(name, **options)
    variables = shapes_of(name, **options)
    image = jax.ShapeDtypeStruct((1, size, size, 3), jnp.float32)
    features, _ = jax.eval_shape(lambda v, x: network.apply(v, x, train=False), variables, image)
    return features


def count(params):
    return sum(leaf.size for leaf in jax.tree.leaves(params))


@pytest.mark.parametrize("name", PARAMETERS)
def test_parameter_counts(name):
    assert count(params_of(name)) == PARAMETERS[name]


def test_parameter_count_without_classifier():
    assert count(shapes_of("mobilenetv3_large")["params"]) == 4_202_032


@pytest.mark.parametrize("name", GOLDEN)
def test_forward_parity_with_torch(name):
    options = {"dropout": 0.0} if name.startswith("mobilenet") else {}
    network = models.create(name, mean=(0, 0, 0), std=(1, 1, 1), num_classes=10, **options)
    variables = filled(name, shapes_of(name, num_classes=10, **options))

    @jax.jit
    def both(variables, x):
        evaluated, _ = network.apply(variables, x, train=False)
        trained, state = network.apply(variables, x, train=True)
        return evaluated["logits"], trained["logits"], state["batch_stats"]

    evaluated, trained, stats = both(variables, images())
    golden_eval, golden_train, last_norm, golden_var = GOLDEN[name]
    for key in last_norm:
        stats = stats[key]
    np.testing.assert_allclose(evaluated[0, :4], golden_eval, atol=1e-4)
    np.testing.assert_allclose(trained[0, :4], golden_train, atol=5e-4)
    np.testing.assert_allclose(stats["var"][:3], golden_var, rtol=1e-4)


VIT_FORMS = {"vit_small": "dinov2_registers", "vit_base": "clip"}


ZOO = ("cifar_resnet8", "wrn_16_1", "vgg13", "mobilenetv2_half", "shufflenetv1", "shufflenetv2")


@pytest.mark.parametrize("name", [*PARAMETERS, *VIT_FORMS, *ZOO])
def test_every_parameter_has_a_layer_and_blocks_follow_one_another(name):
    options = {"form": VIT_FORMS[name]} if name in VIT_FORMS else {}
    network = models.create(name, **options)
    size = {"size": 224} if name in VIT_FORMS else {}
    params = params_of(name, **size, **options)
    by_module = {}
    for path in flax.traverse_util.flatten_dict(params):
        by_module.setdefault(path[0], set()).add(network.layer(path))
    assert all(len(numbers) == 1 for numbers in by_module.values())
    numbers = {module: number for module, (number,) in by_module.items()}

    def order(module):  # the numbers in a name, as they count up through the network
        return [int(digits) for digits in re.findall(r"\d+", module)]

    blocks = sorted((m for m in numbers if re.fullmatch(r"block[\d_]+|layer\d_\d+", m)), key=order)
    assert [numbers[module] for module in blocks] == list(range(1, len(blocks) + 1))
    assert network.layers == len(blocks) + 1
    assert set(numbers.values()) == set(range(network.layers + 1))
    ends = {module: number for module, number in numbers.items() if module not in blocks}
    first = {
        *("conv1", "bn1", "stem_conv", "stem_bn", "stem_0", "stem_1"),
        *("patch_embed", "cls_token", "pos_embed", "register_tokens", "norm_pre"),
    }
    assert ends == {module: 0 if module in first else network.layers for module in ends}


def test_layers_by_hand():
    resnet = models.create("resnet50")
    assert resnet.layers == 17
    paths = [("conv1", "kernel"), ("layer1_0", "bn1", "scale"), ("layer2_0", "downsample_conv", "kernel")]
    assert [resnet.layer(path) for path in (*paths, ("layer4_2", "conv3", "kernel"), ("fc", "bias"))] == [
        *(0, 1, 4, 16, 17)
    ]
    mobilenet = models.create("mobilenetv3_large")
    paths = [("stem_bn", "bias"), ("block1", "se", "reduce", "kernel"), ("block15", "project_bn", "scale")]
    assert [
        mobilenet.layer(path) for path in (*paths, ("last_conv", "kernel"), ("classifier", "kernel"))
    ] == [*(0, 1, 15, 16, 16)]
    efficientnet = models.create("efficientnet_b0")
    paths = [
        ("stem_conv", "kernel"),
        ("block1_0", "se", "reduce", "kernel"),
        ("block2_0", "project_bn", "scale"),
    ]
    assert [efficientnet.layer(path) for path in (*paths, ("block7_0", "se", "expand", "bias"))] == [
        0,
        1,
        2,
        16,
    ]
    assert efficientnet.layer(("head_bn", "scale")) == efficientnet.layers == 17


def test_a_module_without_layers_has_none():
    network = models.LinenNetwork(layers.Dropout(0.5))
    assert network.layers is None
    assert network.undecayed == frozenset() == models.create("resnet18").undecayed


RESNET50 = {
    "stem": (32, 64),
    "stage1": (16, 256),
    "stage2": (8, 512),
    "stage3": (4, 1024),
    "stage4": (2, 2048),
}
LARGE = {"stem": (32, 16), "stage1": (16, 24), "stage2": (8, 40), "stage3": (4, 112), "stage4": (2, 960)}
SMALL = {"stem": (32, 16), "stage1": (16, 16), "stage2": (8, 24), "stage3": (4, 48), "stage4": (2, 576)}
B0 = {"stem": (32, 32), "stage1": (16, 24), "stage2": (8, 40), "stage3": (4, 112), "stage4": (2, 1280)}
LITE2 = {"stem": (32, 32), "stage1": (16, 24), "stage2": (8, 48), "stage3": (4, 120), "stage4": (2, 1280)}


@pytest.mark.parametrize(
    ("name", "maps", "pooled"),
    [
        ("resnet50", RESNET50, 2048),
        ("mobilenetv3_large", LARGE, 1280),
        ("mobilenetv3_small", SMALL, 1024),
        ("efficientnet_b0", B0, 1280),
        ("efficientnet_lite2", LITE2, 1280),
    ],
)
def test_features_are_what_the_seam_promises(name, maps, pooled):
    features = features_of(name, size=64)
    assert {key: features[key].shape for key in maps} == {key: (1, n, n, c) for key, (n, c) in maps.items()}
    assert features["pooled"].shape == (1, pooled)
    assert set(features) == {*maps, "pooled"}
    small = features_of(name, size=32, small_stem=True)
    assert small["stem"].shape[1:3] == (32, 32)
    assert small["stage4"].shape[1:3] == (4, 4)


@pytest.mark.parametrize("name", ["resnet18", "mobilenetv3_small"])
def test_bf16_computes_in_bf16_and_keeps_the_rest_in_fp32(name):
    variables = shapes_of(name, precision="bf16", num_classes=10)
    assert {leaf.dtype for leaf in jax.tree.leaves(variables)} == {jnp.dtype("float32")}
    features = features_of(name, size=32, precision="bf16", num_classes=10)
    assert features["stage4"].dtype == jnp.bfloat16
    assert features["pooled"].dtype == features["logits"].dtype == jnp.float32


@pytest.mark.parametrize(
    ("name", "width", "stem", "pooled"),
    [
        ("resnet50", 2, 128, 4096),
        ("resnet18", 0.25, 16, 128),
        ("mobilenetv3_large", 0.75, 16, 1280),
        ("mobilenetv3_large", 1.5, 24, 1920),
    ],
)
def test_width(name, width, stem, pooled):
    features = features_of(name, size=64, width=width)
    assert features["stem"].shape[-1] == stem
    assert features["pooled"].shape[-1] == pooled


# `Conv2dStaticSamePadding` of efficientnet_pytorch 0.7.1 at each stride: zeros before and after, both axes.
PADS = {
    "efficientnet_b0": [(0, 1), (0, 1), (1, 2), (0, 1), (1, 2)],
    "efficientnet_b1": [(0, 1), (0, 1), (1, 2), (0, 1), (2, 2)],
    "efficientnet_b2": [(0, 1), (0, 1), (2, 2), (1, 1), (2, 2)],
    "efficientnet_b3": [(0, 1), (0, 1), (2, 2), (0, 1), (2, 2)],
    "efficientnet_b0_torchvision": [None] * 5,
}


@pytest.mark.parametrize("name", PADS)
def test_efficientnet_pads_for_its_nominal_image_size(name):
    pads = []

    def spy(next_fun, args, kwargs, context):
        if isinstance(context.module, layers.Conv) and context.method_name == "__call__":
            conv = context.module
            pads.extend([conv.pad] if conv.stride == 2 else [])
        return next_fun(*args, **kwargs)

    with flax.linen.intercept_methods(spy):
        shapes_of(name)
    assert pads == PADS[name]


def test_drop_path_grows_with_depth():
    rates = {}

    def spy(next_fun, args, kwargs, context):
        if isinstance(context.module, layers.DropPath):
            rates["/".join(context.module.path)] = context.module.rate
        return next_fun(*args, **kwargs)

    with flax.linen.intercept_methods(spy):
        shapes_of("efficientnet_b0", drop_path=0.32)
    # Blocks 2, 4, 6, 7, 9, 10, 12, 13 and 14 of 16 have a skip connection.
    assert list(rates) == [
        *("block2_1/drop_path", "block3_1/drop_path", "block4_1/drop_path", "block4_2/drop_path"),
        *("block5_1/drop_path", "block5_2/drop_path"),
        *("block6_1/drop_path", "block6_2/drop_path", "block6_3/drop_path"),
    ]
    np.testing.assert_allclose(list(rates.values()), np.array([2, 4, 6, 7, 9, 10, 12, 13, 14]) / 50)
