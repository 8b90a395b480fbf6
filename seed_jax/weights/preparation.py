"""How the authors of published networks turn a photograph into the square that they evaluate on."""

import json
from collections.abc import Mapping
from typing import NamedTuple

from seed_jax.data.images import EVAL_RESIZE, RESAMPLING


class Preparation(NamedTuple):
    """`resize`: the short side, as a multiple of the square's; `interpolation`: `bilinear` or `bicubic`."""

    resize: float = EVAL_RESIZE
    interpolation: str = "bilinear"


# torchvision/models/efficientnet.py, the weights' transforms
TORCHVISION = {
    "efficientnet_b1_torchvision": 256 / 240,
    "efficientnet_b2_torchvision": 1.0,
    "efficientnet_b3_torchvision": 320 / 300,
}


def of_network(family: str, arch: str, options: dict, naming: str, source: str = "") -> Preparation:
    """By the network and the code base that names it; `source`: that a known file comes from.

    CLIP: clip/clip.py, `_transform`. DINO: eval_linear.py; MAE: main_linprobe.py; MoCo v3: main_lincls.py.
    EfficientNets of lukemelas: examples/imagenet/main.py. The others as torchvision's ResNets.
    """
    if family == "vit" and naming != "moco_v3" and "moco-v3" not in source:
        return Preparation(1.0 if options.get("form", "").startswith("clip") else EVAL_RESIZE, "bicubic")
    if arch.startswith("efficientnet_b") and naming != "seed":  # Lite networks are not among them
        return Preparation(1.0 if naming == "lukemelas" else TORCHVISION.get(arch, EVAL_RESIZE), "bicubic")
    return Preparation()


def of_metadata(metadata: Mapping[str, str]) -> Preparation:
    """As an export says. Raises KeyError, TypeError or ValueError when it does not."""
    said = Preparation(float(json.loads(metadata["resize"])), metadata["interpolation"])
    if said.interpolation not in RESAMPLING or not 1 <= said.resize <= 2:
        raise ValueError(f"{said} is no preparation of images")
    return said
