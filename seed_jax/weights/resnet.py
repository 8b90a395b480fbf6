"""ResNet: torchvision's names (torchvision/models/resnet.py), shared by MoCo, SwAV, SimCLR and SEED."""

import re

SIGNATURE = "layer1.0.conv1"

MODULES = (
    (r"(conv1|bn1)", r"backbone/\1"),
    (r"layer(\d)\.(\d+)\.((?:conv|bn)\d)", r"backbone/layer\1_\2/\3"),
    (r"layer(\d)\.(\d+)\.downsample\.0", r"backbone/layer\1_\2/downsample_conv"),
    (r"layer(\d)\.(\d+)\.downsample\.1", r"backbone/layer\1_\2/downsample_bn"),
)

ARCHITECTURES = {
    ("conv2", (2, 2, 2, 2)): "resnet18",
    ("conv2", (3, 4, 6, 3)): "resnet34",
    ("conv3", (3, 4, 6, 3)): "resnet50",
    ("conv3", (3, 4, 23, 3)): "resnet101",
    ("conv3", (3, 8, 36, 3)): "resnet152",
}


def rename(module: str, modules: set[str]) -> str | None:
    """Our path of a torch module, None when it is not the backbone's."""
    for pattern, path in MODULES:
        if match := re.fullmatch(pattern, module):
            return match.expand(path)
    return None


def describe(shapes: dict[str, tuple[int, ...]]) -> tuple[str, dict]:
    """Name and options for `models.create`, from the shapes by our own names."""
    matches = (re.match(r"params/backbone/layer(\d)_(\d+)/", name) for name in shapes)
    stages = [stage for stage, _ in {match.groups() for match in matches if match}]
    depths = tuple(stages.count(stage) for stage in sorted(set(stages)))
    last = "conv3" if "params/backbone/layer1_0/conv3/kernel" in shapes else "conv2"
    arch = ARCHITECTURES.get((last, depths), f"resnet of {'-'.join(map(str, depths))} blocks")
    kernel, _, _, base = shapes.get("params/backbone/conv1/kernel", (7, 7, 3, 64))
    options = {}
    if base != 64:
        options["width"] = base / 64
    if kernel == 3:
        options["small_stem"] = True
    return arch, options
