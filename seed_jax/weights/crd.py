"""Tensor names of the CRD zoo in HobbitLong/RepDistiller, models/, whose networks take images of 32 pixels.

A file of its training scripts has the tensors under `model`, beside the optimizer and the accuracy. All of
its files are of CIFAR-100, so a classifier of 100 classes means CIFAR-100's mean and std.
"""

import functools
import re
from collections.abc import Mapping

from seed_jax.weights import resnet
from seed_jax.weights.naming import Naming, by_rules

NAME = "crd"
SIZE = 32
# dataset/cifar100.py
MEAN, STD = (0.5071, 0.4867, 0.4408), (0.2675, 0.2565, 0.2761)
MOBILENETS = {16: "mobilenetv2_half", 32: "mobilenetv2"}  # by the channels of the stem


def _count(pattern, shapes):
    return sum(re.fullmatch(pattern, name) is not None for name in shapes)


def _cifar_resnet(shapes):
    depth = 6 * _count(r"layer1\.\d+\.conv1\.weight", shapes) + 2
    width = shapes["layer1.0.conv1.weight"][0] // 16
    return f"cifar_resnet{depth}" + (f"x{width}" if width > 1 else ""), {}


def _wrn(shapes):
    depth = 6 * _count(r"block1\.layer\.\d+\.conv1\.weight", shapes) + 4
    return f"wrn_{depth}_{shapes['block1.layer.0.conv1.weight'][0] // 16}", {}


def _vgg(shapes):
    convs = _count(r"block\d\.\d+\.running_mean", shapes)
    return f"vgg{convs + 3}", {}


def _mobilenetv2(shapes):
    channels = shapes["conv1.0.weight"][0]
    if channels in MOBILENETS:
        return MOBILENETS[channels], {}
    return "mobilenetv2", {"width": channels / 32}


def _shufflenet(shapes):
    return "shufflenetv2" if "layer1.0.conv5.weight" in shapes else "shufflenetv1", {}


def _resnet(shapes):
    arch, options = resnet.describe(shapes)
    return (arch if "small_stem" in options else f"{arch} with a large stem"), options


def _described(describe, classifier, shapes: Mapping[str, tuple[int, ...]]) -> tuple[str, dict]:
    """Return name and options for `models.create`."""
    arch, options = describe(shapes)
    if shapes.get(f"{classifier}.weight", ())[:1] == (100,):
        options = options | {"mean": MEAN, "std": STD}
    return arch, options


def _naming(family, signature, describe, classifier, *rules):
    return Naming(
        family,
        NAME,
        signature,
        by_rules((r"backbone/fc", classifier), *rules),
        functools.partial(_described, describe, classifier),
    )


_STEM = (r"backbone/(conv1|bn1)", r"\1")
_BLOCK = (r"backbone/layer([1-3])_(\d+)/((?:conv|bn)\d)", r"layer\1.\2.\3")

NAMINGS = (
    _naming(
        "cifar_resnet",
        ("layer3.0.downsample.0.weight",),
        _cifar_resnet,
        "fc",
        _STEM,
        _BLOCK,
        (r"backbone/layer([1-3])_(\d+)/downsample_conv", r"layer\1.\2.downsample.0"),
        (r"backbone/layer([1-3])_(\d+)/downsample_bn", r"layer\1.\2.downsample.1"),
    ),
    _naming(
        "wrn",
        ("block1.layer.0.conv1.weight",),
        _wrn,
        "fc",
        (r"backbone/conv1", "conv1"),
        (r"backbone/last_bn", "bn1"),
        (r"backbone/block(\d)_(\d+)/((?:conv|bn)\d)", r"block\1.layer.\2.\3"),
        (r"backbone/block(\d)_(\d+)/shortcut_conv", r"block\1.layer.\2.convShortcut"),
    ),
    # In a Sequential, each convolution is followed by a norm and a ReLU, which have numbers too.
    _naming(
        "vgg",
        ("block0.0.bias", "block4.1.running_mean"),
        _vgg,
        "classifier",
        (r"backbone/stem_0/conv", "block0.0"),
        (r"backbone/stem_0/bn", "block0.1"),
        (r"backbone/stem_1/conv", "block0.3"),
        (r"backbone/stem_1/bn", "block0.4"),
        (r"backbone/block(\d)_0/conv", r"block\1.0"),
        (r"backbone/block(\d)_0/bn", r"block\1.1"),
        (r"backbone/block(\d)_1/conv", r"block\1.3"),
        (r"backbone/block(\d)_1/bn", r"block\1.4"),
    ),
    _naming(
        "mobilenetv2",
        ("conv1.0.weight", "blocks.0.0.conv.0.weight"),
        _mobilenetv2,
        "classifier.0",
        (r"backbone/stem_conv", "conv1.0"),
        (r"backbone/stem_bn", "conv1.1"),
        *(
            (rf"backbone/block{row + 1}_(\d)/{layer}", rf"blocks.{row}.\1.conv.{number}")
            for row in range(7)
            for layer, number in {
                "expand_conv": 0,
                "expand_bn": 1,
                "depthwise_conv": 3,
                "depthwise_bn": 4,
                "project_conv": 6,
                "project_bn": 7,
            }.items()
        ),
        (r"backbone/last_conv", "conv2.0"),
        (r"backbone/last_bn", "conv2.1"),
    ),
    # ResNet-18 to 152 with the small stem, models/resnetv2.py.
    _naming(
        "resnet",
        ("layer4.0.shortcut.0.weight",),
        _resnet,
        "linear",
        _STEM,
        (r"backbone/layer(\d)_(\d+)/((?:conv|bn)\d)", r"layer\1.\2.\3"),
        (r"backbone/layer(\d)_(\d+)/downsample_conv", r"layer\1.\2.shortcut.0"),
        (r"backbone/layer(\d)_(\d+)/downsample_bn", r"layer\1.\2.shortcut.1"),
    ),
    _naming(
        "shufflenet",
        ("layer1.3.conv3.weight", "layer2.7.conv3.weight", "layer3.3.conv3.weight"),
        _shufflenet,
        "linear",
        (r"backbone/(conv\d|bn\d)", r"\1"),
        _BLOCK,
    ),
)
