"""Files of feature distillation's vision transformers: made-up ones of the network in torch."""

import functools
import math

import jax
import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

from seed_jax import models, weights
from seed_jax.errors import UserError
from seed_jax.models.fd_vit import FDVisionTransformer, resize_absolute, resize_table
from seed_jax.weights import array_files, fd_vit, loading, pretrained, saving, state_dict
from seed_jax.weights import naming as naming_lib

DIM, DEPTH, HEADS, PATCH, SIDE = 12, 4, 3, 4, 4
(NAMING,) = fd_vit.NAMINGS


class Attention(nn.Module):
    def __init__(self, table):
        super().__init__()
        self.qkv, self.proj = nn.Linear(DIM, 3 * DIM, bias=False), nn.Linear(DIM, DIM)
        self.q_bias, self.v_bias = (nn.Parameter(torch.zeros(DIM)) for _ in range(2))
        if table:
            add_table(self)

    def forward(self, x, bias):
        q, k, v = self.qkv(x).chunk(3, dim=-1)
        q, k, v = (
            t.unflatten(-1, (HEADS, -1)).transpose(1, 2) for t in (q + self.q_bias, k, v + self.v_bias)
        )
        logits = q @ k.mT / math.sqrt(DIM // HEADS)
        for table in (bias, getattr(self, "relative_position_bias_table", None)):
            logits = logits if table is None else logits + of_pairs(table)
        return self.proj((logits.softmax(dim=-1) @ v).transpose(1, 2).flatten(2))


class Block(nn.Module):
    def __init__(self, table):
        super().__init__()
        self.norm1, self.norm2 = (nn.LayerNorm(DIM, eps=1e-6) for _ in range(2))
        self.attn = Attention(table)
        self.mlp = nn.ModuleDict({"fc1": nn.Linear(DIM, 4 * DIM), "fc2": nn.Linear(4 * DIM, DIM)})
        self.gamma_1, self.gamma_2 = (nn.Parameter(torch.zeros(DIM)) for _ in range(2))

    def forward(self, x, bias):
        x = x + self.gamma_1 * self.attn(self.norm1(x), bias)
        return x + self.gamma_2 * self.mlp["fc2"](F.gelu(self.mlp["fc1"](self.norm2(x))))


class Released(nn.Module):
    """float64; images `[B, 3, 16, 16]` -> the features `tokens`, `pooled` and `logits`."""

    def __init__(self, positions="shared", pool="tokens", num_classes=0):
        super().__init__()
        self.patch_embed = nn.ModuleDict({"proj": nn.Conv2d(3, DIM, PATCH, PATCH)})
        self.cls_token = nn.Parameter(torch.zeros(1, 1, DIM))
        if positions == "absolute":
            self.pos_embed = nn.Parameter(torch.zeros(1, 1 + SIDE**2, DIM))
        if positions == "shared":
            self.rel_pos_bias = nn.Module()
            add_table(self.rel_pos_bias)
        self.blocks = nn.ModuleList(Block(positions == "layer") for _ in range(DEPTH))
        self.pool = pool
        self.add_module("fc_norm" if pool == "mean" else "norm", nn.LayerNorm(DIM, eps=1e-6))
        if num_classes:
            self.head = nn.Linear(DIM, num_classes)
        self.double()

    def forward(self, x):
        x = self.patch_embed["proj"](x).flatten(2).mT
        x = torch.cat([self.cls_token.expand(len(x), -1, -1), x], dim=1)
        x = x + getattr(self, "pos_embed", 0)
        shared = getattr(self, "rel_pos_bias", None)
        for block in self.blocks:
            x = block(x, shared and shared.relative_position_bias_table)
        if self.pool == "mean":
            pooled = self.fc_norm(x[:, 1:].mean(dim=1))
        else:
            x = self.norm(x)
            pooled = x[:, 1:].mean(dim=1)
        logits = {"logits": self.head(pooled)} if hasattr(self, "head") else {}
        return {"tokens": x, "pooled": pooled, **logits}


def add_table(module):
    rows = (2 * SIDE - 1) ** 2 + 3
    module.relative_position_bias_table = nn.Parameter(torch.zeros(rows, HEADS))
    module.register_buffer("relative_position_index", torch.zeros(17, 17, dtype=torch.int64))


def of_pairs(table):
    """`[heads, 17, 17]` of a table, pair by pair."""
    found = torch.zeros(HEADS, 1 + SIDE**2, 1 + SIDE**2, dtype=table.dtype)
    found[:, 0, :], found[:, :, 0] = table[-3][:, None], table[-2][:, None]
    found[:, 0, 0] = table[-1]
    for q in range(SIDE**2):
        for k in range(SIDE**2):
            rows, columns = q // SIDE - k // SIDE + SIDE - 1, q % SIDE - k % SIDE + SIDE - 1
            found[:, 1 + q, 1 + k] = table[rows * (2 * SIDE - 1) + columns]
    return found


def made_up(*arguments, **options):
    """The network in torch and its state dict, float32, constants included."""
    net = Released(*arguments, **options)
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in net.parameters():
            parameter.copy_(0.3 * torch.randn(parameter.shape, generator=generator, dtype=torch.float64))
    return net, {name: t.float() if t.is_floating_point() else t for name, t in net.state_dict().items()}


@pytest.fixture
def narrow(monkeypatch):
    monkeypatch.setitem(
        models.MODELS, "fd_vit_narrow", functools.partial(FDVisionTransformer, DIM, DEPTH, heads=HEADS)
    )
    monkeypatch.setitem(fd_vit.ARCHITECTURES, (DIM, DEPTH), "fd_vit_narrow")


def compare(path, net):
    """Load a file and compare the features with those of the network in torch."""
    recognised = weights.recognise(path)
    network = recognised.network(mean=(0, 0, 0), std=(1, 1, 1))
    variables = weights.load(path, network)
    images = np.random.default_rng(0).standard_normal((2, 16, 16, 3)).astype(np.float32)
    features = jax.jit(lambda v: network.apply(v, images, False)[0])(variables)
    with torch.no_grad():
        want = net(torch.from_numpy(images).double().movedim(3, 1))
    for name, values in want.items():
        np.testing.assert_allclose(features[name], values, rtol=1e-3, atol=1e-5, err_msg=name)
    return recognised, variables


def test_a_training_file_holds_the_student_its_projector_and_the_teacher(tmp_path, narrow):
    net, tensors = made_up()
    files = {f"encoder.{name}": t for name, t in tensors.items()}
    files |= {"decoder.0.weight": torch.zeros(8, DIM, 1), "decoder.0.bias": torch.zeros(8)}
    teacher = ("class_embedding", "ln_pre.weight", "transformer.resblocks.0.attn.in_proj_weight", "proj")
    files |= {f"feature_model.visual.{name}": torch.zeros(8, 8).half() for name in teacher}
    files |= {"feature_model.logit_scale": torch.zeros(()), "feature_model.cls_token": torch.zeros(1, 1, 8)}
    torch.save({"model": files, "scaler": {"scale": 65536.0}}, tmp_path / "a.pth")
    recognised, _ = compare(tmp_path / "a.pth", net)
    assert (recognised.family, recognised.naming, recognised.arch) == ("fd_vit", "fd", "fd_vit_narrow")
    assert recognised.options == {"patch": 4, "positions": "shared", "image_size": 16, "heads": 3}
    assert recognised.head is None and recognised.preparation.interpolation == "bicubic"


@pytest.mark.parametrize(
    ("positions", "pool", "num_classes"),
    [("shared", "tokens", 0), ("layer", "mean", 5), ("absolute", "mean", 0), ("none", "tokens", 5)],
)
def test_each_form_there_and_back(tmp_path, narrow, positions, pool, num_classes):
    """A file of the network in torch, ours, and the same names and bits again."""
    net, tensors = made_up(positions, pool, num_classes)
    torch.save({"model": tensors}, tmp_path / "a.pth")
    if positions in ("absolute", "none"):  # neither shows the number of heads
        net_of_one_head = functools.partial(FDVisionTransformer, DIM, DEPTH, HEADS)
        models.MODELS["fd_vit_narrow"] = net_of_one_head
    recognised, variables = compare(tmp_path / "a.pth", net)
    assert recognised.options["positions"] == positions
    assert recognised.options.get("pool", "tokens") == pool
    assert recognised.options.get("num_classes", 0) == num_classes
    assert set(saving.offered(recognised, variables)) == {"fd"}
    assert weights.save(variables, recognised, tmp_path / "b.safetensors", names="fd") == []
    written = array_files.read_safetensors(tmp_path / "b.safetensors")
    assert written.keys() == {name for name in tensors if not name.endswith("index")}
    for name, tensor in written.items():
        np.testing.assert_array_equal(tensor, tensors[name].numpy(), strict=True)


def test_an_array_file_under_our_own_names_is_recognised(tmp_path, narrow):
    _, tensors = made_up("layer", "mean", 5)
    torch.save({"model": tensors}, tmp_path / "a.pth")
    recognised = weights.recognise(tmp_path / "a.pth")
    variables = weights.load(tmp_path / "a.pth", recognised.network())
    flat = {f"params/{path}": leaf for path, leaf in saving._arrays(variables).items()}
    np.savez(tmp_path / "b.npz", **flat)
    assert weights.recognise(tmp_path / "b.npz").options == recognised.options


@pytest.mark.parametrize("positions", ["shared", "layer"])
def test_tables_are_resized_to_images_of_another_size(tmp_path, narrow, positions):
    _, tensors = made_up(positions)
    torch.save({"model": tensors}, tmp_path / "a.pth")
    network = weights.recognise(tmp_path / "a.pth").network(image_size=24)
    params = weights.load(tmp_path / "a.pth", network)["params"]["backbone"]
    name = "rel_pos_bias" if positions == "shared" else "blocks.3.attn"
    want = resize_table(tensors[f"{name}.relative_position_bias_table"].numpy(), (4, 4), (6, 6))
    tree = params if positions == "shared" else params["block3"]["attn"]
    np.testing.assert_array_equal(tree["rel_pos_bias"]["table"], want)


def test_absolute_positions_are_resized_to_images_of_another_size(tmp_path, narrow):
    _, tensors = made_up("absolute")
    torch.save({"model": tensors}, tmp_path / "a.pth")
    network = weights.recognise(tmp_path / "a.pth").network(image_size=24, heads=HEADS)
    params = weights.load(tmp_path / "a.pth", network)["params"]["backbone"]
    np.testing.assert_array_equal(params["pos_embed"], resize_absolute(tensors["pos_embed"].numpy(), (6, 6)))


def test_what_is_no_table_stays_as_it_is():
    for path, shape in (("fc/kernel", (4, 2)), ("rel_pos_bias/table", (51, 2)), ("pos_embed", (1, 16, 2))):
        array = np.zeros(shape)
        assert fd_vit.resize(f"backbone/{path}", array, (1, 50, 2)[-len(shape) :]) is array


def test_a_trained_bias_of_the_key_is_refused(tmp_path, narrow):
    _, tensors = made_up()
    torch.save({"model": tensors | {"blocks.0.attn.k_bias": torch.zeros(DIM)}}, tmp_path / "a.pth")
    network = weights.recognise(tmp_path / "a.pth").network()
    with pytest.raises(UserError, match=r"1 unexpected: blocks\.0\.attn\.k_bias"):
        weights.load(tmp_path / "a.pth", network)


@pytest.mark.parametrize(
    ("arch", "options"),
    [
        ("fd_vit_small", {"patch": 16, "positions": "shared", "image_size": 224}),
        ("fd_vit_base", {"patch": 16, "positions": "layer", "image_size": 384, "pool": "mean"}),
        ("fd_vit_large", {"patch": 14, "positions": "shared", "image_size": 224}),
    ],
)
def test_a_file_identifies_its_naming_and_its_network(arch, options):
    network = models.Joined(models.create(arch, **options), {})
    leaves = naming_lib.leaves(loading.trace(network))
    names = naming_lib.torch_names(NAMING, leaves)
    assert None not in names.values() and len(set(names.values())) == len(names)
    zero = np.float32(0)
    tensors = {
        names[leaf]: np.broadcast_to(
            zero, naming_lib.to_torch(NAMING, leaf, np.broadcast_to(zero, shape)).shape
        )
        for leaf, shape in leaves.items()
    }
    state = state_dict.of_torch("a.pth", tensors, None)
    assert state.naming is NAMING
    assert NAMING.describe({name: t.shape for name, t in tensors.items()}) == (arch, options)
    if arch == "fd_vit_large":
        assert tensors["rel_pos_bias.relative_position_bias_table"].shape == (964, 16)
        assert tensors["blocks.23.gamma_2"].shape == tensors["blocks.23.attn.v_bias"].shape == (1024,)
        assert tensors["patch_embed.proj.weight"].shape == (1024, 3, 14, 14)


@pytest.mark.parametrize(
    ("extra", "mean", "assumed"),
    [
        ({"mask_token": torch.zeros(1, 1, DIM), "lm_head.weight": torch.zeros(9, DIM)}, 0.485, True),  # BEiT
        ({"decoder.weight": torch.zeros(8, DIM, 1)}, 0.485, False),  # Feature-Distillation
        ({}, 0.485, True),
    ],
)
def test_mean_and_std_of_beit_and_of_feature_distillation(tmp_path, narrow, caplog, extra, mean, assumed):
    caplog.set_level("WARNING", logger="absl")
    _, tensors = made_up()
    torch.save({"model": tensors | extra}, tmp_path / "a.pth")
    loaded = pretrained.load(tmp_path / "a.pth")
    assert (loaded.network.backbone.mean[0], loaded.assumed) == (mean, assumed)
    assert ("for BEiT set the options mean and std" in caplog.text) is assumed
    caplog.clear()
    pretrained.load(tmp_path / "a.pth", options={"mean": (0.5,) * 3, "std": (0.5,) * 3})
    assert not caplog.text
