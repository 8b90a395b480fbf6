"""MobileNetV3: the names of d-li14/mobilenetv3.pytorch, and of SEED, which calls the last Linear `fc`."""

import re

SIGNATURE = "features.1.conv.0"

MODULES = {
    "features.0.0": "backbone/stem_conv",
    "features.0.1": "backbone/stem_bn",
    "conv.0": "backbone/last_conv",
    "conv.1": "backbone/last_bn",
    "classifier.0": "backbone/classifier",
    "classifier.3": "fc",
}

EXPANDED = {
    "0": "expand_conv",
    "1": "expand_bn",
    "3": "depthwise_conv",
    "4": "depthwise_bn",
    "5.fc.0": "se/reduce",
    "5.fc.2": "se/expand",
    "7": "project_conv",
    "8": "project_bn",
}

NOT_EXPANDED = {
    "0": "depthwise_conv",
    "1": "depthwise_bn",
    "3.fc.0": "se/reduce",
    "3.fc.2": "se/expand",
    "4": "project_conv",
    "5": "project_bn",
}

ARCHITECTURES = {15: "mobilenetv3_large", 11: "mobilenetv3_small"}


def rename(module: str, modules: set[str]) -> str | None:
    """Our path of a torch module, None when it is not the backbone's; `modules` are all that the file has."""
    if match := re.fullmatch(r"features\.([1-9]\d*)\.conv\.(.+)", module):
        block = EXPANDED if f"features.{match[1]}.conv.7" in modules else NOT_EXPANDED
        return f"backbone/block{match[1]}/{block[match[2]]}" if match[2] in block else None
    return MODULES.get(module)


def describe(shapes: dict[str, tuple[int, ...]]) -> tuple[str, dict]:
    """Name and options for `models.create`, from the shapes by our own names."""
    blocks = {m[1] for m in (re.match(r"params/backbone/block(\d+)/", name) for name in shapes) if m}
    return ARCHITECTURES.get(len(blocks), f"mobilenetv3 of {len(blocks)} blocks"), {}
