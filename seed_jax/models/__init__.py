"""Architectures by name, and `create`, which makes a network of one."""

import inspect

import jax.numpy as jnp

from seed_jax.errors import unknown
from seed_jax.models import efficientnet
from seed_jax.models.mobilenetv3 import (
    mobilenetv3_large,
    mobilenetv3_large_torchvision,
    mobilenetv3_small,
    mobilenetv3_small_torchvision,
)
from seed_jax.models.network import IMAGENET_MEAN, IMAGENET_STD, Joined, LinenNetwork, Network
from seed_jax.models.resnet import resnet18, resnet34, resnet50, resnet101, resnet152
from seed_jax.models.vit import vit_base, vit_large, vit_small

__all__ = ["IMAGENET_MEAN", "IMAGENET_STD", "MODELS", "Joined", "LinenNetwork", "Network", "create"]

MODELS = {
    "resnet18": resnet18,
    "resnet34": resnet34,
    "resnet50": resnet50,
    "resnet101": resnet101,
    "resnet152": resnet152,
    "mobilenetv3_large": mobilenetv3_large,
    "mobilenetv3_small": mobilenetv3_small,
    "mobilenetv3_large_torchvision": mobilenetv3_large_torchvision,
    "mobilenetv3_small_torchvision": mobilenetv3_small_torchvision,
    **efficientnet.ARCHITECTURES,
    "vit_small": vit_small,
    "vit_base": vit_base,
    "vit_large": vit_large,
}

DTYPES = {"fp32": jnp.float32, "bf16": jnp.bfloat16}
NOT_OPTIONS = {"block", "depths", "blocks", "pooled_features", "bn_group", "dtype", "parent", "name"}


def create(
    name, *, mean=IMAGENET_MEAN, std=IMAGENET_STD, size=None, precision="fp32", bn_group=None, **options
) -> LinenNetwork:
    """The network of that name, e.g. `create('resnet18', num_classes=10, small_stem=True)`.

    `mean`, `std`: of the images in [0, 1], three numbers each. `size`: to which other images are resized on
    the device. `precision`: `fp32` or `bf16` for convolutions and matrix products. `bn_group`: see
    `layers.BatchNorm`; nothing to networks without one. Options: `num_classes`, and `width`, `small_stem`,
    `dropout` or whatever else the architecture's module has.

    Raises UserError for an unknown name, precision or option, naming the nearest known one.
    """
    constructor = _lookup("model", name, MODELS)
    parameters = inspect.signature(constructor).parameters
    known = {key: key for key in parameters if key not in NOT_OPTIONS}
    for option in options:
        _lookup(f"option of {name}", option, known)
    if "bn_group" in parameters:
        options["bn_group"] = bn_group
    module = constructor(dtype=_lookup("precision", precision, DTYPES), **options)
    return LinenNetwork(module, tuple(mean), tuple(std), size)


def _lookup(kind, name, table):
    if name not in table:
        raise unknown(kind, str(name), table)
    return table[name]
