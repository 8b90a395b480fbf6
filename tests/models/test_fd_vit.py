"""FD's student against its definition in torch, its tables against FITPACK, and its published size."""

import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from scipy.interpolate import RectBivariateSpline
from torch.nn import functional as F

from seed_jax import models
from seed_jax.errors import UserError
from seed_jax.models import fd_vit
from seed_jax.models.fd_vit import FDVisionTransformer

small = functools.partial(FDVisionTransformer, 12, 4, heads=3, patch=4, image_size=16, truncated=False)


def random_variables(network, images, scale=0.3):
    variables = jax.eval_shape(functools.partial(network.init, train=False), jax.random.key(0), images)
    numbers = np.random.default_rng(1)
    return jax.tree.map(lambda x: (scale * numbers.standard_normal(x.shape)).astype(np.float32), variables)


def initialised(network):
    init = jax.jit(functools.partial(network.init, train=False))
    return init(jax.random.key(0), draw_images())["params"]


def draw_images(side=16, count=2):
    return np.random.default_rng(0).standard_normal((count, side, side, 3)).astype(np.float32)


def reference(params, images, positions, heads=3, patch=4):
    """The released network in torch: tokens after the final norm, and each block's attention."""
    p = jax.tree.map(lambda x: torch.from_numpy(np.asarray(x)), params)
    x = torch.from_numpy(images).permute(0, 3, 1, 2)
    kernel = p["patch_embed"]["kernel"].permute(3, 2, 0, 1)
    x = F.conv2d(x, kernel, p["patch_embed"]["bias"], stride=patch).flatten(2).transpose(1, 2)
    x = torch.cat([p["cls_token"].expand(len(x), -1, -1), x], dim=1)
    if positions == "absolute":
        x = x + p["pos_embed"]
    side, dim = images.shape[1] // patch, x.shape[-1]

    def bias(table):
        found = torch.zeros(heads, 1 + side * side, 1 + side * side)
        offsets = (2 * side - 1) ** 2
        found[:, 0, 1:] = table[offsets][:, None]
        found[:, 1:, 0] = table[offsets + 1][:, None]
        found[:, 0, 0] = table[offsets + 2]
        for q in range(side * side):
            for k in range(side * side):
                rows, columns = q // side - k // side, q % side - k % side
                found[:, 1 + q, 1 + k] = table[(rows + side - 1) * (2 * side - 1) + columns + side - 1]
        return found

    attention = []
    for i in range(4):
        b = p[f"block{i}"]
        norm = [(b[f"norm{n}"]["scale"], b[f"norm{n}"]["bias"]) for n in (1, 2)]
        y = F.layer_norm(x, (dim,), *norm[0], eps=1e-6)
        added = torch.cat([b["attn"]["q_bias"], torch.zeros(dim), b["attn"]["v_bias"]])
        qkv = F.linear(y, b["attn"]["qkv"]["kernel"].T, added)
        q, k, v = qkv.reshape(len(x), -1, 3, heads, dim // heads).permute(2, 0, 3, 1, 4)
        logits = q * (dim // heads) ** -0.5 @ k.transpose(-2, -1)
        if positions == "shared":
            logits = logits + bias(p["rel_pos_bias"]["table"])
        if positions == "layer":
            logits = logits + bias(b["attn"]["rel_pos_bias"]["table"])
        attention.append(logits.softmax(dim=-1))
        y = (attention[-1] @ v).transpose(1, 2).reshape(x.shape)
        x = x + b["ls1"]["gamma"] * F.linear(y, b["attn"]["proj"]["kernel"].T, b["attn"]["proj"]["bias"])
        y = F.layer_norm(x, (dim,), *norm[1], eps=1e-6)
        y = F.gelu(F.linear(y, b["mlp"]["fc1"]["kernel"].T, b["mlp"]["fc1"]["bias"]))
        x = x + b["ls2"]["gamma"] * F.linear(y, b["mlp"]["fc2"]["kernel"].T, b["mlp"]["fc2"]["bias"])
    return F.layer_norm(x, (dim,), p["norm"]["scale"], p["norm"]["bias"], eps=1e-6), attention


@pytest.mark.parametrize("positions", fd_vit.POSITIONS)
def test_the_forward_pass(positions):
    network, images = small(positions=positions, attention=True), draw_images()
    variables = random_variables(network, images)
    features = jax.jit(lambda v, x: network.apply(v, x, False))(variables, images)
    tokens, attention = reference(variables["params"], images, positions)
    np.testing.assert_allclose(features["tokens"], tokens, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(features["pooled"], tokens[:, 1:].mean(dim=1), rtol=1e-4, atol=1e-5)
    for i, weights in enumerate(attention, start=1):
        np.testing.assert_allclose(features[f"attention{i}"], weights, rtol=1e-4, atol=1e-6)


def test_attention_is_returned_on_request_alone():
    shapes = jax.eval_shape(lambda: small().init_with_output(jax.random.key(0), draw_images(), False)[0])
    assert not any(name.startswith("attention") for name in shapes)


def test_the_fine_tuned_form_normalises_the_mean():
    network, images = small(pool="mean", num_classes=5), draw_images()
    variables = random_variables(network, images)
    features = jax.jit(lambda v, x: network.apply(v, x, False))(variables, images)
    p = variables["params"]
    mean = features["stage4"][:, 1:].mean(axis=1)
    mean = (mean - mean.mean(axis=1, keepdims=True)) / np.sqrt(mean.var(axis=1, keepdims=True) + 1e-6)
    want = mean * p["fc_norm"]["scale"][None] + p["fc_norm"]["bias"][None]
    np.testing.assert_allclose(features["pooled"], want, rtol=1e-4, atol=1e-5)
    assert features["logits"].shape == (2, 5) and "norm" not in p


@pytest.mark.parametrize(
    ("name", "options", "size", "count"),
    [
        ("fd_vit_base", {}, 224, 85_665_360),
        ("fd_vit_base", {"positions": "layer", "pool": "mean", "num_classes": 1000}, 224, 86_530_984),
        ("fd_vit_large", {"patch": 14}, 224, 302_955_584),
    ],
)
def test_published_sizes(name, options, size, count):
    network = models.create(name, **options)
    images = jax.ShapeDtypeStruct((1, size, size, 3), jnp.float32)
    shapes = jax.eval_shape(network.init, jax.random.key(0), images)
    assert sum(leaf.size for leaf in jax.tree.leaves(shapes["params"])) == count


def test_initial_values():
    network = FDVisionTransformer(64, 4, heads=4, patch=4, image_size=16)
    params = initialised(network)
    for name, layer in (("mlp", "fc2"), ("attn", "proj")):
        assert np.abs(params["block3"][name][layer]["kernel"]).max() <= 0.02 / math.sqrt(8)
    assert not params["patch_embed"]["bias"].any() and params["cls_token"].any()
    std = np.std(np.asarray(params["block0"]["mlp"]["fc1"]["kernel"]))
    np.testing.assert_allclose(std, 0.0108, rtol=0.02)
    assert not params["rel_pos_bias"]["table"].any()
    np.testing.assert_array_equal(params["block0"]["ls1"]["gamma"], np.float32(0.1))
    wide = initialised(small())
    assert np.abs(wide["block0"]["attn"]["qkv"]["kernel"]).max() > 0.04


@pytest.mark.parametrize(("old", "new"), [(4, 7), (7, 4), (14, 24)])
def test_tables_are_resized_as_fitpack_does(old, new):
    """The loaders of BEiT and FD: a geometric axis, `interp2d` cubic, outside the outermost values."""
    table = np.random.default_rng(0).standard_normal(((2 * old - 1) ** 2 + 3, 2))
    inputs, outputs = 2 * old - 1, 2 * new - 1
    low, high = 1.01, 1.5
    while high - low > 1e-6:
        ratio = (low + high) / 2
        if sum(ratio**i for i in range(inputs // 2)) > outputs // 2:
            high = ratio
        else:
            low = ratio
    steps = [sum(ratio**i for i in range(n)) for n in range(1, inputs // 2 + 1)]
    axis = np.array([*(-x for x in reversed(steps)), 0.0, *steps])
    at = np.clip(np.arange(-(outputs // 2), outputs // 2 + 1), axis[0], axis[-1])
    want = [
        RectBivariateSpline(axis, axis, table[:-3, head].reshape(inputs, inputs), s=0)(at, at).ravel()
        for head in range(2)
    ]
    got = fd_vit.resize_table(table.astype(np.float32), (old, old), (new, new))
    np.testing.assert_allclose(got[:-3], np.stack(want, axis=1), rtol=1e-3, atol=1e-4)
    np.testing.assert_allclose(got[-3:], table[-3:], rtol=1e-6)


def test_images_of_another_size_use_a_resized_table():
    network = small()
    variables = random_variables(network, draw_images())
    wide = np.random.default_rng(0).standard_normal((2, 16, 24, 3)).astype(np.float32)
    table = fd_vit.resize_table(variables["params"]["rel_pos_bias"]["table"], (4, 4), (4, 6))
    got = jax.jit(lambda v, x: network.apply(v, x, False))(variables, wide)["tokens"]
    assert got.shape == (2, 25, 12)
    bias = np.asarray(table)[fd_vit.pairs((4, 6))]
    assert bias.shape == (25, 25, 3)
    np.testing.assert_array_equal(bias[1, 2], table[3 * 11 + 4])  # one column to the right of the query
    np.testing.assert_array_equal(bias[7, 1], table[4 * 11 + 5])  # one row above it


def test_absolute_positions_are_resized_bicubically():
    old = np.random.default_rng(0).standard_normal((1, 17, 6)).astype(np.float32)
    grid = torch.from_numpy(old[:, 1:]).mT.unflatten(2, (4, 4))
    want = F.interpolate(grid, size=(5, 7), mode="bicubic", align_corners=False).flatten(2).mT
    got = fd_vit.resize_absolute(old, (5, 7))
    np.testing.assert_allclose(got[:, 1:], want, rtol=1e-4, atol=1e-5)
    np.testing.assert_array_equal(got[:, 0], old[:, 0])
    images = draw_images(24)
    one, large = (
        FDVisionTransformer(12, 1, heads=3, patch=4, image_size=side, positions="absolute")
        for side in (16, 24)
    )
    params = random_variables(one, draw_images())["params"]
    resized = params | {"pos_embed": fd_vit.resize_absolute(params["pos_embed"], (6, 6))}
    found, want = (
        jax.jit(lambda p, net=net: net.apply({"params": p}, images, False)["stem"])(p)
        for net, p in ((one, params), (large, resized))
    )
    np.testing.assert_allclose(found, want, rtol=1e-5, atol=1e-6)


def test_mistakes_are_named():
    with pytest.raises(UserError, match="positions of a vision transformer 'share': did you mean 'shared'"):
        small(positions="share").init(jax.random.key(0), draw_images(), False)
    with pytest.raises(UserError, match="An image side is 18 pixels, .* patch=4: use 16"):
        small().init(jax.random.key(0), draw_images(18), False)
