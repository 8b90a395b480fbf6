import dataclasses
import importlib
import json

import jax
import numpy as np
import pytest
from flax import traverse_util

import seed_jax
from seed_jax import models, weights
from seed_jax.errors import UserError
from seed_jax.models.heads import Classifier
from seed_jax.weights import Recognised, array_files, loading, parity, saving
from seed_jax.weights import naming as naming_lib
from seed_jax.weights.preparation import Preparation

HEAD = weights.Head(hidden=16, dim=8, layers=2, batch_norm=True)
NARROW = {"width": 0.125}
# For each naming, a network that can be written in its names.
NETWORKS = [
    Recognised("resnet", "resnet18", NARROW, HEAD, ""),
    Recognised("resnet", "resnet50", NARROW | {"num_classes": 3, "small_stem": True}, None, ""),
    Recognised("mobilenetv3", "mobilenetv3_small", {}, HEAD, ""),
    Recognised("mobilenetv3", "mobilenetv3_small_torchvision", {"num_classes": 3}, None, ""),
    Recognised("efficientnet", "efficientnet_b0", {"num_classes": 3}, HEAD, "", size=96),
    Recognised("efficientnet", "efficientnet_lite0", {"num_classes": 3}, None, ""),
    Recognised("efficientnet", "efficientnet_b0_torchvision", {"num_classes": 3}, None, ""),
    Recognised("mobilenetv3", "mobilenetv3_small", {"width": 0.75}, HEAD, ""),
    Recognised("mobilenetv3", "mobilenetv3_small_torchvision", {"width": 0.5, "bn_epsilon": 1e-5}, None, ""),
    Recognised("vit", "vit_small", {"num_classes": 3, "image_size": 32}, None, ""),
    Recognised("vit", "vit_small", {"form": "dino", "image_size": 32}, None, ""),
    Recognised("vit", "vit_small", {"form": "clip_gelu", "image_size": 32}, None, ""),
]


def computes(arch, options):
    """The network's module; DINO's form counts as DeiT's, which differs only at other sizes."""
    options = options | ({"form": "deit"} if options.get("form") == "dino" else {})
    module = models.create(arch, **options).module
    return module.clone(**{k: 0 for k in ("dropout", "drop_path", "bn_momentum") if hasattr(module, k)})


def drawn(network):
    """Drawn variables of the network, no value at its default."""
    flat = traverse_util.flatten_dict(loading.shapes(network), sep="/")
    arrays = {name: parity.draw(name, leaf.shape) for name, leaf in flat.items()}
    return traverse_util.unflatten_dict(arrays, sep="/")


@pytest.mark.parametrize("recognised", NETWORKS, ids=lambda recognised: recognised.arch)
def test_every_name_there_and_back(tmp_path, recognised):
    """Ours -> PyTorch's -> ours keeps every bit, and the file identifies its network."""
    variables = drawn(recognised.network())
    offered = saving.offered(recognised, variables)
    assert offered
    for names in offered:
        path = tmp_path / f"{names}.safetensors"
        left_out = weights.save(variables, recognised, path, names=names)
        again = weights.recognise(path)
        assert (again.family, again.arch, again.size) == (recognised.family, recognised.arch, recognised.size)
        whole = names in saving.TRAINING
        bare = tmp_path / "bare.safetensors"
        array_files.write_safetensors(bare, array_files.read_safetensors(path), {})
        form = recognised.options.get("form", "")
        read_bare = weights.recognise(bare, arch=recognised.arch, form=form if "clip" in form else "")
        options = {k: v for k, v in recognised.options.items() if k != "num_classes" or not whole}
        assert computes(read_bare.arch, read_bare.options) == computes(recognised.arch, options)
        assert again.head == (recognised.head if whole else None)
        assert all(leaf.startswith("backbone/fc" if whole else "head/") for leaf in left_out)
        read = traverse_util.flatten_dict(weights.load(path, again.network()), sep="/")
        expected = traverse_util.flatten_dict(variables, sep="/")
        assert {name.partition("/")[2] for name in expected} - {
            name.partition("/")[2] for name in read
        } == set(left_out)
        for name, array in read.items():
            np.testing.assert_array_equal(array, expected[name], strict=True)


PUBLISHED = [
    ("resnet", "torchvision", "resnet18", NARROW | {"num_classes": 3}),
    ("mobilenetv3", "d-li14", "mobilenetv3_small", {"num_classes": 3}),
    ("mobilenetv3_torchvision", "torchvision", "mobilenetv3_small_torchvision", {"num_classes": 3}),
    ("efficientnet", "lukemelas", "efficientnet_b0", {"num_classes": 3}),
    ("vit", "timm", "vit_small", {"num_classes": 3, "image_size": 32}),
    ("vit", "openai_clip", "vit_small", {"form": "clip", "image_size": 32}),
]


@pytest.mark.parametrize(("file", "names", "arch", "options"), PUBLISHED, ids=lambda value: str(value))
def test_pytorchs_tensors_there_and_back(tmp_path, file, names, arch, options):
    """PyTorch's -> ours -> PyTorch's keeps every bit of tensors drawn under PyTorch's names and shapes."""
    module = importlib.import_module(f"seed_jax.weights.{file}")
    naming = next(naming for naming in module.NAMINGS if naming.name == names)
    network = models.Joined(models.create(arch, **options), {})
    drawn = {}
    leaves = naming_lib.leaves(loading.shapes(network))
    for leaf, name in naming_lib.torch_names(naming, leaves).items():
        shape = naming_lib.to_torch(naming, leaf, np.broadcast_to(np.float32(0), leaves[leaf])).shape
        drawn[name] = parity.draw(name, shape)
    array_files.write_safetensors(tmp_path / "theirs.safetensors", drawn, {})
    recognised = weights.recognise(tmp_path / "theirs.safetensors")
    assert (recognised.arch, recognised.naming) == (arch, names)
    variables = weights.load(tmp_path / "theirs.safetensors", recognised.network())
    assert weights.save(variables, recognised, tmp_path / "ours.safetensors", names=names) == []
    written = array_files.read_safetensors(tmp_path / "ours.safetensors")
    assert written.keys() == drawn.keys()
    for name, tensor in drawn.items():
        np.testing.assert_array_equal(written[name], tensor, strict=True)


def test_seeds_mobilenet_is_not_torchvisions(tmp_path):
    """Both have the same number of parameters and compute different things."""
    recognised = NETWORKS[2]
    with pytest.raises(
        UserError,
        match=r"^mobilenetv3_small cannot be written under names 'torchvision': choose from seed \(",
    ):
        weights.save(drawn(recognised.network()), recognised, tmp_path / "a.safetensors")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("arch", "options", "offered"),
    [
        ("vit_small", {}, ["timm"]),
        ("vit_small", {"form": "dino"}, ["timm"]),
        ("vit_small", {"heads": 12}, []),
        ("vit_small", {"form": "clip"}, ["openai_clip", "timm_clip"]),
        ("vit_small", {"form": "clip_gelu"}, ["timm_clip"]),
        ("mobilenetv3_small", {}, ["seed"]),
        ("mobilenetv3_small_torchvision", {"width": 0.35}, ["torchvision"]),
        ("efficientnet_b0_torchvision", {}, ["torchvision", "timm"]),
        ("efficientnet_b0", {}, ["timm", "seed"]),
        ("resnet18", {}, ["torchvision", "timm", "moco", "seed"]),
    ],
)
def test_only_names_that_identify_the_network_are_offered(arch, options, offered):
    family = "resnet" if arch.startswith("resnet") else arch.partition("_")[0]
    recognised = Recognised(family, arch, options, None, "")
    assert list(saving.offered(recognised, drawn(recognised.network()))) == offered


def test_timms_names_need_timms_epsilon(tmp_path):
    """timm's MobileNetV3 has another batch norm epsilon than torchvision's."""
    recognised = dataclasses.replace(NETWORKS[3], options={"num_classes": 3})
    assert list(saving.offered(recognised, drawn(recognised.network()))) == ["torchvision"]
    recognised = dataclasses.replace(NETWORKS[3], options={"num_classes": 3, "bn_epsilon": 1e-5})
    assert "timm" in saving.offered(recognised, drawn(recognised.network()))


def test_metadata(tmp_path):
    path, prepared = tmp_path / "a" / "b.safetensors", Preparation(1.0, "bicubic")
    recognised = dataclasses.replace(NETWORKS[0], mean=(0, 0, 0), size=96, preparation=prepared)
    made_from = {"taught_by": {"source": "t.pth", "sha256": "ab", "licence": "MIT", "teacher": "T"}}
    weights.save(drawn(recognised.network()), recognised, path, provenance=made_from)
    metadata = array_files.safetensors_metadata(path)
    assert metadata["seed_jax"] == seed_jax.__version__
    assert metadata["arch"] == "resnet18"
    assert json.loads(metadata["options"]) == NARROW
    assert json.loads(metadata["taught_by"]) == made_from["taught_by"]
    assert weights.recognise(path).mean == (0, 0, 0)
    assert weights.recognise(path).size == 96
    assert weights.recognise(path).preparation == prepared
    assert [file.name for file in path.parent.iterdir()] == ["b.safetensors"]


def test_pytorch_reads_it_strictly(tmp_path):
    torch = pytest.importorskip("torch")
    import torch_nets
    from safetensors.torch import load_file

    recognised = dataclasses.replace(NETWORKS[0], options=NARROW | {"num_classes": 3}, head=None)
    variables = drawn(recognised.network())
    weights.save(variables, recognised, tmp_path / "a.safetensors")
    net = torch_nets.ResNet(18, 8, fc=torch.nn.Linear(64, 3))
    net.load_state_dict(load_file(tmp_path / "a.safetensors"))
    kernel = variables["params"]["backbone"]["fc"]["kernel"]
    np.testing.assert_array_equal(net.fc.weight.detach().numpy(), kernel.T)


def test_a_classifier_joined_to_the_backbone_is_written_as_the_networks_own(tmp_path):
    recognised = Recognised("resnet", "resnet18", NARROW, None, "")
    network = models.Joined(recognised.network().backbone, {"classifier": Classifier(3)})
    variables = drawn(network)
    assert weights.save(variables, recognised, tmp_path / "a.safetensors") == []
    again = weights.recognise(tmp_path / "a.safetensors")
    assert again.options == NARROW | {"num_classes": 3}
    jax.tree.map(np.testing.assert_array_equal, weights.load(tmp_path / "a.safetensors", network), variables)
    read = weights.load(tmp_path / "a.safetensors", again.network())
    kernel = variables["params"]["classifier"]["fc"]["kernel"]
    np.testing.assert_array_equal(read["params"]["backbone"]["fc"]["kernel"], kernel)


def test_a_path_that_cannot_be_written(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="cannot be written"):
        weights.save(drawn(NETWORKS[0].network()), NETWORKS[0], tmp_path / "file" / "a.safetensors")


@pytest.mark.parametrize("value", ['"x"', "{}", "[1]", "1"])
def test_damaged_metadata(tmp_path, value):
    path = tmp_path / "a.safetensors"
    weights.save(drawn(NETWORKS[0].network()), NETWORKS[0], path)
    tensors = array_files.read_safetensors(path)
    metadata = array_files.safetensors_metadata(path) | {"mean": value}
    array_files.write_safetensors(path, tensors, metadata)
    with pytest.raises(UserError, match="damaged metadata"):
        weights.recognise(path)
