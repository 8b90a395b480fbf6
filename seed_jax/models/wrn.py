"""Wide ResNet for images of 32 pixels (Zagoruyko and Komodakis 2016), as the CRD zoo has it.

HobbitLong/RepDistiller, models/wrn.py. `wrn_40_2` has depth 40 = 6n + 4, so n = 6 blocks in each of its three
stages, and twice the channels. Norm and ReLU come before the convolutions. A block that changes the number of
channels gives relu(bn1(x)) to its shortcut too, which is a 1x1 convolution without a norm. Average pooling is
global here, not over 8 pixels, so other sizes work too.

Parameter names: `conv1`; `block{stage}_{i}/` with `bn1, conv1, bn2, conv2, shortcut_conv`; `last_bn`; `fc`.
"""

import functools
from typing import Any, ClassVar

import flax.linen as nn
import jax.numpy as jnp

from seed_jax.models import layers


class Block(nn.Module):
    """Norm, ReLU, 3x3 convolution, twice; a skip connection: `[B, H, W, C]` -> `[B, H', W', features]`.

    Also returns bn1(x), `[B, H, W, C]`.
    """

    features: int
    stride: int
    bn_group: int | None
    dtype: Any

    @nn.compact
    def __call__(self, x, train: bool):
        conv, norm = layers.conv_and_norm(self, train)
        normed = norm("bn1", x)
        y = nn.relu(normed)
        if x.shape[-1] != self.features:
            x = conv("shortcut_conv", y, self.features, 1, self.stride)
        y = nn.relu(norm("bn2", conv("conv1", y, self.features, 3, self.stride)))
        return x + conv("conv2", y, self.features, 3), normed


class WideResNet(layers.Architecture):
    """Normalised images `[B, H, W, 3]` -> `stem`, `stage1 .. stage3`, `pooled`, `logits` if `num_classes`.

    `stem` is the output of a convolution and the stages are sums, so they have negative values; `preact1 ..
    preact3` are the stages after the norm that comes next, before its ReLU. Stages end at strides 1, 2 and 4.
    `pooled`, float32 `[B, 64 * widen]`, is the average of relu(`preact3`).

    Attributes:
      depth: of each stage, in blocks.
      widen: factor on the channels 16, 32, 64 of the stages.
      remat: compute each block again in the backward pass instead of keeping its activations.
      bn_group: samples per group of batch statistics (`layers.BatchNorm`).
      dtype: of the convolutions and of the classifier.
    """

    depth: int
    widen: int
    num_classes: int | None = None
    remat: bool = False
    bn_group: int | None = None
    dtype: Any = jnp.float32

    stem: ClassVar = frozenset({"conv1"})

    @nn.compact
    def __call__(self, x, train: bool, keys=None):
        conv, norm = layers.conv_and_norm(self, train)
        x = conv("conv1", x, 16, 3)
        features = {"stem": x}
        block_class = layers.block_class(Block, self.remat, train)
        for stage in (1, 2, 3):
            channels = 8 * 2**stage * self.widen
            for i in range(self.depth):
                stride = 2 if stage > 1 and i == 0 else 1
                block = block_class(channels, stride, self.bn_group, self.dtype, name=f"block{stage}_{i}")
                x, normed = block(x, train)
                if stage > 1 and i == 0:
                    features[f"preact{stage - 1}"] = normed
            features[f"stage{stage}"] = x
        features["preact3"] = norm("last_bn", x)
        features["pooled"] = layers.global_average(nn.relu(features["preact3"]))
        if self.num_classes is not None:
            # PyTorch's initial weights, but a bias of 0.
            fc = nn.Dense(self.num_classes, dtype=self.dtype, kernel_init=layers.torch_conv_init, name="fc")
            features["logits"] = fc(features["pooled"]).astype(jnp.float32)
        return features

    @nn.nowrap
    def block_names(self):
        return [f"block{stage}_{i}" for stage in (1, 2, 3) for i in range(self.depth)]


ARCHITECTURES = {
    f"wrn_{6 * n + 4}_{widen}": functools.partial(WideResNet, n, widen) for n in (2, 6) for widen in (1, 2)
}
