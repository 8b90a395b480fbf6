"""Tensor names of MobileNetV3 in torchvision's form: torchvision's and timm's.

timm's `mobilenetv3_large_100` has torchvision's form, except for batch norm epsilon 1e-5, so `describe`
returns `bn_epsilon=1e-5` for timm's names. For weights trained with torchvision's 1e-3, pass `bn_eps=1e-3` to
timm and `bn_epsilon=1e-3` to `create`. timm's `tf_mobilenetv3_*` have the same names, pad differently and are
not supported, so the user must confirm that a file is not one of them.
"""

import functools
import re

from seed_jax.weights import inverted_residual, mobilenetv3
from seed_jax.weights.naming import Naming, tensor_name

# The keys are the number of blocks. TIMM_STAGES: blocks in each of timm's stages.
ARCHITECTURES = {15: "mobilenetv3_large_torchvision", 11: "mobilenetv3_small_torchvision"}
TIMM_STAGES = {15: (1, 2, 3, 4, 2, 3), 11: (1, 2, 3, 2, 3)}


def _torchvision(path, paths):
    module, _, leaf = path.rpartition("/")
    last = _count_blocks(paths) + 1
    outer = {
        "backbone/stem_conv": "features.0.0",
        "backbone/stem_bn": "features.0.1",
        "backbone/last_conv": f"features.{last}.0",
        "backbone/last_bn": f"features.{last}.1",
        "backbone/classifier": "classifier.0",
        "backbone/fc": "classifier.3",
    }
    name = outer.get(module)
    if match := re.fullmatch(r"(backbone/block(\d+))/(.+)", module):
        layer = inverted_residual.torchvision(match[1], match[3], paths)
        name = layer and f"features.{match[2]}.{layer}"
    return tensor_name(name, leaf)


def _timm(path, paths):
    module, _, leaf = path.rpartition("/")
    stages = TIMM_STAGES.get(_count_blocks(paths), ())
    outer = {
        "backbone/stem_conv": "conv_stem",
        "backbone/stem_bn": "bn1",
        "backbone/last_conv": f"blocks.{len(stages)}.0.conv",
        "backbone/last_bn": f"blocks.{len(stages)}.0.bn1",
        "backbone/classifier": "conv_head",
        "backbone/fc": "classifier",
    }
    name = outer.get(module)
    if match := re.fullmatch(r"(backbone/block(\d+))/(.+)", module):
        numbers = [f"{stage}.{i}" for stage, depth in enumerate(stages) for i in range(depth)]
        number = dict(enumerate(numbers, start=1)).get(int(match[2]))
        layer = inverted_residual.timm(match[1], match[3], paths)
        name = number and layer and f"blocks.{number}.{layer}"
    return tensor_name(name, leaf)


def _count_blocks(paths):
    return sum(re.fullmatch(r"backbone/block\d+/project_conv/kernel", path) is not None for path in paths)


def _describe(block, last_conv, options, shapes):
    """Return name and options for `models.create`.

    `block`: pattern of one tensor name per block; `last_conv`: pattern of the last filter's name.
    """
    blocks = {match[1] for match in (re.match(block, name) for name in shapes) if match}
    last = next((shape for name, shape in shapes.items() if re.fullmatch(last_conv, name)), None)
    arch = ARCHITECTURES.get(len(blocks), f"mobilenetv3 of {len(blocks)} blocks")
    return arch, options | mobilenetv3.width(len(blocks), last)


def _timm_forms(arch, options):
    timm_arch = arch.replace("torchvision", "100")
    return ((arch, options, f"timm's {timm_arch}; tf_{timm_arch} pads differently and is not supported"),)


NAMINGS = (
    Naming(
        "mobilenetv3",
        "torchvision",
        ("features.1.block.0.0.weight",),
        _torchvision,
        functools.partial(
            _describe, r"features\.(\d+)\.block\.0\.0\.weight", r"features\.1[26]\.0\.weight", {}
        ),
        layouts=((r"backbone/.*/se/(reduce|expand)/kernel", "conv1x1"),),
    ),
    Naming(
        "mobilenetv3",
        "timm",
        ("conv_stem.weight", "blocks.0.0.conv_dw.weight", "conv_head.bias"),
        _timm,
        functools.partial(
            _describe,
            r"blocks\.(\d\.\d+)\.conv_dw\.weight",
            r"blocks\.\d\.0\.conv\.weight",
            {"bn_epsilon": 1e-5},
        ),
        layouts=((r"backbone/(.*/se/(reduce|expand)|classifier)/kernel", "conv1x1"),),
        alike=_timm_forms,
    ),
)
