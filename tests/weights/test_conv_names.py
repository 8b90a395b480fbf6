"""EfficientNet's and MobileNetV3's tables of names, against the state dicts that the golden files are of."""

import jax
import numpy as np
import pytest

from seed_jax import models
from seed_jax.models.efficientnet import LITE_MEAN, LITE_STD
from seed_jax.weights import efficientnet, mobilenetv3_torchvision, naming, parity

NAMINGS = (*mobilenetv3_torchvision.NAMINGS, *efficientnet.NAMINGS)
LITE = {"mean": LITE_MEAN, "std": LITE_STD}
FILES = {
    "efficientnet_b0-lukemelas": ("efficientnet_b0", {}),
    "efficientnet_b0-seed": ("efficientnet_b0", {}),
    "efficientnet_b0-timm": ("efficientnet_b0", {}),
    "efficientnet_b1-torchvision": ("efficientnet_b1_torchvision", {}),
    "efficientnet_b2-torchvision": ("efficientnet_b2_torchvision", {}),
    "efficientnet_b3-lukemelas": ("efficientnet_b3", {}),
    "efficientnet_lite0-timm": ("efficientnet_lite0", LITE),
    "efficientnet_lite2-lukemelas": ("efficientnet_lite2", LITE),
    "mobilenetv3_large-timm": ("mobilenetv3_large_torchvision", {"bn_epsilon": 1e-5}),
    "mobilenetv3_large-torchvision": ("mobilenetv3_large_torchvision", {}),
    "mobilenetv3_small-timm": ("mobilenetv3_small_torchvision", {"bn_epsilon": 1e-5}),
    "mobilenetv3_small-torchvision": ("mobilenetv3_small_torchvision", {}),
}


def leaves_of(arch):
    network = models.Joined(models.create(arch, num_classes=1000), {})
    sample = jax.ShapeDtypeStruct((1, 224, 224, 3), np.float32)
    return naming.leaves(jax.eval_shape(network.init, jax.random.key(0), sample))


@pytest.mark.parametrize("golden", FILES)
def test_names_are_those_of_the_reference_and_tell_the_network(golden):
    arch, options = FILES[golden]
    family, code_base = golden.partition("_")[0], golden.partition("-")[2]
    table = next(table for table in NAMINGS if (table.family, table.name) == (family, code_base))
    leaves = leaves_of(arch)
    names = naming.torch_names(table, leaves)
    shapes = {
        names[path]: naming.to_torch(table, path, np.broadcast_to(np.float32(0), shape)).shape
        for path, shape in leaves.items()
    }
    assert parity.fingerprint(shapes) == np.load(parity.GOLDEN / f"{golden}.npz")["names"]
    fitting = [table for table in NAMINGS if all(name in shapes for name in table.signature)]
    assert fitting[0] is table
    assert table.describe(shapes) == (arch, options)


@pytest.mark.parametrize("table", NAMINGS, ids=lambda table: f"{table.family}-{table.name}")
def test_what_is_not_known(table):
    for path in ("head/linear1/kernel", "backbone/other/kernel", "backbone/layer1_0/conv1/kernel"):
        assert table.to_torch(path, ()) is None
    arch, _ = table.describe(dict.fromkeys(table.signature, (1, 1, 1, 1)))
    assert arch not in models.MODELS
