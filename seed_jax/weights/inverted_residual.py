"""Layer names of inverted residual blocks (MobileNetV3, EfficientNet) in torchvision and timm."""

from collections.abc import Collection

SUBLAYERS = {
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
    """Return the layer's name, e.g. `block.1.1` for `depthwise_bn`; missing sublayers are not counted."""
    sublayers = [sublayer for sublayer, leaf in SUBLAYERS.items() if f"{block}/{leaf}" in paths]
    sublayer, _, kind = layer.replace("/", "_").partition("_")
    if sublayer not in sublayers or kind not in TORCHVISION:
        return None
    return f"block.{sublayers.index(sublayer)}.{TORCHVISION[kind]}"


def timm(block: str, layer: str, paths: Collection[str]) -> str | None:
    """Return the layer's name in timm/models/_efficientnet_blocks.py.

    A block is an InvertedResidual there, or a DepthwiseSeparableConv if it does not expand.
    """
    expanded = f"{block}/{SUBLAYERS['expand']}" in paths
    return (TIMM_EXPANDED if expanded else TIMM_SEPARABLE).get(layer)
