"""ResNet for images of 32 pixels (He et al. 2016, section 4.2), as the CRD zoo has it.

HobbitLong/RepDistiller, models/resnet.py: depth 6n + 2, three stages of n blocks, 1x1 convolution and norm in
a shortcut that changes the shape (the paper pads with zeros instead). `x4` has four times the channels in the
stages and twice in the stem. Average pooling is global here, not over 8 pixels, so other sizes work too.

Parameter names follow `resnet.py`.
"""

import functools
from typing import Any, ClassVar

import flax.linen as nn
import jax.numpy as jnp

from seed_jax.models import layers


class Block(nn.Module):
    """Two 3x3 convolutions and a skip connection: `[B, H, W, C]` -> the map before the last ReLU."""

    features: int
    stride: int
    bn_group: int | None
    dtype: Any

    @nn.compact
    def __call__(self, x, train: bool):
        conv, norm = layers.conv_and_norm(self, train)
        y = nn.relu(norm("bn1", conv("conv1", x, self.features, 3, self.stride)))
        y = norm("bn2", conv("conv2", y, self.features, 3))
        if x.shape[-1] != self.features or self.stride != 1:
            x = norm("downsample_bn", conv("downsample_conv", x, self.features, 1, self.stride))
        return y + x


class CifarResNet(layers.Architecture):
    """Normalised images `[B, H, W, 3]` -> `stem`, `stage1 .. stage3`, `pooled`, `logits` if `num_classes`.

    `preact1 .. preact3` are the stages before their last ReLU. Stages end at strides 1, 2 and 4. `pooled` is
    float32 `[B, D]`; D is the last of `channels`.

    Attributes:
      depth: of each stage, in blocks.
      channels: of the stem and of each stage.
      remat: compute each block again in the backward pass instead of keeping its activations.
      bn_group: samples per group of batch statistics (`layers.BatchNorm`).
      dtype: of the convolutions and of the classifier.
    """

    depth: int
    channels: tuple[int, ...]
    num_classes: int | None = None
    remat: bool = False
    bn_group: int | None = None
    dtype: Any = jnp.float32

    stem: ClassVar = frozenset({"conv1", "bn1"})

    @nn.compact
    def __call__(self, x, train: bool, keys=None):
        conv, norm = layers.conv_and_norm(self, train)
        x = nn.relu(norm("bn1", conv("conv1", x, self.channels[0], 3)))
        features = {"stem": x}
        block_class = layers.block_class(Block, self.remat, train)
        for stage, channels in enumerate(self.channels[1:], start=1):
            for i in range(self.depth):
                stride = 2 if stage > 1 and i == 0 else 1
                block = block_class(channels, stride, self.bn_group, self.dtype, name=f"layer{stage}_{i}")
                preact = block(x, train)
                x = nn.relu(preact)
            features |= {f"preact{stage}": preact, f"stage{stage}": x}
        features["pooled"] = layers.global_average(x)
        if self.num_classes is not None:
            fc = layers.torch_linear(self.num_classes, x.shape[-1], "fc", self.dtype)
            features["logits"] = fc(features["pooled"]).astype(jnp.float32)
        return features

    @nn.nowrap
    def block_names(self):
        return [f"layer{stage}_{i}" for stage in (1, 2, 3) for i in range(self.depth)]


X1, X4 = (16, 16, 32, 64), (32, 64, 128, 256)
ARCHITECTURES = {
    **{f"cifar_resnet{6 * n + 2}": functools.partial(CifarResNet, n, X1) for n in (1, 2, 3, 5, 7, 9, 18)},
    **{f"cifar_resnet{6 * n + 2}x4": functools.partial(CifarResNet, n, X4) for n in (1, 5)},
}
