"""ResNet v1.5 with torchvision's layout (He et al. 2016; the 3x3 convolution of a bottleneck has the stride).

Parameter names follow torchvision's: `conv1`, `bn1`, `layer1_0/conv1` for `layer1.0.conv1`, `downsample_conv`
and `downsample_bn` for `downsample.0` and `downsample.1`, `fc`.
"""

import functools
from typing import Any, ClassVar

import flax.linen as nn
import jax.numpy as jnp

from seed_jax.models import layers
from seed_jax.models.conv import max_pool


class BasicBlock(nn.Module):
    """Two 3x3 convolutions and a skip connection: `[B, H, W, C]` -> `[B, H', W', features]`."""

    expansion = 1

    features: int
    stride: int
    bn_group: int | None
    dtype: Any

    @nn.compact
    def __call__(self, x, train: bool):
        conv, norm = layers.conv_and_norm(self, train)
        y = nn.relu(norm("bn1", conv("conv1", x, self.features, 3, self.stride)))
        y = norm("bn2", conv("conv2", y, self.features, 3))
        return nn.relu(y + _shortcut(conv, norm, x, self.features, self.stride))


class Bottleneck(nn.Module):
    """1x1, 3x3, 1x1 convolutions and a skip connection: `[B, H, W, C]` -> `[B, H', W', 4 * features]`."""

    expansion = 4

    features: int
    stride: int
    bn_group: int | None
    dtype: Any

    @nn.compact
    def __call__(self, x, train: bool):
        conv, norm = layers.conv_and_norm(self, train)
        y = nn.relu(norm("bn1", conv("conv1", x, self.features, 1)))
        y = nn.relu(norm("bn2", conv("conv2", y, self.features, 3, self.stride)))
        y = norm("bn3", conv("conv3", y, self.features * self.expansion, 1))
        return nn.relu(y + _shortcut(conv, norm, x, self.features * self.expansion, self.stride))


class ResNet(layers.Architecture):
    """Normalised images `[B, H, W, 3]` -> `stem`, `stage1 .. stage4`, `pooled`, `logits` if `num_classes`.

    `stem` is the map before max pooling. `pooled` is float32 `[B, D]`; D is 512 with BasicBlock and 2048 with
    Bottleneck, times `width`. The published weights take images of 224 pixels. Torchvision, MoCo and SEED
    normalise them with ImageNet's mean and std, SwAV with a std of 0.228 in red, SimCLR not at all.

    Attributes:
      block: `BasicBlock` or `Bottleneck`.
      depths: number of blocks in each stage.
      width: factor on the channels of the stem and of every stage, as in SwAV and SimCLR; the base of 64 is
        rounded to a multiple of 8.
      small_stem: a stem of 3x3, stride 1, without max pooling, for small images (SimCLR's CIFAR variant). The
        total stride is then 8 and not 32.
      remat: compute each block again in the backward pass instead of keeping its activations.
      bn_group: samples per group of batch statistics (`layers.BatchNorm`).
      dtype: of the convolutions and of the classifier.
    """

    block: Any
    depths: tuple[int, ...]
    num_classes: int | None = None
    width: float = 1.0
    small_stem: bool = False
    remat: bool = False
    bn_group: int | None = None
    dtype: Any = jnp.float32

    stem: ClassVar = frozenset({"conv1", "bn1"})

    @nn.compact
    def __call__(self, x, train: bool, keys=None):
        conv, norm = layers.conv_and_norm(self, train)
        base = layers.make_divisible(64 * self.width)
        kernel, stride = (3, 1) if self.small_stem else (7, 2)
        x = nn.relu(norm("bn1", conv("conv1", x, base, kernel, stride)))
        features = {"stem": x}
        if not self.small_stem:
            x = max_pool(x, window=3, stride=2)
        block_class = layers.block_class(self.block, self.remat, train)
        for stage, depth in enumerate(self.depths):
            for i in range(depth):
                stride = 2 if stage > 0 and i == 0 else 1
                block = block_class(
                    base * 2**stage, stride, self.bn_group, self.dtype, name=f"layer{stage + 1}_{i}"
                )
                x = block(x, train)
            features[f"stage{stage + 1}"] = x
        features["pooled"] = layers.global_average(x)
        if self.num_classes is not None:
            fc = layers.torch_linear(self.num_classes, x.shape[-1], "fc", self.dtype)
            features["logits"] = fc(features["pooled"]).astype(jnp.float32)
        return features

    @nn.nowrap
    def block_names(self):
        return [f"layer{stage}_{i}" for stage, depth in enumerate(self.depths, start=1) for i in range(depth)]


def _shortcut(conv, norm, x, features, stride):
    if x.shape[-1] == features and stride == 1:
        return x
    return norm("downsample_bn", conv("downsample_conv", x, features, 1, stride))


resnet18 = functools.partial(ResNet, BasicBlock, (2, 2, 2, 2))
resnet34 = functools.partial(ResNet, BasicBlock, (3, 4, 6, 3))
resnet50 = functools.partial(ResNet, Bottleneck, (3, 4, 6, 3))
resnet101 = functools.partial(ResNet, Bottleneck, (3, 4, 23, 3))
resnet152 = functools.partial(ResNet, Bottleneck, (3, 8, 36, 3))
