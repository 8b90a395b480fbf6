"""VGG with batch norm for images of 32 and 64 pixels (Simonyan and Zisserman 2015), as the CRD zoo has it.

HobbitLong/RepDistiller, models/vgg.py: `vgg8_bn` and `vgg13_bn`. Convolutions have a bias. One Linear layer
follows the average over the map.

Parameter names: `stem_{i}/` and `block{stage}_{i}/` with `conv, bn`; `fc`.
"""

import functools
from typing import Any

import flax.linen as nn
import jax.numpy as jnp

from seed_jax.models import layers
from seed_jax.models.conv import max_pool

CHANNELS = (64, 128, 256, 512, 512)


class ConvNorm(nn.Module):
    """3x3 convolution with bias, and norm: `[B, H, W, C]` -> `[B, H, W, features]`."""

    features: int
    bn_group: int | None
    dtype: Any

    @nn.compact
    def __call__(self, x, train: bool):
        x = layers.Conv(self.features, 3, use_bias=True, dtype=self.dtype, name="conv")(x)
        return layers.BatchNorm(self.bn_group, dtype=self.dtype, name="bn")(x, train)


class VGG(layers.Architecture):
    """Normalised images `[B, H, W, 3]` -> `stem`, `stage1 .. stage4`, `pooled`, `logits` if `num_classes`.

    `preact1 .. preact4` are the stages before their last ReLU. The maps after the stem and the first two
    stages are halved by max pooling, and after stage 3 too if images have 64 pixels or more (the original
    does so at exactly 64). `pooled` is float32 `[B, 512]`.

    Attributes:
      convs: in the stem and in each stage.
      remat: compute each convolution and norm again in the backward pass instead of keeping the activations.
      bn_group: samples per group of batch statistics (`layers.BatchNorm`).
      dtype: of the convolutions and of the classifier.
    """

    convs: int
    num_classes: int | None = None
    remat: bool = False
    bn_group: int | None = None
    dtype: Any = jnp.float32

    @property
    def stem(self):
        return frozenset(f"stem_{i}" for i in range(self.convs))

    @nn.compact
    def __call__(self, x, train: bool, keys=None):
        pooled = (0, 1, 2, 3) if min(x.shape[1:3]) >= 64 else (0, 1, 2)
        features = {}
        block_class = layers.block_class(ConvNorm, self.remat, train)
        for stage, channels in enumerate(CHANNELS):
            for i in range(self.convs):
                name = f"block{stage}_{i}" if stage else f"stem_{i}"
                preact = block_class(channels, self.bn_group, self.dtype, name=name)(x, train)
                x = nn.relu(preact)
            features |= {f"preact{stage}": preact, f"stage{stage}": x} if stage else {"stem": x}
            if stage in pooled:
                x = max_pool(x, window=2, stride=2)
        features["pooled"] = layers.global_average(x)
        if self.num_classes is not None:
            fc = layers.narrow_linear(self.num_classes, "fc", self.dtype)
            features["logits"] = fc(features["pooled"]).astype(jnp.float32)
        return features

    @nn.nowrap
    def block_names(self):
        return [f"block{stage}_{i}" for stage in (1, 2, 3, 4) for i in range(self.convs)]


vgg8 = functools.partial(VGG, 1)
vgg13 = functools.partial(VGG, 2)
