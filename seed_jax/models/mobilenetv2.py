"""MobileNetV2 for images of 32 pixels (Sandler et al. 2018), as the CRD zoo has it.

HobbitLong/RepDistiller, models/mobilenetv2.py: `mobile_half`. It differs from the paper's network: the second
row has stride 1, the activation is ReLU and not ReLU6, the block that expands by 1 still has its first 1x1
convolution, and channels are cut down to an integer, not rounded to a multiple of 8. Average pooling is
global here, not over 2 pixels, so other sizes work too.

Parameter names: `stem_conv`, `stem_bn`; `block{row}_{i}/` with `expand_conv, expand_bn, depthwise_conv,
depthwise_bn, project_conv, project_bn`; `last_conv`, `last_bn`; `fc`.
"""

import functools
from typing import Any, ClassVar, NamedTuple

import flax.linen as nn
import jax.numpy as jnp

from seed_jax.models import layers


class Row(NamedTuple):
    """One row of the paper's table 2; `stage`: which one ends here, 0 for none."""

    expand: int
    channels: int
    blocks: int
    stride: int
    stage: int


ROWS = (
    Row(1, 16, 1, 1, 0),
    Row(6, 24, 2, 1, 1),
    Row(6, 32, 3, 2, 2),
    Row(6, 64, 4, 2, 0),
    Row(6, 96, 3, 1, 3),
    Row(6, 160, 3, 2, 0),
    Row(6, 320, 1, 1, 4),
)


class InvertedResidual(nn.Module):
    """Expand, depthwise, project: `[B, H, W, C]` -> `[B, H', W', features]`.

    There is a skip connection if input and output have the same shape.
    """

    expand: int
    features: int
    stride: int
    bn_group: int | None
    dtype: Any

    @nn.compact
    def __call__(self, x, train: bool):
        conv, norm = layers.conv_and_norm(self, train)
        hidden = self.expand * x.shape[-1]
        y = nn.relu(norm("expand_bn", conv("expand_conv", x, hidden, 1)))
        y = conv("depthwise_conv", y, hidden, 3, self.stride, depthwise=True)
        y = nn.relu(norm("depthwise_bn", y))
        y = norm("project_bn", conv("project_conv", y, self.features, 1))
        return x + y if self.stride == 1 and x.shape[-1] == self.features else y


class MobileNetV2(layers.Architecture):
    """Normalised images `[B, H, W, 3]` -> `stem`, `stage1 .. stage4`, `pooled`, `logits` if `num_classes`.

    Stages end at strides 2, 4, 8 and 16, without a ReLU. `pooled`, float32 `[B, 1280]` (wider above a `width`
    of 1), is the average after one more 1x1 convolution.

    Attributes:
      width: factor on the channels.
      remat: compute each block again in the backward pass instead of keeping its activations.
      bn_group: samples per group of batch statistics (`layers.BatchNorm`).
      dtype: of the convolutions and of the classifier.
    """

    num_classes: int | None = None
    width: float = 1.0
    remat: bool = False
    bn_group: int | None = None
    dtype: Any = jnp.float32

    stem: ClassVar = frozenset({"stem_conv", "stem_bn"})

    @nn.compact
    def __call__(self, x, train: bool, keys=None):
        conv, norm = layers.conv_and_norm(self, train)
        x = nn.relu(norm("stem_bn", conv("stem_conv", x, int(32 * self.width), 3, 2)))
        features = {"stem": x}
        block_class = layers.block_class(InvertedResidual, self.remat, train)
        for number, row in enumerate(ROWS, start=1):
            for i in range(row.blocks):
                x = block_class(
                    row.expand,
                    int(row.channels * self.width),
                    row.stride if i == 0 else 1,
                    self.bn_group,
                    self.dtype,
                    name=f"block{number}_{i}",
                )(x, train)
            if row.stage:
                features[f"stage{row.stage}"] = x
        last = int(1280 * max(self.width, 1.0))
        features["pooled"] = layers.global_average(nn.relu(norm("last_bn", conv("last_conv", x, last, 1))))
        if self.num_classes is not None:
            fc = layers.narrow_linear(self.num_classes, "fc", self.dtype)
            features["logits"] = fc(features["pooled"]).astype(jnp.float32)
        return features

    @nn.nowrap
    def block_names(self):
        return [f"block{number}_{i}" for number, row in enumerate(ROWS, start=1) for i in range(row.blocks)]


mobilenetv2_half = functools.partial(MobileNetV2, width=0.5)
