"""Exports load into the libraries that people have: the programs in docs/weights.md, as they stand there."""

import re
from pathlib import Path

import jax
import numpy as np
import pytest
from flax import traverse_util
from PIL import Image

import seed_jax
from seed_jax import models, weights
from seed_jax.weights import Recognised, array_files, heads, loading, parity, saving
from seed_jax.weights import naming as naming_lib
from seed_jax.weights.preparation import Preparation
from seed_jax.weights.recognition import SIZES

torch = pytest.importorskip("torch")

DOCS = (Path(__file__).parents[2] / "docs" / "weights.md").read_text()
NO_TORCHVISION = "torchvision is not installed, or is not of this PyTorch's release"


def library(name, reason):
    """Import a library that tests can do without."""
    return pytest.importorskip(name, reason=reason, exc_type=(ImportError, RuntimeError))


def program(heading):
    """The only Python program below a heading of docs/weights.md."""
    section = DOCS.split(f"\n### {heading}\n")[1].split("\n##")[0]
    (code,) = re.findall(r"```python\n(.*?)```", section, re.DOTALL)
    return code


def written(path, recognised, names):
    """Export drawn variables, no value at its default, and return them; they are drawn by PyTorch's names."""
    shapes = loading.shapes(recognised.network())
    flat = traverse_util.flatten_dict(shapes, sep="/")
    empty = {name: np.broadcast_to(np.float32(0), leaf.shape) for name, leaf in flat.items()}
    naming, _ = saving.offered(recognised, traverse_util.unflatten_dict(empty, sep="/"))[names]
    tensor_names = heads.names(naming, "fc", naming_lib.leaves(shapes))
    arrays = {}
    for name, zeros in empty.items():
        leaf = name.partition("/")[2]
        tensor = parity.draw(tensor_names[leaf], naming_lib.to_torch(naming, leaf, zeros).shape)
        if leaf.endswith("project_bn/scale"):
            tensor = tensor / 3  # otherwise float32's rounding grows from block to block, in PyTorch too
        arrays[name] = naming_lib.from_torch(naming, leaf, tensor, zeros.ndim).reshape(zeros.shape)
    variables = traverse_util.unflatten_dict(arrays, sep="/")
    weights.save(variables, recognised, path, names=names)
    return variables


def family(arch, options):
    return type(models.create(arch, **options).module).__module__.rpartition(".")[2]


def exported(folder, arch, names, head=None, size=64, preparation=None, alpha=False):
    """Write `student.safetensors` and `photo.jpg`, which is a PNG in spite of its name if it has alpha."""
    prepared = preparation or Preparation()
    recognised = Recognised(family(arch, {}), arch, {}, head, "", size=size, preparation=prepared)
    written(folder / "student.safetensors", recognised, names)
    x, y = np.meshgrid(np.arange(150), np.arange(101))
    photo = np.stack([np.sin(x / 9) + np.cos(y / 5), np.sin(x * y / 700), np.cos((x - y) / 13)], -1)
    exif = Image.Exif()
    exif[0x0112] = 6  # taken with the camera turned
    picture = Image.fromarray((80 + 60 * photo).clip(0, 255).astype(np.uint8))
    if alpha:
        picture.putalpha(Image.fromarray((x + y).astype(np.uint8)))
    picture.save(folder / "photo.jpg", format="PNG" if alpha else "JPEG", exif=exif)


def ours(folder):
    network = seed_jax.load(folder / "student.safetensors")
    return network(network.prepare(folder / "photo.jpg")[None])["pooled"]


def check(monkeypatch, folder, code):
    """Run a program in a folder, and compare its `features` with ours."""
    monkeypatch.chdir(folder)
    monkeypatch.syspath_prepend(folder)
    names = {}
    exec(compile(code, "docs/weights.md", "exec"), names)
    expected = np.asarray(ours(folder))
    assert expected.std() > 1e-3
    error = np.abs(np.asarray(names["features"]) - expected).max()
    assert error < 1e-4 * np.abs(expected).max()


PHOTOGRAPHS = [
    {"size": 64},
    {"size": 96},  # 96 * 256 / 224 = 109.7, which timm would round down
    {"preparation": Preparation(1.0, "bicubic")},
    {"preparation": Preparation(background=(200, 0, 90)), "alpha": True},
]
each_photograph = pytest.mark.parametrize("photograph", PHOTOGRAPHS, ids=["64px", "96px", "bicubic", "alpha"])


@each_photograph
def test_the_program_for_torchvision(tmp_path, monkeypatch, photograph):
    library("torchvision", NO_TORCHVISION)
    exported(tmp_path, "mobilenetv3_small_torchvision", "torchvision", **photograph)
    check(monkeypatch, tmp_path, program("Load it with torchvision"))


@each_photograph
def test_the_program_for_timm(tmp_path, monkeypatch, photograph):
    library("timm", "timm is not installed, or its torchvision is not of this PyTorch's release")
    exported(tmp_path, "resnet18", "timm", **photograph)
    check(monkeypatch, tmp_path, program("Load it with timm"))


D_LI14 = """
import torch
import torch_nets

def mobilenetv3_small():
    network = torch_nets.MobileNetV3Small(torch.nn.Identity())
    network.classifier.append(torch.nn.Linear(1024, 1000))
    return network
"""


@each_photograph
def test_the_program_for_plain_pytorch(tmp_path, monkeypatch, photograph):
    """With the tests' own network in the place of d-li14's, which has the same names."""
    head = weights.Head(hidden=16, dim=8, layers=2, batch_norm=False)
    exported(tmp_path, "mobilenetv3_small", "seed", head, **photograph)
    (tmp_path / "mobilenetv3.py").write_text(D_LI14)
    code = program("Load it with plain PyTorch")
    check(monkeypatch, tmp_path, code)


def test_the_program_for_python(tmp_path, monkeypatch):
    exported(tmp_path, "resnet18", "torchvision")
    check(monkeypatch, tmp_path, re.search(r"```python\n(import seed_jax\n.*?)```", DOCS, re.DOTALL)[1])


RESNETS = [(f"resnet{depth}", {}, f"resnet{depth}", f"resnet{depth}") for depth in (18, 34, 50, 101, 152)]
MOBILE = [
    row
    for size in ("small", "large")
    for row in (
        (f"mobilenetv3_{size}_torchvision", {}, f"mobilenet_v3_{size}", ""),
        (f"mobilenetv3_{size}_torchvision", {"bn_epsilon": 1e-5}, "", f"mobilenetv3_{size}_100"),
    )
]
EFFICIENT = [
    *((f"efficientnet_b{i}_torchvision", {}, f"efficientnet_b{i}", f"efficientnet_b{i}") for i in range(4)),
    *((f"efficientnet_b{i}", {}, "", f"tf_efficientnet_b{i}") for i in range(4)),
    *((f"efficientnet_lite{i}", {}, "", f"tf_efficientnet_lite{i}") for i in (0, 2)),
]
VITS = [
    *(
        (f"vit_{size}", {"image_size": 224}, "", f"vit_{size}_patch16_224")
        for size in ("small", "base", "large")
    ),
    ("vit_small", {"form": "dinov2", "image_size": 518, "patch": 14}, "", "vit_small_patch14_dinov2"),
    *(
        ("vit_base", {"form": form, "image_size": 224}, "", f"vit_base_patch16_{name}_224")
        for form, name in (("clip", "clip_quickgelu"), ("clip_gelu", "clip"))
    ),
]
BY_NAME = [
    pytest.param(arch, options, names + "_clip" * ("clip" in name), name, id=f"{names}-{name}")
    for arch, options, torchvision, timm in (*RESNETS, *MOBILE, *EFFICIENT, *VITS)
    for names, name in (("torchvision", torchvision), ("timm", timm))
    if name
]


LAST = {"resnet": "fc", "mobilenetv3": "classifier.3", "efficientnet": "classifier.1"}


@pytest.mark.parametrize(("arch", "options", "names", "name"), BY_NAME)
def test_exports_that_load_by_name(tmp_path, arch, options, names, name):
    """The table in docs/weights.md."""
    reader = library(
        names.removesuffix("_clip"), f"{names} is not installed, or is not of this PyTorch's release"
    )
    size = options.get("image_size", SIZES.get(arch, 64))
    recognised = Recognised(family(arch, options), arch, options, None, "", size=size)
    variables = written(tmp_path / "a.safetensors", recognised, names)
    if names == "torchvision":
        network = reader.models.get_model(name)
        network.set_submodule(LAST[recognised.family], torch.nn.Identity())
    else:
        network = reader.create_model(name, num_classes=0)
    tensors = array_files.read_safetensors(tmp_path / "a.safetensors")
    network.load_state_dict({name: torch.tensor(tensor) for name, tensor in tensors.items()})
    images = np.random.default_rng(0).random((2, size, size, 3), np.float32)
    expected, _ = jax.jit(lambda v, x: recognised.network().apply(v, x, False))(variables, images)
    mean, std = np.float32(recognised.mean), np.float32(recognised.std)
    with torch.inference_mode():
        features = network.eval()(torch.from_numpy(((images - mean) / std).transpose(0, 3, 1, 2).copy()))
    expected = np.asarray(expected["pooled"])
    assert expected.std() > 1e-3
    assert np.abs(features.numpy() - expected).max() < 1e-4 * np.abs(expected).max()


def test_the_table_has_every_name():
    table = DOCS.split("The exports in the table below load by tensor name.")[1].split("\n\n")[1]
    for arch, _, names, name in (case.values for case in BY_NAME):
        row = next(row for row in table.splitlines() if f"`{arch}`" in row and f"`{name}`" in row)
        column = row.split(" | ")[1 if names == "torchvision" else 2]
        assert f"`{name}`" in column or name.startswith("resnet")
