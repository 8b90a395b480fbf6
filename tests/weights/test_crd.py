"""Checkpoints of the CRD zoo: names, recognition, reading and writing."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from seed_jax import models, weights
from seed_jax.models.network import IMAGENET_MEAN, IMAGENET_STD
from seed_jax.weights import array_files, crd, parity, saving
from seed_jax.weights import naming as naming_lib
from seed_jax.weights.cases import CASES
from seed_jax.weights.families import NAMINGS

torch = pytest.importorskip("torch")
ZOO = {case.name.removesuffix("-crd"): case for case in CASES if case.name.endswith("-crd")}
SMALL = ["cifar_resnet8", "wrn_16_1", "vgg8", "mobilenetv2_half", "shufflenetv1", "shufflenetv2", "resnet18"]


def template(case, classes=100):
    network = models.Joined(models.create(case.arch, **case.options | {"num_classes": classes}), {})
    return jax.eval_shape(network.init, jax.random.key(0), jnp.zeros((1, 32, 32, 3)))


def torch_shapes(case, classes=100):
    """The shapes of the reference's tensors, by name."""
    leaves = naming_lib.leaves(template(case, classes))
    return {
        name: naming_lib.to_torch(case.naming, leaf, np.broadcast_to(np.float32(0), leaves[leaf])).shape
        for leaf, name in naming_lib.torch_names(case.naming, leaves).items()
    }


def checkpoint(path, case, classes=100):
    """What train_teacher.py saves, in the format of its time. Returns the network's tensors."""
    tensors = {name: parity.draw(name, shape) for name, shape in torch_shapes(case, classes).items()}
    state = {name: torch.from_numpy(tensor) for name, tensor in tensors.items()}
    state |= {
        name.replace("running_mean", "num_batches_tracked"): torch.tensor(7)
        for name in state
        if "mean" in name
    }
    momentum = {0: {"momentum_buffer": torch.ones(3)}}
    saved = {"epoch": 240, "model": state, "best_acc": torch.tensor(69.1), "optimizer": {"state": momentum}}
    torch.save(saved, path, _use_new_zipfile_serialization=False)
    return tensors


@pytest.mark.parametrize("name", ZOO)
def test_names_equal_the_references_and_identify_the_network(name):
    case = ZOO[name]
    shapes = torch_shapes(case)
    assert parity.fingerprint(shapes) == np.load(parity.GOLDEN / f"{case.name}.npz")["names"]
    fitting = [naming for naming in NAMINGS if all(name in shapes for name in naming.signature)]
    assert fitting[0] is case.naming
    options = {key: value for key, value in case.options.items() if key != "num_classes"}
    assert case.naming.describe(shapes) == (name, options | {"mean": crd.MEAN, "std": crd.STD})


@pytest.mark.parametrize("name", SMALL)
def test_a_released_file_there_and_back(tmp_path, name):
    """PyTorch's -> ours -> PyTorch's keeps every bit; so does our own file."""
    case = ZOO[name]
    tensors = checkpoint(tmp_path / "ckpt_epoch_240.pth", case)
    recognised = weights.recognise(tmp_path / "ckpt_epoch_240.pth")
    assert (recognised.arch, recognised.naming, recognised.options) == (name, "crd", case.options)
    assert (recognised.mean, recognised.std, recognised.size) == (crd.MEAN, crd.STD, 32)
    assert (recognised.preparation.resize, recognised.assumed) == (1.0, False)
    variables = weights.load(tmp_path / "ckpt_epoch_240.pth", recognised.network())
    assert "crd" in saving.offered(recognised, variables)
    assert weights.save(variables, recognised, tmp_path / "ours.safetensors", names="crd") == []
    written = array_files.read_safetensors(tmp_path / "ours.safetensors")
    assert written.keys() == tensors.keys()
    for key, tensor in tensors.items():
        np.testing.assert_array_equal(written[key], tensor, strict=True)
    again = weights.recognise(tmp_path / "ours.safetensors")
    assert (again.arch, again.options, again.mean, again.size) == (name, case.options, crd.MEAN, 32)


@pytest.mark.parametrize("name", SMALL)
def test_our_own_names_identify_the_network(tmp_path, name):
    flat = naming_lib.leaves({"all": template(ZOO[name])})
    np.savez(tmp_path / "a.npz", **{path: np.zeros(shape, np.float32) for path, shape in flat.items()})
    recognised = weights.recognise(tmp_path / "a.npz")
    assert (recognised.arch, recognised.options) == (name, ZOO[name].options)


def test_other_data_have_imagenets_mean_which_is_assumed(tmp_path):
    checkpoint(tmp_path / "a.pth", ZOO["cifar_resnet8"], classes=10)
    recognised = weights.recognise(tmp_path / "a.pth")
    assert (recognised.options, recognised.assumed) == ({"num_classes": 10}, True)
    assert (recognised.mean, recognised.std) == (IMAGENET_MEAN, IMAGENET_STD)


def test_a_network_that_the_zoo_lacks_is_described():
    resnet = {f"layer{stage}.{i}.conv1.weight": (16, 16, 3, 3) for stage in (1, 2, 3) for i in range(4)}
    describe = {naming.family: naming.describe for naming in crd.NAMINGS}
    assert describe["cifar_resnet"](resnet) == ("cifar_resnet26", {})
    assert describe["wrn"]({"block1.layer.0.conv1.weight": (160, 16, 3, 3)}) == ("wrn_10_10", {})
    assert describe["vgg"]({f"block{i}.1.running_mean": (64,) for i in range(8)}) == ("vgg11", {})
    assert describe["mobilenetv2"]({"conv1.0.weight": (24, 3, 3, 3)}) == ("mobilenetv2", {"width": 0.75})
    large = {"conv1.weight": (64, 3, 7, 7)} | {
        f"layer{stage}.{i}.conv1.weight": (64, 64, 3, 3) for stage in (1, 2, 3, 4) for i in range(2)
    }
    assert describe["resnet"](large) == ("resnet18 with a large stem", {})
