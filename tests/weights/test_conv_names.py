"""EfficientNet's and MobileNetV3's namings, against the state dicts of the golden files."""

import jax
import numpy as np
import pytest

from seed_jax import models
from seed_jax.models.efficientnet import LITE_MEAN, LITE_STD
from seed_jax.weights import efficientnet, mobilenetv3, mobilenetv3_torchvision, parity
from seed_jax.weights import naming as naming_lib

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
    return naming_lib.leaves(jax.eval_shape(network.init, jax.random.key(0), sample))


@pytest.mark.parametrize("golden", FILES)
def test_names_equal_the_references_and_identify_the_network(golden):
    arch, options = FILES[golden]
    family, code_base = golden.partition("_")[0], golden.partition("-")[2]
    naming = next(naming for naming in NAMINGS if (naming.family, naming.name) == (family, code_base))
    leaves = leaves_of(arch)
    names = naming_lib.torch_names(naming, leaves)
    shapes = {
        names[path]: naming_lib.to_torch(naming, path, np.broadcast_to(np.float32(0), shape)).shape
        for path, shape in leaves.items()
    }
    assert parity.fingerprint(shapes) == np.load(parity.GOLDEN / f"{golden}.npz")["names"]
    fitting = [naming for naming in NAMINGS if all(name in shapes for name in naming.signature)]
    assert fitting[0] is naming
    assert naming.describe(shapes) == (arch, options)


@pytest.mark.parametrize(
    "naming", (*mobilenetv3.NAMINGS, *NAMINGS), ids=lambda naming: f"{naming.family}-{naming.name}"
)
def test_unknown_leaves_and_shapes(naming):
    modules = ("head/linear1", "backbone/other", "backbone/layer1_0/conv1", "backbone/block1/other")
    for path in (*(f"{module}/kernel" for module in modules), "backbone/stem_conv/other"):
        assert naming.to_torch(path, ()) is None
    arch, _ = naming.describe(dict.fromkeys(naming.signature, (1, 1, 1, 1)))
    assert arch not in models.MODELS
