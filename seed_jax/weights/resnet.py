"""Tensor names of ResNet in torchvision/models/resnet.py, which MoCo, SwAV, SimCLR, SEED and timm share."""

import dataclasses
import re
from collections.abc import Mapping

from seed_jax.weights.naming import Naming, by_rules

ARCHITECTURES = {
    ("conv2", (2, 2, 2, 2)): "resnet18",
    ("conv2", (3, 4, 6, 3)): "resnet34",
    ("conv3", (3, 4, 6, 3)): "resnet50",
    ("conv3", (3, 4, 23, 3)): "resnet101",
    ("conv3", (3, 8, 36, 3)): "resnet152",
}


def describe(shapes: Mapping[str, tuple[int, ...]]) -> tuple[str, dict]:
    """Return name and options for `models.create`."""
    stages = [re.fullmatch(r"layer(\d)\.\d+\.conv1\.weight", name) for name in shapes]
    stages = [match[1] for match in stages if match]
    depths = tuple(stages.count(stage) for stage in sorted(set(stages)))
    last = "conv3" if "layer1.0.conv3.weight" in shapes else "conv2"
    arch = ARCHITECTURES.get((last, depths), f"resnet of {'-'.join(map(str, depths))} blocks")
    base, _, kernel, _ = shapes.get("conv1.weight", (64, 3, 7, 7))
    if last == "conv3":
        width, inputs = shapes.get("layer1.0.conv2.weight", (base, base))[:2]
        if (width, inputs) != (base, base):  # Wide ResNet, ResNeXt
            arch += (
                f" with bottlenecks of {width} channels in {width // max(inputs, 1)} groups, not {base} in 1"
            )
    options = {}
    if base != 64:
        options["width"] = base / 64
    if kernel == 3:
        options["small_stem"] = True
    return arch, options


torchvision = Naming(
    "resnet",
    "torchvision",
    ("layer4.0.downsample.0.weight",),
    by_rules(
        (r"backbone/(conv1|bn1|fc)", r"\1"),
        (r"backbone/layer(\d)_(\d+)/((?:conv|bn)\d)", r"layer\1.\2.\3"),
        (r"backbone/layer(\d)_(\d+)/downsample_conv", r"layer\1.\2.downsample.0"),
        (r"backbone/layer(\d)_(\d+)/downsample_bn", r"layer\1.\2.downsample.1"),
    ),
    describe,
)

NAMINGS = (torchvision, dataclasses.replace(torchvision, name="timm"))
