"""Tensor names of the vision transformers of Feature-Distillation (models/vision_transformer.py there).

Its training files hold the network below `encoder.`, beside a projector and the whole teacher. Fine-tuned
files hold it alone, with a table of positions in each block, `fc_norm` and a classifier.

They are BEiT's names (microsoft/unilm, beit/modeling_finetune.py), whose networks compute the same, but of
images normalised to [-1, 1] in BEiT's first version.
"""

import math
import re

import numpy as np

from seed_jax.models import fd_vit
from seed_jax.models.network import IMAGENET_MEAN, IMAGENET_STD
from seed_jax.weights.naming import Naming, tensor_name

ARCHITECTURES = {(384, 12): "fd_vit_small", (768, 12): "fd_vit_base", (1024, 24): "fd_vit_large"}
SHARED = "rel_pos_bias.relative_position_bias_table"
OF_TRAINING = ("decoder.", "feature_model.")  # what Feature-Distillation's training files hold besides
OF_BLOCK = "blocks.0.attn.relative_position_bias_table"

LEAVES = (
    (r"(cls_token|pos_embed)", r"\1"),
    (r"rel_pos_bias/table", SHARED),
    (r"block(\d+)/attn/rel_pos_bias/table", r"blocks.\1.attn.relative_position_bias_table"),
    (r"block(\d+)/attn/(q_bias|v_bias)", r"blocks.\1.attn.\2"),
    (r"block(\d+)/ls([12])/gamma", r"blocks.\1.gamma_\2"),
)
MODULES = (
    (r"patch_embed", r"patch_embed.proj"),
    (r"block(\d+)/(norm1|norm2)", r"blocks.\1.\2"),
    (r"block(\d+)/(attn|mlp)/(\w+)", r"blocks.\1.\2.\3"),
    (r"(norm|fc_norm)", r"\1"),
    (r"fc", r"head"),
)


def name(path, paths):
    """Return the name of a leaf there."""
    if not path.startswith("backbone/"):
        return None
    inner = path.removeprefix("backbone/")
    module, _, leaf = inner.rpartition("/")
    return _first(LEAVES, inner) or tensor_name(_first(MODULES, module), leaf)


def _first(rules, path):
    matches = ((re.fullmatch(pattern, path), replacement) for pattern, replacement in rules)
    return next((match.expand(replacement) for match, replacement in matches if match), None)


def describe(shapes):
    """Return name and options for `models.create`.

    Without positions nothing shows the size of the images. Tables show the number of heads. Mean and std are
    ImageNet's if the file is one of Feature-Distillation's training, else unknown.
    """
    dim, _, patch, _ = shapes["patch_embed.proj.weight"]
    depth = len({match[1] for tensor in shapes if (match := re.match(r"blocks\.(\d+)\.", tensor))})
    arch = ARCHITECTURES.get((dim, depth), f"fd_vit of {depth} blocks of width {dim}")
    options = {"patch": patch, "positions": "none"}
    for positions, table in (("shared", SHARED), ("layer", OF_BLOCK)):
        if table in shapes:
            rows, heads = shapes[table]
            options |= {"positions": positions, "image_size": patch * _side(rows)}
            if heads != dim // 64:
                options["heads"] = heads
            break
    else:
        if "pos_embed" in shapes:
            side = math.isqrt(shapes["pos_embed"][1] - 1)
            options |= {"positions": "absolute", "image_size": patch * side}
    if "fc_norm.weight" in shapes:
        options["pool"] = "mean"
    if any(tensor.startswith(OF_TRAINING) for tensor in shapes):
        options |= {"mean": IMAGENET_MEAN, "std": IMAGENET_STD}
    return arch, options


def resize(path: str, tensor: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    """Positions for images of another size, as Feature-Distillation fine-tunes; any other array as it is.

    Tables are resized by a spline (`fd_vit.resize_table`), absolute positions bicubically
    (`fd_vit.resize_absolute`).

    Args:
      path: of our leaf.
      tensor: table `[(2 old - 1)^2 + 3, heads]` or positions `[1, 1 + old^2, D]`.
      shape: of our leaf.
    """
    if tensor.ndim != len(shape) or tensor.shape[-1] != shape[-1]:
        return tensor
    if path.endswith("rel_pos_bias/table"):
        old, new = (_side(rows) for rows in (len(tensor), shape[0]))
        if len(tensor) != (2 * old - 1) ** 2 + fd_vit.EXTRA:
            return tensor
        return np.asarray(fd_vit.resize_table(tensor, (old, old), (new, new)))
    if path.endswith("/pos_embed"):
        old, new = (math.isqrt(length - 1) for length in (tensor.shape[1], shape[1]))
        if tensor.shape[1] != 1 + old**2:
            return tensor
        return np.asarray(fd_vit.resize_absolute(tensor, (new, new)))
    return tensor


def _side(rows: int) -> int:
    """Patches on a side of the grid for which a table of that many rows is."""
    return (math.isqrt(max(1, rows - fd_vit.EXTRA)) + 1) // 2


NAMINGS = (
    Naming(
        family="fd_vit",
        name="fd",
        signature=("cls_token", "blocks.0.attn.qkv.weight", "blocks.0.attn.q_bias"),
        to_torch=name,
        describe=describe,
        resize=resize,
    ),
)
