import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from seed_jax import models
from seed_jax.errors import UserError
from seed_jax.models import vit

PLAIN = {"mean": (0, 0, 0), "std": (1, 1, 1)}


def tiny(**options):
    """Four blocks of width 8 on 2 x 2 patches of 4 pixels."""
    options = {"heads": 2, "patch": 4, "image_size": 8} | options
    return models.LinenNetwork(vit.VisionTransformer(8, 4, **options), **PLAIN)


def images(side=8, batch=3):
    return np.random.default_rng(1).standard_normal((batch, side, side, 3)).astype(np.float32)


def drawn(module, *args, **kwargs):
    """Variables with nothing at its initial value."""
    shapes = jax.eval_shape(lambda: module.init(jax.random.key(0), *args, **kwargs))
    random = np.random.default_rng(2)
    return jax.tree.map(lambda leaf: 0.5 * random.standard_normal(leaf.shape).astype(np.float32), shapes)


def apply(network, x):
    variables = drawn(network, x)
    return variables["params"], jax.jit(lambda v, x: network.apply(v, x, train=False)[0])(variables, x)


@pytest.mark.parametrize("form", vit.FORMS)
@pytest.mark.parametrize("side", [8, 12])
def test_features_and_their_shapes(form, side):
    network = tiny(form=form, num_classes=5)
    shapes = jax.eval_shape(
        lambda x: network.apply(network.init(jax.random.key(0), x[:, :8, :8]), x, train=False)[0],
        images(side),
    )
    tokens = (3, 1 + vit.FORMS[form].registers + (side // 4) ** 2, 8)
    per_token = dict.fromkeys(("stem", "stage1", "stage2", "stage3", "stage4", "tokens"), tokens)
    assert {key: leaf.shape for key, leaf in shapes.items()} == per_token | {
        "pooled": (3, 8),
        "logits": (3, 5),
    }


def test_positions_of_moco_v3_are_those_of_the_released_code():
    """vits.py, build_2d_sincos_position_embedding, for a 2 x 2 grid and 8 channels."""
    sin, cos = [0.841471, 0.01], [0.540302, 0.99995]
    first, second = [0, 0, 1, 1], [*sin, *cos]
    want = [first + first, first + second, second + first, second + second]
    np.testing.assert_allclose(vit.sine_positions(2, 8), want, atol=1e-5)


def test_initial_values_of_moco_v3():
    """vits.py: bounds of uniform distributions, query, key and value apart; no other bias than 0."""
    network = tiny(mocov3_init=True)
    params = network.init(jax.random.key(0), images())["params"]
    np.testing.assert_array_equal(params["pos_embed"][0, 0], np.zeros(8))
    np.testing.assert_array_equal(params["pos_embed"][0, 1:], vit.sine_positions(2, 8))
    assert 0 < jnp.abs(params["cls_token"]).max() < 1e-5
    block = params["block0"]
    for leaves, fans in (
        (params["patch_embed"], 3 * 4 * 4 + 8),
        (block["attn"]["qkv"], 8 + 8),
        (block["attn"]["proj"], 8 + 8),
        (block["mlp"]["fc1"], 8 + 32),
        (block["mlp"]["fc2"], 32 + 8),
    ):
        bound, largest = math.sqrt(6 / fans), float(jnp.abs(leaves["kernel"]).max())
        assert 0.8 * bound < largest <= bound
    assert not params["block3"]["mlp"]["fc2"]["bias"].any()


def test_attention_equals_float64():
    x = np.random.default_rng(3).standard_normal((2, 5, 8)).astype(np.float32)
    module = vit.Attention(heads=2, dtype=jnp.float32)
    variables = drawn(module, x)
    qkv, proj = variables["params"]["qkv"], variables["params"]["proj"]
    q, k, v = np.split(x.astype(np.float64) @ qkv["kernel"] + qkv["bias"], 3, axis=-1)
    heads, weights = [], []
    for channels in (slice(0, 4), slice(4, 8)):
        rows = np.exp(q[..., channels] @ k[..., channels].swapaxes(1, 2) / np.sqrt(4))
        weights.append(rows / rows.sum(-1, keepdims=True))
        heads.append(weights[-1] @ v[..., channels])
    expected = np.concatenate(heads, axis=-1) @ proj["kernel"] + proj["bias"]
    got, got_weights = module.apply(variables, x)
    np.testing.assert_allclose(got, expected, atol=1e-5)
    np.testing.assert_allclose(got_weights, np.stack(weights, axis=1), atol=1e-5)


def test_attention_weights_are_returned_on_request():
    shape, x = {"form": "dinov2_registers"}, images(8)
    assert not any(name.startswith("attention") for name in apply(tiny(**shape), x)[1])
    features = apply(tiny(attention=True, **shape), x)[1]
    assert {"attention1", "attention2", "attention3", "attention4"} <= features.keys()
    assert features["attention4"].shape == (3, 2, 9, 9)
    np.testing.assert_allclose(features["attention4"].sum(axis=-1), 1, rtol=1e-5)


@pytest.mark.parametrize("quick", [False, True])
def test_gelu_is_exact_or_clips(quick):
    x = np.linspace(-4, 4, 24, dtype=np.float32).reshape(1, 3, 8)
    module = vit.MLP(quick_gelu=quick, dtype=jnp.float32)
    variables = drawn(module, x)
    fc1, fc2 = variables["params"]["fc1"], variables["params"]["fc2"]
    y = x.astype(np.float64) @ fc1["kernel"] + fc1["bias"]
    gate = 1 / (1 + np.exp(-1.702 * y)) if quick else (1 + np.vectorize(math.erf)(y / math.sqrt(2))) / 2
    expected = (y * gate) @ fc2["kernel"] + fc2["bias"]
    np.testing.assert_allclose(module.apply(variables, x), expected, atol=1e-5)


def test_block_and_its_gradient_equal_torchs_encoder_layer():
    torch = pytest.importorskip("torch")
    x = np.random.default_rng(4).standard_normal((2, 5, 8)).astype(np.float32)
    module = vit.Block(2, vit.FORMS["deit"], 0.0, jnp.float32)
    variables = drawn(module, x, train=False, keys=None)
    p = variables["params"]
    reference = torch.nn.TransformerEncoderLayer(
        *(8, 2, 32), dropout=0.0, activation="gelu", layer_norm_eps=1e-6, batch_first=True, norm_first=True
    )
    state = {
        "self_attn.in_proj_weight": p["attn"]["qkv"]["kernel"].T,
        "self_attn.in_proj_bias": p["attn"]["qkv"]["bias"],
    }
    for theirs, ours in (
        ("self_attn.out_proj", p["attn"]["proj"]),
        ("linear1", p["mlp"]["fc1"]),
        ("linear2", p["mlp"]["fc2"]),
        ("norm1", p["norm1"]),
        ("norm2", p["norm2"]),
    ):
        state[f"{theirs}.weight"] = ours["kernel"].T if "kernel" in ours else ours["scale"]
        state[f"{theirs}.bias"] = ours["bias"]
    reference.load_state_dict({name: torch.tensor(value) for name, value in state.items()})
    x_torch = torch.tensor(x, requires_grad=True)
    y_torch = reference(x_torch)
    dy = np.random.default_rng(5).standard_normal(x.shape).astype(np.float32)
    y_torch.backward(torch.tensor(dy))

    @jax.jit
    def ours(x):
        y, pullback = jax.vjp(lambda x: module.apply(variables, x, train=True, keys=None)[0], x)
        return y, pullback(dy)[0]

    y, dx = ours(x)
    np.testing.assert_allclose(y, y_torch.detach(), atol=1e-5)
    np.testing.assert_allclose(dx, x_torch.grad, atol=1e-5)


def test_patches_equal_torchs_convolution():
    torch = pytest.importorskip("torch")
    x = images(12)
    module = vit.PatchEmbed(8, 4, bias=True, dtype=jnp.float32)
    variables = drawn(module, x)
    kernel, bias = (torch.tensor(variables["params"][name]) for name in ("kernel", "bias"))
    y = torch.nn.functional.conv2d(
        torch.tensor(x).permute(0, 3, 1, 2), kernel.permute(3, 2, 0, 1), bias, stride=4
    )
    np.testing.assert_allclose(module.apply(variables, x), y.flatten(2).transpose(1, 2), atol=1e-5)


@pytest.mark.parametrize("grid", [(14, 10), (7, 23), (16, 16)])
@pytest.mark.parametrize(("offset", "antialias"), [(0.0, False), (0.1, False), (0.0, True)])
def test_position_resize_equals_torch(grid, offset, antialias):
    torch = pytest.importorskip("torch")
    stored = 14
    positions = np.random.default_rng(6).standard_normal((stored**2, 3)).astype(np.float32)
    square = torch.tensor(positions).reshape(1, stored, stored, 3).permute(0, 3, 1, 2)
    size = {"scale_factor": [(n + offset) / stored for n in grid]} if offset else {"size": grid}
    expected = torch.nn.functional.interpolate(square, mode="bicubic", antialias=antialias, **size)
    resized = vit.resize_positions(positions, grid, offset, antialias)
    np.testing.assert_allclose(resized, expected[0].permute(1, 2, 0).reshape(-1, 3), atol=1e-5)


def test_stem_is_cls_registers_and_patches_in_reading_order():
    x = np.zeros((1, 8, 8, 3), np.float32)
    x[:, 4:, :4] = 1  # the third patch
    params, features = apply(tiny(form="dinov2_registers"), x)
    cls, positions, registers = params["cls_token"][0], params["pos_embed"][0], params["register_tokens"][0]
    patches = positions[1:] + params["patch_embed"]["bias"]
    patches[2] += params["patch_embed"]["kernel"].sum((0, 1, 2))
    expected = np.concatenate([cls + positions[:1], registers, patches])
    np.testing.assert_allclose(features["stem"][0], expected, atol=1e-5)


def test_clip_normalises_before_the_first_block():
    x = images()
    params, features = apply(tiny(form="clip"), x)
    assert "bias" not in params["patch_embed"]
    patches = x[:, 4:, :4].reshape(3, -1) @ params["patch_embed"]["kernel"].reshape(-1, 8)
    token = (patches + params["pos_embed"][0, 3]).astype(np.float64)
    centred = token - token.mean(-1, keepdims=True)
    expected = centred / np.sqrt(token.var(-1, keepdims=True) + 1e-5) * params["norm_pre"]["scale"]
    np.testing.assert_allclose(features["stem"][:, 3], expected + params["norm_pre"]["bias"], atol=1e-5)


def test_layer_scale_multiplies_what_a_block_adds():
    network, x = tiny(form="dinov2"), images()
    variables = drawn(network, x)
    for i in range(4):
        for name in ("ls1", "ls2"):
            variables["params"][f"block{i}"][name]["gamma"] = np.zeros(8, np.float32)
    features, _ = network.apply(variables, x, train=False)
    np.testing.assert_array_equal(features["stage4"], features["stem"])


def test_pooled_is_the_cls_token_or_the_normalised_mean_of_the_patches():
    x = images()
    _, features = apply(tiny(), x)
    np.testing.assert_array_equal(features["pooled"], features["tokens"][:, 0])
    params, features = apply(tiny(pool="mean", form="dinov2_registers"), x)
    mean = np.asarray(features["tokens"], np.float64)[:, 5:].mean(1)
    expected = (mean - mean.mean(-1, keepdims=True)) / np.sqrt(mean.var(-1, keepdims=True) + 1e-6)
    expected = expected * params["fc_norm"]["scale"] + params["fc_norm"]["bias"]
    np.testing.assert_allclose(features["pooled"], expected, atol=1e-5)


def test_drop_path_drops_whole_samples_by_their_keys():
    network, x = tiny(drop_path=0.9), np.repeat(images(batch=1), 16, axis=0)
    variables, keys = drawn(network, x), jax.random.split(jax.random.key(3), 16)
    train = jax.jit(lambda keys: network.apply(variables, x, train=True, keys=keys)[0]["stage4"])
    order = np.arange(16)[::-1]
    np.testing.assert_array_equal(train(keys)[order], train(keys[order]))
    assert len(np.unique(np.asarray(train(keys))[:, 0, 0])) > 4

    module = models.layers.DropPath(0.25)
    ones = np.ones((400, 2, 3), np.float32)
    y = np.asarray(module.apply({}, ones, True, jax.random.split(jax.random.key(4), 400)))
    np.testing.assert_array_equal(y, np.broadcast_to(y[:, :1, :1], y.shape))
    assert set(np.unique(y)) == {np.float32(0), np.float32(1 / 0.75)}
    assert 0.65 < (y[:, 0, 0] > 0).mean() < 0.85
    np.testing.assert_array_equal(module.apply({}, ones, False, None), ones)


def test_drop_path_without_keys_is_an_error():
    network, x = tiny(drop_path=0.5), images()
    with pytest.raises(UserError, match="one key per sample"):
        network.apply(drawn(network, x), x, train=True)


def operations(jaxpr):
    """(primitive, dtypes of its operands) of a program and of all that it calls."""
    for equation in jaxpr.eqns:
        yield equation.primitive.name, {operand.aval.dtype.name for operand in equation.invars}
        for inner in equation.params.values():
            if hasattr(inner, "jaxpr"):
                yield from operations(inner.jaxpr)


def test_bf16_is_for_matrix_products_and_not_for_norms_softmax_and_sums():
    network, x = tiny(num_classes=5, dtype=jnp.bfloat16), images()
    variables = drawn(network, x)
    program = jax.make_jaxpr(lambda v: network.apply(v, x, train=False)[0])(variables)
    dtypes = {}
    for primitive, operands in operations(program.jaxpr):
        dtypes[primitive] = dtypes.get(primitive, set()) | operands
    assert dtypes["dot_general"] == {"bfloat16"}
    for primitive in ("exp", "rsqrt", "reduce_sum", "reduce_max"):
        assert dtypes[primitive] == {"float32"}
    half, _ = network.apply(variables, x, train=False)
    full, _ = tiny(num_classes=5).apply(variables, x, train=False)
    assert {leaf.dtype for leaf in jax.tree.leaves(half)} == {np.dtype("float32")}
    for key in half:
        np.testing.assert_allclose(half[key], full[key], atol=0.05 * np.abs(full[key]).max())


def test_initial_values():
    module = vit.VisionTransformer(
        64, 4, heads=2, patch=4, form="dinov2_registers", image_size=32, num_classes=100
    )
    params = jax.jit(models.LinenNetwork(module).init)(jax.random.key(0), images(32))["params"]
    kernels = [params["block0"]["attn"]["qkv"], params["block3"]["mlp"]["fc2"], params["fc"]]
    for value in (*(dense["kernel"] for dense in kernels), params["pos_embed"]):
        assert np.std(value) == pytest.approx(0.02, rel=0.05)
    assert all(not dense["bias"].any() for dense in kernels)
    bound = 1 / math.sqrt(4 * 4 * 3)
    assert 0.99 * bound < np.abs(params["patch_embed"]["kernel"]).max() <= bound
    np.testing.assert_array_equal(params["block0"]["ls1"]["gamma"], np.full(64, 1e-5, np.float32))


def test_layers_of_a_depth_of_12_as_in_mae():
    """facebookresearch/mae, util/lr_decay.py: `get_layer_id_for_vit` with num_layers = 13."""
    network = models.create("vit_base", num_classes=10)
    want = {
        ("cls_token",): 0,
        ("pos_embed",): 0,
        ("patch_embed", "kernel"): 0,
        ("patch_embed", "bias"): 0,
        ("block0", "norm1", "scale"): 1,
        ("block3", "attn", "qkv", "kernel"): 4,
        ("block11", "mlp", "fc2", "bias"): 12,
        ("norm", "scale"): 13,
        ("fc_norm", "bias"): 13,
        ("fc", "kernel"): 13,
    }
    assert {path: network.layer(path) for path in want} == want
    assert network.layers == 13
    registers = models.create("vit_base", form="dinov2_registers")
    assert (
        registers.layer(("register_tokens",))
        == models.create("vit_base", form="clip").layer(("norm_pre", "bias"))
        == 0
    )
    params = jax.eval_shape(registers.init, jax.random.key(0), jnp.zeros((1, 224, 224, 3)))["params"]
    assert registers.undecayed == {name for name, leaf in params.items() if not isinstance(leaf, dict)}


def test_what_does_not_fit_is_said():
    with pytest.raises(UserError, match="side is 10 pixels, which is not a multiple of patch=4: use 8"):
        tiny().init(jax.random.key(0), images(10))
    with pytest.raises(
        UserError, match="Unknown form of a vision transformer 'dinov3': did you mean 'dinov2'"
    ):
        tiny(form="dinov3").init(jax.random.key(0), images())
    with pytest.raises(UserError, match="Unknown pool of a vision transformer 'max': "):
        tiny(pool="max").init(jax.random.key(0), images())
    with pytest.raises(UserError, match="option of vit_base 'width'"):
        models.create("vit_base", width=2)
