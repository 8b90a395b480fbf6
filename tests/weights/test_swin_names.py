"""Files of Swin transformers: made-up ones of the networks in torch, with the names of each code base."""

import dataclasses
import functools
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import swin_torch
import torch
from scipy.interpolate import RectBivariateSpline

from seed_jax import models, weights
from seed_jax.errors import UserError
from seed_jax.weights import array_files, loading, pretrained, saving, state_dict, swin
from seed_jax.weights import naming as naming_lib
from seed_jax.weights.__main__ import main

NAMINGS = {(naming.family, naming.name): naming for naming in swin.NAMINGS}
DEPTHS, HEADS = (2, 2, 2, 2), (1, 1, 2, 2)
CONSTANTS = ("relative_position_index", "relative_coords_table", "attn_mask")
SMALL = {"dim": 8, "depths": DEPTHS, "heads": HEADS}


@pytest.fixture
def narrow(monkeypatch):
    """Two networks of 8 channels under names of their own."""
    for family in ("swin", "swinv2"):
        constructor = models.MODELS[f"{family}_tiny"].func
        small = functools.partial(constructor, 8, DEPTHS, HEADS)
        monkeypatch.setitem(models.MODELS, f"{family}_narrow", small)
    monkeypatch.setitem(swin.ARCHITECTURES, (8, (2, 2, 2, 2)), "narrow")


def made_up(version=1, window=3, image_size=64, **options):
    """The network in torch and its state dict, float32, constants included, as Microsoft's code saves it."""
    net = swin_torch.Swin(
        **SMALL, window=window, image_size=image_size, num_classes=5, version=version, **options
    )
    tensors = swin_torch.randomise(net).state_dict()
    masks = {"layers.0.blocks.1.attn_mask": torch.zeros(4, window**2, window**2)}
    return net, {name: t.float() if t.is_floating_point() else t for name, t in (tensors | masks).items()}


def timm_names(tensors):
    """As timm writes them: merging at the next stage's start, another classifier, no constants."""
    renamed = {
        re.sub(r"layers\.(\d)\.down", lambda m: f"layers.{int(m[1]) + 1}.down", name).replace(
            "head.", "head.fc."
        ): t
        for name, t in tensors.items()
    }
    return {name: t for name, t in renamed.items() if not name.endswith(CONSTANTS)}


def compare(path, net):
    """Load a file and compare the pooled features and logits with those of the network in torch."""
    recognised = weights.recognise(path)
    network = recognised.network(mean=(0, 0, 0), std=(1, 1, 1))
    variables = weights.load(path, network)
    images = np.random.default_rng(0).standard_normal((1, 64, 64, 3)).astype(np.float32)
    features = jax.jit(lambda v: network.apply(v, images, False)[0])(variables)
    with torch.no_grad():
        want = net.double()(torch.from_numpy(images).double().movedim(3, 1))
    for name in ("stage1", "pooled", *(["logits"] if "logits" in features else [])):
        scale = want[name].abs().max().item()
        np.testing.assert_allclose(features[name], want[name], rtol=1e-3, atol=1e-4 * scale, err_msg=name)
    return recognised


def test_microsofts_first_version(tmp_path, narrow):
    net, tensors = made_up()
    torch.save({"model": tensors, "max_accuracy": 81.2, "epoch": 299}, tmp_path / "a.pth")
    recognised = compare(tmp_path / "a.pth", net)
    assert (recognised.naming, recognised.arch) == ("microsoft", "swin_narrow")
    assert recognised.options == {"window": 3, "image_size": 64, "num_classes": 5}
    assert (recognised.size, recognised.preparation.interpolation) == (64, "bicubic")


@pytest.mark.parametrize(("version", "positions"), [(1, ""), (2, "cpb_mlp"), (2, "rpe_mlp")])
def test_each_naming_there_and_back(tmp_path, narrow, version, positions):
    """A file of the network in torch, ours, and the same names and bits again."""
    window = {"rpe_mlp": 14}.get(positions, 8)
    _, tensors = made_up(version, window, 32 * window, **({"positions": positions} if positions else {}))
    for names in ("microsoft", "timm", "fd"):
        if (names == "fd") != (positions == "rpe_mlp"):
            continue
        theirs = timm_names(tensors) if names == "timm" else tensors
        torch.save({"model": theirs}, tmp_path / "a.pth")
        recognised = weights.recognise(tmp_path / "a.pth", windows={"window": 8})
        assert recognised.naming == names
        variables = weights.load(tmp_path / "a.pth", recognised.network())
        assert names in saving.offered(recognised, variables)
        assert weights.save(variables, recognised, tmp_path / "b.safetensors", names=names) == []
        written = array_files.read_safetensors(tmp_path / "b.safetensors")
        assert written.keys() == {name for name in theirs if not name.endswith(CONSTANTS)}
        for name, tensor in written.items():
            np.testing.assert_array_equal(tensor, theirs[name].numpy(), strict=True)
        again = weights.recognise(tmp_path / "b.safetensors")
        assert again.options == recognised.options


def test_a_giant_is_of_the_second_version():
    shapes = {"patch_embed.proj.weight": (512, 3, 4, 4)}
    for stage, depth in enumerate((2, 2, 42, 4)):
        shapes |= {f"layers.{stage}.blocks.{i}.norm1.weight": (512 * 2**stage,) for i in range(depth)}
    assert swin._arch("swinv2", shapes) == "swinv2_giant"
    assert swin._arch("swin", shapes) == "swin of 2, 2, 42, 4 blocks and 512 channels"


def test_the_second_version_shows_its_window_in_a_constant(tmp_path, narrow):
    net, tensors = made_up(2, 4, 64)
    torch.save({"model": tensors}, tmp_path / "a.pth")
    recognised = compare(tmp_path / "a.pth", net)
    assert (recognised.naming, recognised.arch) == ("microsoft", "swinv2_narrow")
    assert recognised.options == {"window": 4, "image_size": 64, "num_classes": 5}


@pytest.mark.parametrize(("window", "size"), [(8, 256), (16, 256), (24, 384), (12, 192)])
def test_a_file_without_the_constant_needs_the_window(tmp_path, narrow, window, size):
    _, tensors = made_up(2, 4, 64)
    torch.save(timm_names(tensors), tmp_path / "b.pth")
    with pytest.raises(UserError, match=r"b.pth has swinv2_narrow without .* set their side with window=8"):
        weights.recognise(tmp_path / "b.pth")
    recognised = weights.recognise(tmp_path / "b.pth", windows={"window": window})
    assert (recognised.naming, recognised.options["window"], recognised.size) == ("timm", window, size)
    windows = {"window": 16, "image_size": 512, "pretrained_window": 12}
    told = weights.recognise(tmp_path / "b.pth", windows=windows | {"mean": (0, 0, 0)})
    assert told.options == windows | {"num_classes": 5} and told.size == 512


def test_what_asks_for_a_window_is_named_as_the_user_sets_it(tmp_path, narrow, capsys):
    net, tensors = made_up(2, 4, 64)
    torch.save(timm_names(tensors), tmp_path / "b.pth")
    for where, wanted in (
        ("", "options['window']=8"),
        ("teacher.weights", "config.teacher.options.window=8"),
    ):
        flags = {"where": where} if where else {"flags": ("model", "options['form']", "options['window']")}
        with pytest.raises(UserError, match=re.escape(wanted)):
            pretrained.load_named(tmp_path / "b.pth", **flags)
    options = {"window": 4, "image_size": 64, "mean": (0, 0, 0), "std": (1, 1, 1)}
    loaded = pretrained.load(tmp_path / "b.pth", options=options)
    assert loaded.network.backbone.module.pretrained_of(1) == 4
    assert main(["inspect", str(tmp_path / "b.pth")]) == 1
    assert "--window=8" in capsys.readouterr().err


def test_our_own_export_says_its_window(tmp_path, narrow):
    _, tensors = made_up(2, 4, 64)
    torch.save(timm_names(tensors), tmp_path / "b.pth")
    recognised = weights.recognise(tmp_path / "b.pth", windows={"window": 4, "image_size": 64})
    variables = weights.load(tmp_path / "b.pth", recognised.network())
    weights.save(variables, recognised, tmp_path / "c.safetensors", names="timm")
    assert weights.recognise(tmp_path / "c.safetensors").options == recognised.options
    usual = dataclasses.replace(recognised, options={})  # of a run with the default window
    weights.save(variables, usual, tmp_path / "d.safetensors", names="timm")
    assert weights.recognise(tmp_path / "d.safetensors").options == {"num_classes": 5}


def test_positions_of_the_windows_of_pre_training(tmp_path, narrow):
    """A constant's values show them, whatever the file is called."""
    trained = (3, 3, 3, 2)
    net, tensors = made_up(2, 4, 64, pretrained=trained)
    torch.save({"model": tensors}, tmp_path / "a.pth")
    recognised = compare(tmp_path / "a.pth", net)
    module = recognised.network().backbone.module
    assert tuple(map(module.pretrained_of, (1, 2, 3, 4))) == trained


def test_the_published_windows_of_pre_training():
    """swinv2_base_patch4_window12to16_192to256: windows of 16, 16, 16, 8, trained as 12, 12, 12, 6."""
    tables = {}
    for stage, (window, trained) in {0: (16, 12), 3: (8, 6)}.items():
        axis = torch.arange(1 - window, window, dtype=torch.float32) / (trained - 1) * 8
        axis = axis.sign() * torch.log2(axis.abs() + 1) / np.log2(8)
        table = torch.stack(torch.meshgrid(axis, axis, indexing="ij"), -1)[None]
        tables[swin.PLACES.format(stage)] = table.half().numpy()
    assert swin.trained_windows(tables) == {"pretrained_window": 12, "pretrained_size": 192}


def test_esvit(tmp_path, narrow):
    """microsoft/esvit, main_esvit.py: student and teacher with two heads. Its norms have epsilon 1e-6."""
    (_, theirs), (teacher, _) = made_up(epsilon=1e-6), made_up(epsilon=1e-6)
    swin_torch.randomise(teacher, seed=1)
    ours = {name: t.float() for name, t in teacher.state_dict().items()}
    heads = {"head.mlp.0.weight": torch.zeros(16, 64), "head.last_layer.weight_g": torch.zeros(9, 1)}
    heads |= {name.replace("head", "head_dense"): tensor for name, tensor in heads.items()}

    def saved(tensors, prefix):
        kept = {name: t for name, t in tensors.items() if not name.startswith("head.")}
        return {f"{prefix}{name}": t for name, t in (kept | heads).items() if not name.endswith("attn_mask")}

    torch.save(
        {"student": saved(theirs, "module."), "teacher": saved(ours, ""), "epoch": 9}, tmp_path / "a.pth"
    )
    recognised = compare(tmp_path / "a.pth", teacher)
    assert recognised.options == {"window": 3, "image_size": 64, "epsilon": 1e-6}
    variables = weights.load(tmp_path / "a.pth", recognised.network(), part="student")
    bias = variables["params"]["backbone"]["patch_embed"]["bias"]
    np.testing.assert_array_equal(bias, theirs["patch_embed.proj.bias"])
    assert saving.offered(recognised, variables).keys() == {"esvit"}


def test_a_swin_without_a_classifier_could_be_esvits(tmp_path, narrow, caplog):
    caplog.set_level("WARNING", logger="absl")
    _, tensors = made_up()
    torch.save({"model": tensors}, tmp_path / "a.pth")
    pretrained.load(tmp_path / "a.pth")
    assert not caplog.text
    bare = {name: t for name, t in tensors.items() if not name.startswith("head.")}
    torch.save({"model": bare}, tmp_path / "b.pth")
    loaded = pretrained.load(tmp_path / "b.pth")
    assert loaded.network.backbone.module.epsilon == 1e-5
    assert "for EsViT's set the option epsilon to 1e-6" in caplog.text
    caplog.clear()
    loaded = pretrained.load(tmp_path / "b.pth", options={"epsilon": 1e-6})
    assert loaded.network.backbone.module.epsilon == 1e-6 and not caplog.text


def test_feature_distillation(tmp_path, narrow):
    """models/feature_distillation.py: the student, its projector, and the teacher in half precision."""
    net, tensors = made_up(2, positions="rpe_mlp")
    (_, teacher) = made_up()
    files = {f"encoder.{name}": t for name, t in tensors.items() if not name.startswith("head.")}
    files |= {"decoder.weight": torch.zeros(8, 64, 1), "decoder.bias": torch.zeros(8)}
    files |= {f"feature_model.{name}": t.half() for name, t in teacher.items()}
    torch.save({"model": files, "scaler": {"scale": 65536.0}}, tmp_path / "a.pth")
    recognised = weights.recognise(tmp_path / "a.pth")
    assert (recognised.naming, recognised.arch) == ("fd", "swinv2_narrow")
    assert recognised.options == {"window": 3, "image_size": 64} and recognised.head is None
    params = weights.load(tmp_path / "a.pth", recognised.network())["params"]["backbone"]
    want = swin_torch.to_ours({name: p for name, p in net.named_parameters() if not name.startswith("head.")})
    jax.tree.map(np.testing.assert_array_equal, params, want)


@pytest.mark.parametrize(("old", "new"), [(3, 5), (5, 3), (7, 14)])
def test_tables_are_resized_as_feature_distillation_does(old, new):
    """utils.py: a geometric axis, `interp2d` cubic."""
    table = np.random.default_rng(0).standard_normal(((2 * old - 1) ** 2, 2))
    low, high = 1.01, 1.5
    while high - low > 1e-6:
        ratio = (low + high) / 2
        low, high = (low, ratio) if sum(ratio**i for i in range(old - 1)) > new - 1 else (ratio, high)
    steps = [sum(ratio**i for i in range(n)) for n in range(1, old)]
    axis = np.array([*(-x for x in reversed(steps)), 0.0, *steps])
    at = np.clip(np.arange(1 - new, new), axis[0], axis[-1])
    want = [
        RectBivariateSpline(axis, axis, table[:, head].reshape(2 * old - 1, -1), s=0)(at, at).ravel()
        for head in range(2)
    ]
    path, shape = "backbone/block1_0/attn/rel_pos_bias/table", ((2 * new - 1) ** 2, 2)
    got = swin.resize(path, table.astype(np.float32), shape)
    np.testing.assert_allclose(got, np.stack(want, axis=1), rtol=1e-3, atol=1e-4)
    assert swin.resize(path, table, table.shape) is table
    other = np.zeros((5, 5))
    assert swin.resize("backbone/block1_0/attn/qkv/kernel", other, (7, 5)) is other


def test_weights_of_other_windows(tmp_path, narrow):
    _, tensors = made_up()
    torch.save({"model": tensors}, tmp_path / "a.pth")
    network = weights.recognise(tmp_path / "a.pth").network(window=5, image_size=160)
    params = weights.load(tmp_path / "a.pth", network)["params"]["backbone"]
    name = "layers.1.blocks.0.attn.relative_position_bias_table"
    want = swin.resize("x/rel_pos_bias/table", tensors[name].numpy(), (81, 1))
    np.testing.assert_array_equal(params["block2_0"]["attn"]["rel_pos_bias"]["table"], want)
    assert params["block4_1"]["attn"]["rel_pos_bias"]["table"].shape == (81, 2)


PUBLISHED = [
    ("swin", "microsoft", "swin_tiny", {"window": 7, "image_size": 224}),
    ("swin", "microsoft", "swin_base", {"window": 12, "image_size": 384}),
    ("swin", "microsoft", "swin_base", {"window": 14, "image_size": 224}),
    ("swin", "timm", "swin_small", {"window": 7, "image_size": 224}),
    ("swinv2", "microsoft", "swinv2_tiny", {"window": swin.UNKNOWN}),
    ("swinv2", "timm", "swinv2_base", {"window": swin.UNKNOWN}),
    ("swinv2", "fd", "swinv2_base", {"window": 14, "image_size": 224}),
]


@functools.cache
def published_shapes(family, name, arch, **options):
    network = models.Joined(models.create(arch, num_classes=3, **options), {})
    leaves = naming_lib.leaves(loading.trace(network))
    naming = NAMINGS[family, name]
    names = naming_lib.torch_names(naming, leaves)
    assert None not in names.values() and len(set(names.values())) == len(names)
    zero = np.float32(0)
    return {
        names[leaf]: naming_lib.to_torch(naming, leaf, np.broadcast_to(zero, shape)).shape
        for leaf, shape in leaves.items()
    }


@pytest.mark.parametrize(("family", "name", "arch", "options"), PUBLISHED)
def test_a_file_identifies_its_naming_and_its_network(family, name, arch, options):
    shapes = published_shapes(family, name, arch, **{key: value for key, value in options.items() if value})
    zeros = {tensor: np.broadcast_to(np.float32(0), shape) for tensor, shape in shapes.items()}
    state = state_dict.of_torch("a.pth", zeros, None)
    assert (state.naming.family, state.naming.name) == (family, name)
    assert state.naming.describe(shapes) == (arch, options)


def test_published_names_and_shapes():
    shapes = published_shapes("swin", "microsoft", "swin_tiny")
    assert shapes["patch_embed.proj.weight"] == (96, 3, 4, 4)
    assert shapes["patch_embed.norm.bias"] == (96,)
    assert shapes["layers.2.blocks.5.attn.relative_position_bias_table"] == (169, 12)
    assert shapes["layers.2.blocks.5.mlp.fc1.weight"] == (1536, 384)
    assert shapes["layers.2.downsample.reduction.weight"] == (768, 1536)
    assert shapes["layers.2.downsample.norm.weight"] == (1536,)
    assert shapes["head.weight"] == (3, 768)
    shapes = published_shapes("swinv2", "timm", "swinv2_base")
    assert shapes["layers.3.blocks.1.attn.logit_scale"] == (32, 1, 1)
    assert shapes["layers.3.blocks.1.attn.cpb_mlp.0.weight"] == (512, 2)
    assert shapes["layers.3.blocks.1.attn.cpb_mlp.0.bias"] == (512,)
    assert shapes["layers.3.blocks.1.attn.cpb_mlp.2.weight"] == (32, 512)
    assert shapes["layers.3.blocks.1.attn.q_bias"] == (1024,)
    assert shapes["layers.3.downsample.norm.weight"] == (1024,)
    assert shapes["head.fc.weight"] == (3, 1024)


def test_a_size_without_an_architecture_is_named(tmp_path):
    _, tensors = made_up()
    torch.save({"model": tensors}, tmp_path / "a.pth")
    recognised = weights.recognise(tmp_path / "a.pth")
    assert recognised.arch == "swin of 2, 2, 2, 2 blocks and 8 channels"
    assert recognised.advice
    torch.save({"model": tensors | {"absolute_pos_embed": torch.zeros(1, 256, 8)}}, tmp_path / "b.pth")
    with pytest.raises(UserError, match="1 unexpected: absolute_pos_embed"):
        weights.load(tmp_path / "b.pth", models.Joined(small_network(), {}))


def small_network():
    from seed_jax.models.swin import SwinTransformer

    return models.LinenNetwork(
        SwinTransformer(**SMALL, window=3, image_size=64, num_classes=5, dtype=jnp.float32)
    )
