"""How the authors of published networks resize and crop a photograph for evaluation."""

import json
from collections.abc import Mapping
from typing import NamedTuple

from seed_jax.data.images import EVAL_RESIZE, RESAMPLING


class Preparation(NamedTuple):
    """How to turn a photograph into a square: resize it, then take the centre.

    `resize`: short side after resizing, as a multiple of the square's side; `interpolation`: `bilinear` or
    `bicubic`.
    """

    resize: float = EVAL_RESIZE
    interpolation: str = "bilinear"


# Short side / crop of the transforms in torchvision/models/efficientnet.py.
TORCHVISION = {
    "efficientnet_b1_torchvision": 256 / 240,
    "efficientnet_b2_torchvision": 1.0,
    "efficientnet_b3_torchvision": 320 / 300,
}


def of_network(family: str, arch: str, options: dict, naming: str, source: str = "") -> Preparation:
    """Return the preparation of a network; `naming`: a naming's name; `source`: of a published file.

    CLIP: clip/clip.py, `_transform`. DINO: eval_linear.py. MAE: main_linprobe.py. MoCo v3: main_lincls.py.
    lukemelas' EfficientNets: examples/imagenet/main.py. All others as torchvision's ResNets.
    """
    if family == "vit" and naming != "moco_v3" and "moco-v3" not in source:
        return Preparation(1.0 if options.get("form", "").startswith("clip") else EVAL_RESIZE, "bicubic")
    if arch.startswith("efficientnet_b") and naming != "seed":  # excludes efficientnet_lite*
        return Preparation(1.0 if naming == "lukemelas" else TORCHVISION.get(arch, EVAL_RESIZE), "bicubic")
    return Preparation()


def of_metadata(metadata: Mapping[str, str]) -> Preparation:
    """Return the preparation in an export's metadata.

    Raises:
      KeyError, TypeError, ValueError: the metadata lacks it or is damaged.
    """
    preparation = Preparation(float(json.loads(metadata["resize"])), metadata["interpolation"])
    if preparation.interpolation not in RESAMPLING or not 1 <= preparation.resize <= 2:
        raise ValueError(f"{preparation} cannot be used")
    return preparation
