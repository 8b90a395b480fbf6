"""The layers of an inverted residual block as torchvision and timm call them: MobileNetV3, EfficientNet."""

from collections.abc import Collection

PARTS = {
    "expand": "expand_conv/kernel",
    "depthwise": "depthwise_conv/kernel",
    "se": "se/reduce/kernel",
    "project": "project_conv/kernel",
}
TORCHVISION = {"conv": "0", "bn": "1", "reduce": "fc1", "expand": "fc2"}

TIMM_EXPANDED = {
    "expand_conv": "conv_pw",
    "expand_bn": "bn1",
    "depthwise_conv": "conv_dw",
    "depthwise_bn": "bn2",
    "se/reduce": "se.conv_reduce",
    "se/expand": "se.conv_expand",
    "project_conv": "conv_pwl",
    "project_bn": "bn3",
}
TIMM_SEPARABLE = TIMM_EXPANDED | {
    "depthwise_bn": "bn1",
    "project_conv": "conv_pw",
    "project_bn": "bn2",
}


def torchvision(block: str, layer: str, paths: Collection[str]) -> str | None:
    """Numbers of the parts that the block has: of `backbone/block2` and `depthwise_bn` it is `block.1.1`."""
    parts = [part for part, leaf in PARTS.items() if f"{block}/{leaf}" in paths]
    part, _, kind = layer.replace("/", "_").partition("_")
    return f"block.{parts.index(part)}.{TORCHVISION[kind]}" if part in parts and kind in TORCHVISION else None


def timm(block: str, layer: str, paths: Collection[str]) -> str | None:
    """timm/models/_efficientnet_blocks.py, InvertedResidual, or DepthwiseSeparableConv without expansion."""
    expanded = f"{block}/{PARTS['expand']}" in paths
    return (TIMM_EXPANDED if expanded else TIMM_SEPARABLE).get(layer)
