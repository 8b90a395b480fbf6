"""Tensor names of EfficientNet in lukemelas/EfficientNet-PyTorch, the Lite package, torchvision and timm, and
in SEED, which calls the classifier `fc`.

timm gives its TensorFlow form (`tf_efficientnet_b0`, our `efficientnet_b0`) and its own form
(`efficientnet_b0`, our `efficientnet_b0_torchvision`) the same tensor names, so the user must say which form
a file has. The same holds for Lite, where we support `tf_efficientnet_lite0` only: timm's own
`efficientnet_lite0` pads symmetrically and uses epsilon 1e-5. In the TensorFlow form timm computes the
padding for the size of the input; that equals our padding at the variant's nominal size.
"""

import functools
import re

from seed_jax.models.efficientnet import LITE_MEAN, LITE_STD
from seed_jax.weights import inverted_residual
from seed_jax.weights.naming import Naming, tensor_name

LUKEMELAS = {
    "expand_conv": "_expand_conv",
    "expand_bn": "_bn0",
    "depthwise_conv": "_depthwise_conv",
    "depthwise_bn": "_bn1",
    "se/reduce": "_se_reduce",
    "se/expand": "_se_expand",
    "project_conv": "_project_conv",
    "project_bn": "_bn2",
}

VARIANTS = {(16, 320): "b0", (23, 320): "b1", (23, 352): "b2", (26, 384): "b3"}
LITE_VARIANTS = {(16, 320): "lite0", (21, 352): "lite2"}
BLOCK = r"(backbone/block(\d)_(\d+))/(.+)"


def _to_torch(block_name, outer, path, paths):
    """Name a leaf. `outer`: names outside the blocks; `block_name(block, stage, i, layer, paths)`: inside."""
    module, _, leaf = path.rpartition("/")
    name = outer.get(module.removeprefix("backbone/")) if module.startswith("backbone/") else None
    if match := re.fullmatch(BLOCK, module):
        name = block_name(match[1], int(match[2]), int(match[3]), match[4], paths)
    return tensor_name(name, leaf)


def _lukemelas(block, stage, i, layer, paths):
    """Name a layer of a block; the block number counts on from stage to stage."""
    if layer not in LUKEMELAS:
        return None
    projections = (re.fullmatch(BLOCK, path) for path in paths if path.endswith("/project_conv/kernel"))
    number = sum((int(match[2]), int(match[3])) < (stage, i) for match in projections)
    return f"_blocks.{number}.{LUKEMELAS[layer]}"


def _torchvision(block, stage, i, layer, paths):
    name = inverted_residual.torchvision(block, layer, paths)
    return name and f"features.{stage}.{i}.{name}"


def _timm(block, stage, i, layer, paths):
    name = inverted_residual.timm(block, layer, paths)
    return name and f"blocks.{stage - 1}.{i}.{name}"


def _describe(depthwise, se, head, suffix, shapes):
    """Return name and options for `models.create`.

    `depthwise`, `se`: patterns of the names of these filters; `head`: the name of the head's filter.
    """
    blocks = sum(re.fullmatch(depthwise, name) is not None for name in shapes)
    lite = not any(re.fullmatch(se, name) for name in shapes)
    variant = (LITE_VARIANTS if lite else VARIANTS).get((blocks, *shapes.get(head, ())[1:2]))
    arch = f"efficientnet_{variant}{suffix}" if variant else f"efficientnet of {blocks} blocks"
    return arch, {"mean": LITE_MEAN, "std": LITE_STD} if lite else {}


def _timm_forms(arch, options):
    own_form = () if "lite" in arch else ((f"{arch}_torchvision", options, f"timm's {arch}"),)
    return (arch, options, f"timm's tf_{arch}"), *own_form


def _naming(name, signature, outer, block_name, depthwise, se, suffix="", alike=None):
    return Naming(
        family="efficientnet",
        name=name,
        signature=signature,
        to_torch=functools.partial(_to_torch, block_name, outer),
        describe=functools.partial(_describe, depthwise, se, f"{outer['head_conv']}.weight", suffix),
        layouts=((r"backbone/.*/se/(reduce|expand)/kernel", "conv1x1"),),
        alike=alike,
    )


OUTER = {"stem_conv": "_conv_stem", "stem_bn": "_bn0", "head_conv": "_conv_head", "head_bn": "_bn1"}

lukemelas = _naming(
    "lukemelas",
    ("_conv_stem.weight", "_fc.weight"),
    OUTER | {"fc": "_fc"},
    _lukemelas,
    r"_blocks\.\d+\._depthwise_conv\.weight",
    r"_blocks\.\d+\._se_reduce\.weight",
)
seed = _naming(
    "seed",
    ("_conv_stem.weight",),
    OUTER | {"fc": "fc"},
    _lukemelas,
    r"_blocks\.\d+\._depthwise_conv\.weight",
    r"_blocks\.\d+\._se_reduce\.weight",
)
torchvision = _naming(
    "torchvision",
    ("features.1.0.block.0.0.weight",),
    {
        "stem_conv": "features.0.0",
        "stem_bn": "features.0.1",
        "head_conv": "features.8.0",
        "head_bn": "features.8.1",
        "fc": "classifier.1",
    },
    _torchvision,
    r"features\.\d\.\d+\.block\.1\.0\.weight|features\.1\.\d\.block\.0\.0\.weight",
    r"features\.\d\.\d+\.block\.\d\.fc1\.weight",
    "_torchvision",
)
timm = _naming(
    "timm",
    ("conv_stem.weight", "blocks.0.0.conv_dw.weight", "bn2.weight"),
    {
        "stem_conv": "conv_stem",
        "stem_bn": "bn1",
        "head_conv": "conv_head",
        "head_bn": "bn2",
        "fc": "classifier",
    },
    _timm,
    r"blocks\.\d\.\d+\.conv_dw\.weight",
    r"blocks\.\d\.\d+\.se\.conv_reduce\.weight",
    alike=_timm_forms,
)

NAMINGS = (lukemelas, seed, torchvision, timm)
