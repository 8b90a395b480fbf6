"""Architectures by name, and `create`, which builds a network from a name and options."""

import inspect

import jax.numpy as jnp

from seed_jax.errors import UserError, unknown
from seed_jax.models import cifar_resnet, efficientnet, wrn
from seed_jax.models.fd_vit import fd_vit_base, fd_vit_large, fd_vit_small
from seed_jax.models.mobilenetv2 import MobileNetV2, mobilenetv2_half
from seed_jax.models.mobilenetv3 import (
    mobilenetv3_large,
    mobilenetv3_large_torchvision,
    mobilenetv3_small,
    mobilenetv3_small_torchvision,
)
from seed_jax.models.network import IMAGENET_MEAN, IMAGENET_STD, Joined, LinenNetwork, Network
from seed_jax.models.resnet import resnet18, resnet34, resnet50, resnet101, resnet152
from seed_jax.models.shufflenet import ShuffleNetV1, ShuffleNetV2
from seed_jax.models.swin import swin_base, swin_small, swin_tiny
from seed_jax.models.swinv2 import swinv2_base, swinv2_giant, swinv2_small, swinv2_tiny
from seed_jax.models.vgg import vgg8, vgg13
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
    "fd_vit_small": fd_vit_small,
    "fd_vit_base": fd_vit_base,
    "fd_vit_large": fd_vit_large,
    "swin_tiny": swin_tiny,
    "swin_small": swin_small,
    "swin_base": swin_base,
    "swinv2_tiny": swinv2_tiny,
    "swinv2_small": swinv2_small,
    "swinv2_base": swinv2_base,
    "swinv2_giant": swinv2_giant,
    **cifar_resnet.ARCHITECTURES,
    **wrn.ARCHITECTURES,
    "vgg8": vgg8,
    "vgg13": vgg13,
    "mobilenetv2": MobileNetV2,
    "mobilenetv2_half": mobilenetv2_half,
    "shufflenetv1": ShuffleNetV1,
    "shufflenetv2": ShuffleNetV2,
}

DTYPES = {"fp32": jnp.float32, "bf16": jnp.bfloat16}
NOT_OPTIONS = {
    "block",
    "depths",
    "blocks",
    "pooled_features",
    "bn_group",
    "extra_norm",
    "dtype",
    "parent",
    "name",
}
# Options that change nothing that a network with given parameters computes when it does not train.
INERT = {
    "dropout",
    "drop_path",
    "bn_momentum",
    "remat",
    "truncated",
    "layer_scale",
    "fd_init",
    "mocov3_init",
    "attention",
}


def create(
    name, *, mean=IMAGENET_MEAN, std=IMAGENET_STD, size=None, precision="fp32", bn_group=None, **options
) -> LinenNetwork:
    """Build the network of an architecture; its `init` creates the variables.

    Args:
      name: a key of `MODELS`.
      mean, std: three numbers each, for images in [0, 1].
      size: side in pixels to which images of another side are resized on the device; None takes any side.
      precision: `fp32` or `bf16`, of convolutions and matrix products.
      bn_group: samples per group of batch statistics (`layers.BatchNorm`); None for the whole batch. It has
        no effect on an architecture without batch norm.
      **options: fields of the architecture's module, such as `num_classes`, `width`, `small_stem` or `remat`.

    Raises:
      UserError: the name, the precision or an option is unknown; the message names the nearest known one.

    >>> network = create("resnet18", num_classes=10, small_stem=True)
    >>> images = jax.ShapeDtypeStruct((2, 32, 32, 3), jnp.float32)
    >>> variables = jax.eval_shape(network.init, jax.random.key(0), images)
    >>> sum(leaf.size for leaf in jax.tree.leaves(variables["params"]))
    11173962
    >>> create("resnet19")
    Traceback (most recent call last):
    seed_jax.errors.UserError: Unknown model 'resnet19': did you mean 'resnet18'?
    """
    if (ours := f"{str(name).replace('_v3_', 'v3_')}_torchvision") in MODELS and name not in MODELS:
        raise UserError(f"Unknown model {name!r}: torchvision's is {ours!r} here.")
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
