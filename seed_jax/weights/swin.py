"""Tensor names of Swin transformers in microsoft/Swin-Transformer, in timm, and in Feature-Distillation.

timm puts a merging at the start of the next stage and calls the classifier `head.fc`. EsViT's files have
Microsoft's names, with `student.` or `teacher.` before them. Feature-Distillation calls the network of the
positions `rpe_mlp`.

The window of the first version is seen in its tables, that of the second version only in a constant that
Microsoft's files have beside the weights, `relative_coords_table`. Its values also show the windows for which
the positions were trained. Without it Feature-Distillation's files are taken for its own network, with
windows of 14 and images of 224 pixels; the window of others must be told.
"""

import argparse
import functools
import math
import re
from collections.abc import Mapping

import numpy as np

from seed_jax import models
from seed_jax.models.swin import resize_table
from seed_jax.weights.naming import Naming, tensor_name

ARCHITECTURES = {
    (96, (2, 2, 6, 2)): "tiny",
    (96, (2, 2, 18, 2)): "small",
    (128, (2, 2, 18, 2)): "base",
    (512, (2, 2, 42, 4)): "giant",  # of the second version alone
}
TABLE = "layers.0.blocks.0.attn.relative_position_bias_table"
PLACES = "layers.{}.blocks.0.attn.relative_coords_table"
UNKNOWN = 0  # a window that no tensor shows
WINDOWS = ("window", "image_size", "pretrained_window", "pretrained_size")
HEAD_OF_ESVIT = re.compile(r".*\bhead(_dense)?\.(mlp|last_layer)\..*")


def _to_torch(positions, timm, path, paths):
    """The name of a leaf; `positions`: what the network of the positions is called."""
    module, _, leaf = path.removeprefix("backbone/").rpartition("/")
    if not path.startswith("backbone/"):
        return None
    if match := re.fullmatch(r"block(\d)_(\d+)/(.+)", module):
        block, inner = f"layers.{int(match[1]) - 1}.blocks.{match[2]}", match[3].replace("/", ".")
        if leaf == "table":
            return f"{block}.attn.relative_position_bias_table"
        if inner == "attn" and leaf in ("q_bias", "v_bias", "logit_scale"):
            return f"{block}.attn.{leaf}"
        if match := re.fullmatch(r"attn\.rel_pos_bias\.fc([12])", inner):
            inner = f"attn.{positions}.{2 * int(match[1]) - 2}"
        return tensor_name(f"{block}.{inner}", leaf)
    if match := re.fullmatch(r"merge(\d)/(norm|reduction)", module):
        return tensor_name(f"layers.{int(match[1]) - (not timm)}.downsample.{match[2]}", leaf)
    outer = {
        "patch_embed": "patch_embed.proj",
        "patch_norm": "patch_embed.norm",
        "norm": "norm",
        "fc": "head.fc" if timm else "head",
    }
    return tensor_name(outer.get(module), leaf)


def _arch(family, shapes):
    dim = shapes["patch_embed.proj.weight"][0]
    depths = [0] * 4
    for name in shapes:
        if match := re.fullmatch(r"layers\.(\d)\.blocks\.\d+\.norm1\.weight", name):
            depths[int(match[1])] += 1
    size = ARCHITECTURES.get((dim, tuple(depths)))
    if f"{family}_{size}" not in models.MODELS:
        return f"{family} of {', '.join(map(str, depths))} blocks and {dim} channels"
    return f"{family}_{size}"


def describe(shapes):
    """Return name and options for `models.create` of the first version.

    If the windows of the last stage are as large as the others, its map is taken to be as large as a window.
    """
    window, last = (
        (math.isqrt(shapes[name][0]) + 1) // 2 for name in (TABLE, TABLE.replace("layers.0", "layers.3"))
    )
    options = {"window": window, "image_size": 32 * last}
    if any(map(HEAD_OF_ESVIT.fullmatch, shapes)):
        options["epsilon"] = 1e-6
    return _arch("swin", shapes), options


def _describe_esvit(shapes):
    arch, options = describe(shapes)
    return arch, options | {"epsilon": 1e-6}


def _describe_v2(usual, shapes):
    if PLACES.format(0) in shapes:
        window, last = ((shapes[PLACES.format(stage)][1] + 1) // 2 for stage in (0, 3))
        usual = {"window": window, "image_size": 32 * last}
    return _arch("swinv2", shapes), dict(usual)


def windows_of(text: str) -> dict:
    """The options of the windows that a network's name states; the `type` of an option of argparse.

    >>> windows_of("16"), windows_of("12to16")
    ({'window': 16}, {'window': 16, 'pretrained_window': 12})

    Raises:
      argparse.ArgumentTypeError: the text has another form; argparse names the option.
    """
    found = re.fullmatch(r"(?:(\d+)to)?(\d+)", text)
    if not found or not int(found[2]):
        raise argparse.ArgumentTypeError(f"{text!r} is no window: write one as 16 or 12to16.")
    return {"window": int(found[2])} | ({"pretrained_window": int(found[1])} if found[1] else {})


def usual_size(window: int) -> int:
    """Side of the images, pixels, of Microsoft's and timm's networks of the second version.

    >>> [usual_size(window) for window in (8, 12, 16, 24)]
    [256, 192, 256, 384]
    """
    return 256 if window == 8 else 16 * window


def trained_windows(tensors: Mapping[str, np.ndarray]) -> dict:
    """The options of the windows for which positions were trained, if a file's constants show others than its
    own.

    The largest value of a constant is log2(1 + 8 (window - 1) / (trained - 1)) / 3 (`swinv2.places`).
    """
    if not {PLACES.format(0), PLACES.format(3)} <= tensors.keys():
        return {}
    windows, trained = [], []
    for stage in (0, 3):
        table = np.asarray(tensors[PLACES.format(stage)], np.float64)
        windows.append((table.shape[1] + 1) // 2)
        trained.append(round(1 + 8 * (windows[-1] - 1) / (2 ** (3 * table.max()) - 1)) if table.any() else 1)
    if trained == windows:
        return {}
    return {"pretrained_window": trained[0], "pretrained_size": 32 * trained[1]}


def trained(held: dict, options: dict) -> dict:
    """What a network of the second version with these options must know of the windows in a file.

    Args:
      held: the options of the network in the file.
      options: those that replace them.
    """
    window, size = held.get("window", 8), held.get("image_size", 256)
    if (options.get("window", window), options.get("image_size", size)) == (window, size):
        return {}
    before = held.get("pretrained_window") or window
    return {
        "pretrained_window": before,
        "pretrained_size": held.get("pretrained_size") or size * before // window,
    }


def resize(path: str, table: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    """A table of relative positions for windows of another size (`swin.resize_table`); any other array as it
    is.

    Args:
      path: of our leaf.
      table: float `[(2 old - 1)^2, heads]`.
      shape: `[(2 new - 1)^2, heads]`, of our leaf.
    """
    if not path.endswith("/rel_pos_bias/table") or table.ndim != 2 or table.shape[1:] != shape[1:]:
        return table
    old = math.isqrt(len(table))
    if old % 2 == 0 or old**2 != len(table):
        return table
    return resize_table(table, (math.isqrt(shape[0]) + 1) // 2)


def _naming(family, name, signature, describe, positions="cpb_mlp", timm=False):
    # timm's first stage has no merging, and Microsoft's last.
    signature = (*signature, f"layers.{3 if timm else 0}.downsample.reduction.weight")
    to_torch = functools.partial(_to_torch, positions, timm)
    return Naming(family, name, signature, to_torch, describe, resize=resize)


V2 = ("layers.0.blocks.0.attn.logit_scale", "layers.0.blocks.0.attn.cpb_mlp.0.weight")
FD = ("layers.0.blocks.0.attn.logit_scale", "layers.0.blocks.0.attn.rpe_mlp.0.weight")

NAMINGS = (
    _naming("swin", "microsoft", (TABLE,), describe),
    # Chosen for writing alone: a file that has lost EsViT's heads looks like Microsoft's.
    _naming("swin", "esvit", (TABLE,), _describe_esvit),
    _naming("swin", "timm", (TABLE,), describe, timm=True),
    _naming("swinv2", "microsoft", V2, functools.partial(_describe_v2, {"window": UNKNOWN})),
    _naming("swinv2", "timm", V2, functools.partial(_describe_v2, {"window": UNKNOWN}), timm=True),
    _naming(
        "swinv2", "fd", FD, functools.partial(_describe_v2, {"window": 14, "image_size": 224}), "rpe_mlp"
    ),
)
