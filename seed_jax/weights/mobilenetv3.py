"""Tensor names of MobileNetV3 in d-li14/mobilenetv3.pytorch and in SEED, which calls the last Linear `fc`."""

import re
from collections.abc import Mapping

from seed_jax.weights.naming import Naming, tensor_name

MODULES = {
    "backbone/stem_conv": "features.0.0",
    "backbone/stem_bn": "features.0.1",
    "backbone/last_conv": "conv.0",
    "backbone/last_bn": "conv.1",
    "backbone/classifier": "classifier.0",
}

EXPANDED = {
    "expand_conv": "0",
    "expand_bn": "1",
    "depthwise_conv": "3",
    "depthwise_bn": "4",
    "se/reduce": "5.fc.0",
    "se/expand": "5.fc.2",
    "project_conv": "7",
    "project_bn": "8",
}

NOT_EXPANDED = {
    "depthwise_conv": "0",
    "depthwise_bn": "1",
    "se/reduce": "3.fc.0",
    "se/expand": "3.fc.2",
    "project_conv": "4",
    "project_bn": "5",
}

# The keys are the number of blocks.
ARCHITECTURES = {15: "mobilenetv3_large", 11: "mobilenetv3_small"}
LAST_CHANNELS = {15: 160, 11: 96}


def _to_torch(fc):
    def to_torch(path, paths):
        module, _, leaf = path.rpartition("/")
        name = MODULES.get(module)
        if module == "backbone/fc":
            name = fc
        elif match := re.fullmatch(r"backbone/block(\d+)/(.+)", module):
            expanded = f"backbone/block{match[1]}/expand_conv/kernel" in paths
            layer = (EXPANDED if expanded else NOT_EXPANDED).get(match[2])
            name = layer and f"features.{match[1]}.conv.{layer}"
        return tensor_name(name, leaf)

    return to_torch


def describe(shapes: Mapping[str, tuple[int, ...]]) -> tuple[str, dict]:
    """Return name and options for `models.create`."""
    blocks = {m[1] for m in (re.match(r"features\.(\d+)\.conv\.", name) for name in shapes) if m}
    arch = ARCHITECTURES.get(len(blocks), f"mobilenetv3 of {len(blocks)} blocks")
    return arch, width(len(blocks), shapes.get("conv.0.weight"))


def width(blocks: int, last_conv: tuple[int, ...] | None) -> dict:
    """Return the option `width`, from the input channels of the last convolution; empty at width 1."""
    if blocks not in LAST_CHANNELS or last_conv is None or last_conv[1] == LAST_CHANNELS[blocks]:
        return {}
    return {"width": last_conv[1] / LAST_CHANNELS[blocks]}


NAMINGS = (
    Naming(
        "mobilenetv3",
        "d-li14",
        ("features.1.conv.0.weight", "classifier.3.weight"),
        _to_torch("classifier.3"),
        describe,
    ),
    Naming("mobilenetv3", "seed", ("features.1.conv.0.weight",), _to_torch("fc"), describe),
)
