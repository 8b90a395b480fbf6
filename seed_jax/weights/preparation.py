"""How the authors of published networks resize and crop a photograph for evaluation."""

import json
from collections.abc import Mapping
from typing import NamedTuple

from seed_jax.data.images import EVAL_RESIZE, RESAMPLING, WHITE


class Preparation(NamedTuple):
    """How to turn a photograph into a square: resize it, then take the centre.

    Attributes:
      resize: short side after resizing, as a multiple of the square's side.
      interpolation: `bilinear` or `bicubic`.
      background: red, green and blue, 0 to 255, that images with alpha are composited on before that.
    """

    resize: float = EVAL_RESIZE
    interpolation: str = "bilinear"
    background: tuple[int, int, int] = WHITE


# Short side / crop of the transforms in torchvision/models/efficientnet.py.
TORCHVISION = {
    "efficientnet_b1_torchvision": 256 / 240,
    "efficientnet_b2_torchvision": 1.0,
    "efficientnet_b3_torchvision": 320 / 300,
}


def of_network(family: str, arch: str, options: dict, naming: str, source: str = "") -> Preparation:
    """Return the preparation of a network; `naming`: a naming's name; `source`: of a published file.

    CLIP: clip/clip.py, `_transform`. DINO: eval_linear.py. MAE: main_linprobe.py. MoCo v3: main_lincls.py.
    lukemelas' EfficientNets: examples/imagenet/main.py. Swin: data/build.py, but for 384 pixels it
    squashes images to a square, and here the centre is cut out. EsViT: eval_linear.py. Feature-Distillation:
    data/data_finetune.py. CRD's networks see small images whole. All others as torchvision's ResNets.
    """
    if naming == "crd":
        return Preparation(1.0)
    if family == "vit" and naming != "moco_v3" and "moco-v3" not in source:
        return Preparation(1.0 if options.get("form", "").startswith("clip") else EVAL_RESIZE, "bicubic")
    if family == "fd_vit":
        return Preparation(EVAL_RESIZE, "bicubic")
    if family in ("swin", "swinv2"):
        return Preparation(1.0 if options.get("image_size") == 384 else EVAL_RESIZE, "bicubic")
    if arch.startswith("efficientnet_b") and naming != "seed":  # excludes efficientnet_lite*
        return Preparation(1.0 if naming == "lukemelas" else TORCHVISION.get(arch, EVAL_RESIZE), "bicubic")
    return Preparation()


def of_run(data) -> Preparation:
    """Return the preparation of a run's network, from the section `data` of its config."""
    return Preparation(float(data.resize), "bilinear", tuple(data.background))


def of_metadata(metadata: Mapping[str, str]) -> Preparation:
    """Return the preparation in an export's metadata; white if it has no `background`, as in older exports.

    Raises:
      KeyError, TypeError, ValueError: the metadata lacks it or is damaged.
    """
    background = tuple(json.loads(metadata.get("background", json.dumps(WHITE))))
    preparation = Preparation(float(json.loads(metadata["resize"])), metadata["interpolation"], background)
    colour = len(background) == 3 and all(type(x) is int and 0 <= x <= 255 for x in background)
    if not colour or preparation.interpolation not in RESAMPLING or not 1 <= preparation.resize <= 2:
        raise ValueError(f"{preparation} cannot be used")
    return preparation
