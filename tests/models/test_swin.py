"""Swin transformers against their definition in torch, in float64, and their published sizes."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import swin_torch
import torch

from seed_jax import models
from seed_jax.errors import UserError
from seed_jax.models import layers, swin
from seed_jax.models.network import LinenNetwork
from seed_jax.models.swin import SwinTransformer
from seed_jax.models.swinv2 import SwinTransformerV2
from seed_jax.train import optim

KINDS = {1: SwinTransformer, 2: SwinTransformerV2}
SHAPE = {"dim": 8, "depths": (2, 1), "heads": (2, 4), "patch": 2, "num_classes": 5}
# Maps of 12 and 6 tokens; or of 8 and 4, where one window covers the last map.
CASES = {
    "v1": (1, {"window": 3, "image_size": 24}, {}, (24, 24)),
    "v1, padded, other epsilon": (1, {"window": 4, "image_size": 16, "epsilon": 1e-3}, {}, (18, 28)),
    "v2": (2, {"window": 3, "image_size": 24, "pretrained_window": 2}, {"pretrained": (2, 2)}, (24, 24)),
    "v2, third norms": (2, {"window": 4, "image_size": 16, "extra_norm": 2}, {}, (16, 16)),
    "v2, padded": (2, {"window": 4, "image_size": 16}, {}, (18, 28)),
}


def build(version, options, extra):
    """Our network and the one in torch, with the same arrays."""
    shared = {**SHAPE, **{key: value for key, value in options.items() if key != "pretrained_window"}}
    theirs = swin_torch.randomise(swin_torch.Swin(version=version, **shared, **extra))
    ours = KINDS[version](attention=True, **SHAPE, **options)
    return ours, theirs, {"params": swin_torch.to_ours(dict(theirs.named_parameters()))}


def draw_images(sides, count=2):
    return np.random.default_rng(0).standard_normal((count, *sides, 3)).astype(np.float32)


@pytest.mark.parametrize("case", CASES)
def test_features(case):
    version, options, extra, sides = CASES[case]
    ours, theirs, variables = build(version, options, extra)
    images = draw_images(sides)
    features = jax.jit(lambda v: ours.apply(v, images, False))(variables)
    with torch.no_grad():
        want = theirs(torch.from_numpy(images).double().movedim(3, 1))
    assert features.keys() == want.keys()
    for name, value in want.items():
        np.testing.assert_allclose(features[name], value, rtol=1e-3, atol=2e-5, err_msg=name)


@pytest.mark.parametrize("case", ["v1", "v2"])
def test_gradients(case):
    """Those of the scales above the largest, 0, included."""
    version, options, extra, sides = CASES[case]
    ours, theirs, variables = build(version, options, extra)
    images = draw_images(sides, count=1)
    direction = np.random.default_rng(1).standard_normal((1, 5)).astype(np.float32)
    gradient = jax.jit(jax.grad(lambda v: (ours.apply(v, images, False)["logits"] * direction).sum()))(
        variables
    )
    logits = theirs(torch.from_numpy(images).double().movedim(3, 1))["logits"]
    (logits * torch.from_numpy(direction)).sum().backward()
    slopes = swin_torch.to_ours({name: p.grad for name, p in theirs.named_parameters()})
    largest = max(np.abs(leaf).max() for leaf in jax.tree.leaves(slopes))

    def close(path, got, want):
        where = jax.tree_util.keystr(path)
        np.testing.assert_allclose(got, want, rtol=1e-3, atol=1e-5 * largest, err_msg=where)

    jax.tree_util.tree_map_with_path(close, gradient["params"], slopes)
    assert version == 1 or not gradient["params"]["block1_0"]["attn"]["logit_scale"][1].any()


def test_attention_among_padding_has_a_finite_gradient():
    """The keys of padding are 0, whose cosine has no gradient."""
    network = SwinTransformerV2(8, (1,), (2,), window=2, image_size=8, patch=2)
    images = draw_images((2, 2), count=1)
    variables = jax.jit(functools.partial(network.init, train=False))(jax.random.key(0), images)
    gradient = jax.jit(jax.grad(lambda v: network.apply(v, images, False)["stage1"].sum()))(variables)
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(gradient))


def test_the_mask_by_hand():
    """A map of 4 x 4 in windows of 2 x 2, shifted by 1: letters are the windows before the shift."""
    mask = swin.shift_mask((4, 4), 2, 1)
    assert mask.shape == (4, 4, 4)
    assert not mask[0].any()  # tokens 5, 6, 9, 10 of the map: all from its middle
    top_and_bottom = [[0, 0, 1, 1], [0, 0, 1, 1], [1, 1, 0, 0], [1, 1, 0, 0]]
    left_and_right = [[0, 1, 0, 1], [1, 0, 1, 0], [0, 1, 0, 1], [1, 0, 1, 0]]
    np.testing.assert_array_equal(mask[2], -100.0 * np.array(top_and_bottom))
    np.testing.assert_array_equal(mask[1], -100.0 * np.array(left_and_right))
    np.testing.assert_array_equal(mask[3], -100.0 * (1 - np.eye(4)))


def test_windows_in_reading_order():
    x = jnp.arange(16).reshape(1, 4, 4, 1)
    windows = swin.partition(x, 2)[0, :, :, 0]
    np.testing.assert_array_equal(windows, [[0, 1, 4, 5], [2, 3, 6, 7], [8, 9, 12, 13], [10, 11, 14, 15]])


def test_merging_by_hand():
    """The four tokens are joined column by column: 1, 3, 2, 4."""
    merge = swin.Merge(1e-5, False, jnp.float32)
    x = jnp.array([[1.0, 2.0], [3.0, 4.0]]).reshape(1, 2, 2, 1)
    norm = {"scale": jnp.ones(2), "bias": jnp.zeros(2)}
    weights = jnp.array([[1000.0, 0], [100.0, 0], [10.0, 0], [1.0, 0]])
    joined = {}

    def spy(next_fun, args, kwargs, context):
        y = next_fun(*args, **kwargs)
        joined[context.module.name] = y
        return y

    with layers.nn.intercept_methods(spy):
        merge.apply({"params": {"reduction": {"kernel": weights}, "norm": norm}}, x)
    np.testing.assert_array_equal(joined["reduction"].ravel(), [1324, 0])


# torchvision/models/swin_transformer.py, `num_params`; its second versions count a key bias, which is always
# 0 there and which microsoft/Swin-Transformer does not have: the channels of every block.
PUBLISHED = {
    "swin_tiny": 28_288_354,
    "swin_small": 49_606_258,
    "swin_base": 87_768_224,
    "swinv2_tiny": 28_351_570 - 4_416,
    "swinv2_small": 49_737_442 - 9_024,
    "swinv2_base": 87_930_848 - 12_032,
}


@functools.cache
def shapes_of(name, **options):
    network = models.create(name, **options)
    images = jax.ShapeDtypeStruct((1, 256, 256, 3), jnp.float32)
    return jax.eval_shape(network.init, jax.random.key(0), images)["params"]


@pytest.mark.parametrize("name", PUBLISHED)
def test_published_sizes(name):
    params = shapes_of(name, num_classes=1000)
    assert sum(leaf.size for leaf in jax.tree.leaves(params)) == PUBLISHED[name]


def test_the_student_of_feature_distillation():
    """The windows of its config, 224 pixels: 14 in three stages, 7 in the last; the last two do not shift."""
    network = models.create("swinv2_base", window=14, image_size=224, fd_init=True)
    assert [network.module.window_of(stage) for stage in (1, 2, 3, 4)] == [(14, 7), (14, 7), (14, 0), (7, 0)]
    esvit = shapes_of("swin_base", window=14)
    tables = [esvit[f"block{stage}_0"]["attn"]["rel_pos_bias"]["table"].shape for stage in (1, 3, 4)]
    assert tables == [(729, 4), (729, 16), (169, 32)]


def test_the_giant_has_three_billion_parameters():
    """The paper says 3 billion. Of C channels with C / 32 heads a block has 12 C^2 + 12 C weights and biases,
    norms included, and 513 for a head and 1,536 for its positions; a merging has 8 C^2 + 4 C.
    """
    blocks = sum(
        depth * (12 * c * c + 12 * c + 513 * c // 32 + 1536)
        for c, depth in ((512, 2), (1024, 2), (2048, 42), (4096, 4))
    )
    merging = sum(8 * c * c + 4 * c for c in (512, 1024, 2048))
    patches, extra, last = 4 * 4 * 3 * 512 + 512 + 2 * 512, 7 * 2 * 2048, 2 * 4096
    params = shapes_of("swinv2_giant")
    assert sum(leaf.size for leaf in jax.tree.leaves(params)) == blocks + merging + patches + extra + last
    assert blocks + merging + patches + extra + last == 2_997_843_680
    third = [f"block3_{i}" for i in range(5, 42, 6)]
    assert sorted(name for name, block in params.items() if "norm3" in block) == sorted(third)
    assert params["block3_5"]["attn"]["logit_scale"].shape == (64, 1, 1)


def test_released_windows_of_pre_training():
    """configs/swinv2/swinv2_base_patch4_window12to24_192to384_22kto1k_ft.yaml: 12, 12, 12, 6."""
    for window in (16, 24):
        network = SwinTransformerV2(
            8, (2, 2, 18, 2), (1, 2, 4, 8), window=window, image_size=16 * window, pretrained_window=12
        )
        pretrained = [network.block_options(number)["pretrained"] for number in (0, 2, 4, 21, 22)]
        assert pretrained == [12, 12, 12, 12, 6]


def test_layers_are_those_of_feature_distillation():
    network = models.create("swin_tiny")
    paths = {
        ("patch_norm", "scale"): 0,
        ("block1_0", "attn", "qkv", "kernel"): 1,
        ("block1_1", "norm1", "scale"): 2,
        ("merge1", "reduction", "kernel"): 2,
        ("block2_0", "norm1", "scale"): 3,
        ("merge3", "norm", "scale"): 10,
        ("block4_1", "mlp", "fc1", "kernel"): 12,
        ("norm", "scale"): 13,
        ("fc", "bias"): 13,
    }
    assert {path: network.layer(path) for path in paths} == paths
    assert network.layers == 13


def test_drop_path_grows_with_depth_and_drops_whole_branches():
    rates = {}

    def spy(next_fun, args, kwargs, context):
        if isinstance(context.module, layers.DropPath):
            rates["/".join(context.module.path)] = context.module.rate
        return next_fun(*args, **kwargs)

    network = SwinTransformer(**SHAPE, window=2, image_size=8, drop_path=0.8)
    images, keys = draw_images((8, 8), count=4), jax.random.split(jax.random.key(1), 4)
    with layers.nn.intercept_methods(spy):
        shapes = jax.eval_shape(functools.partial(network.init, train=False), jax.random.key(0), images)
    blocks = ("block1_0", "block1_1", "block2_0")
    want = {f"{block}/drop_path{i}": 0.4 * n for n, block in enumerate(blocks) for i in (1, 2)}
    assert rates == pytest.approx(want)
    numbers = np.random.default_rng(2)
    variables = jax.tree.map(lambda x: numbers.standard_normal(x.shape).astype(np.float32), shapes)
    trained = jax.jit(lambda x, keys: network.apply(variables, x, True, keys))
    both = trained(images, keys)["stage2"]
    np.testing.assert_allclose(trained(images[::-1], keys[::-1])["stage2"], both[::-1], rtol=1e-4, atol=1e-4)
    same = trained(np.repeat(images[:1], 4, axis=0), keys)["stage2"]
    assert len(np.unique(np.asarray(same)[:, 0, 0, 0].round(3))) > 1


@pytest.mark.parametrize("version", KINDS)
def test_bf16_keeps_softmax_norms_and_sums_in_float32(version):
    module = KINDS[version](**SHAPE, window=2, image_size=8, dtype=jnp.bfloat16)
    images = jax.ShapeDtypeStruct((2, 8, 8, 3), jnp.float32)
    variables = jax.eval_shape(functools.partial(module.init, train=False), jax.random.key(0), images)
    assert {leaf.dtype for leaf in jax.tree.leaves(variables)} == {jnp.dtype("float32")}
    seen = {}

    def visit(program):
        for equation in program.eqns:
            seen.setdefault(equation.primitive.name, []).append(equation.invars[0].aval.dtype.name)
            for inner in jax.tree.leaves(
                list(equation.params.values()), is_leaf=lambda p: hasattr(p, "jaxpr")
            ):
                if hasattr(inner, "jaxpr"):
                    visit(inner.jaxpr)

    visit(jax.make_jaxpr(lambda v, x: module.apply(v, x, False))(variables, images).jaxpr)
    assert set(seen["exp"]) | set(seen["rsqrt"]) | set(seen["reduce_max"]) == {"float32"}
    products = seen["dot_general"]
    # The cosines and the two layers of the positions, in each of 3 blocks.
    assert products.count("float32") == (0 if version == 1 else 3 * 3)
    features = jax.eval_shape(lambda v, x: module.apply(v, x, False), variables, images)
    assert {value.dtype.name for value in features.values()} == {"float32"}


@pytest.mark.parametrize("fd_init", [False, True])
def test_initial_values_of_the_second_version(fd_init):
    network = SwinTransformerV2(64, (1, 1), (2, 4), 2, 8, 2, fd_init=fd_init, extra_norm=1)
    params = jax.jit(functools.partial(network.init, train=False))(jax.random.key(0), draw_images((8, 8)))
    block = params["params"]["block2_0"]
    np.testing.assert_array_equal(block["norm1"]["scale"], np.float32(1e-5 if fd_init else 0))
    deviation = 0.01 if fd_init else 0.02  # divided by sqrt(2 * 2)
    np.testing.assert_allclose(block["mlp"]["fc2"]["kernel"].std(), deviation, rtol=0.05)
    np.testing.assert_allclose(block["attn"]["proj"]["kernel"].std(), deviation, rtol=0.05)
    np.testing.assert_allclose(block["mlp"]["fc1"]["kernel"].std(), 0.02, rtol=0.05)
    np.testing.assert_allclose(block["attn"]["logit_scale"], np.log(10), rtol=1e-6)
    assert params["params"]["patch_embed"]["bias"].any() != fd_init
    np.testing.assert_array_equal(params["params"]["norm"]["scale"], 1)
    np.testing.assert_array_equal(block["norm3"]["scale"], 1)


def test_attention_is_returned_on_request_alone():
    network = LinenNetwork(SwinTransformer(**SHAPE, window=2, image_size=8))
    shapes = jax.eval_shape(
        lambda: network.module.init_with_output(jax.random.key(0), draw_images((8, 8)), False)[0]
    )
    assert {name: value.shape for name, value in shapes.items()} == {
        "stem": (2, 4, 4, 8),
        "stage1": (2, 4, 4, 8),
        "stage2": (2, 2, 2, 16),
        "tokens": (2, 4, 16),
        "pooled": (2, 16),
        "logits": (2, 5),
    }


def test_weight_decay_leaves_positions_and_scales_alone():
    for name, alone in (("swin_tiny", {"rel_pos_bias"}), ("swinv2_tiny", {"rel_pos_bias", "logit_scale"})):
        undecayed = models.create(name).undecayed
        attention = optim._kernels(shapes_of(name), undecayed)["block1_0"]["attn"]
        assert {key for key, tree in attention.items() if not any(jax.tree.leaves(tree))} - {
            "q_bias",
            "v_bias",
        } == alone


def test_mistakes_are_named():
    network = SwinTransformer(**SHAPE, window=2, image_size=10)
    with pytest.raises(UserError, match="image_size of a Swin transformer is 10, .* multiple of 4: use 8"):
        network.init(jax.random.key(0), draw_images((8, 8)), False)
    with pytest.raises(UserError, match="An image side is 9 pixels, .* patch=2"):
        network.clone(image_size=8).init(jax.random.key(0), draw_images((9, 8)), False)
