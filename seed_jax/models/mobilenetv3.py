"""MobileNetV3 (Howard et al. 2019) in two forms: SEED's, from d-li14/mobilenetv3.pytorch, and torchvision's.

In SEED's form an expanded block applies squeeze-and-excite before the activation, and batch norm has epsilon
1e-5. In torchvision's form (models/mobilenetv3.py) the activation comes first, epsilon is 1e-3 and momentum
0.99 (PyTorch's 0.01). Both have the same parameters, but weights of one do not work in the other. Both take
images of 224 pixels, normalised with ImageNet's mean and std.

Parameter names: `stem_conv`, `stem_bn`; `block{i}`, counted from 1, with `expand_conv, expand_bn,
depthwise_conv, depthwise_bn, se/{reduce,expand}, project_conv, project_bn`; `last_conv`, `last_bn`;
`classifier`, the Linear before `fc`.
"""

import functools
from typing import Any, ClassVar, NamedTuple

import flax.linen as nn
import jax.numpy as jnp

from seed_jax.models import layers


class Block(NamedTuple):
    """One row of the paper's tables 1 and 2; `expand`: hidden channels as a multiple of the input's."""

    kernel: int
    expand: float
    channels: int
    se: bool
    act: str
    stride: int


LARGE = (
    Block(3, 1, 16, False, "relu", 1),
    Block(3, 4, 24, False, "relu", 2),
    Block(3, 3, 24, False, "relu", 1),
    Block(5, 3, 40, True, "relu", 2),
    Block(5, 3, 40, True, "relu", 1),
    Block(5, 3, 40, True, "relu", 1),
    Block(3, 6, 80, False, "h_swish", 2),
    Block(3, 2.5, 80, False, "h_swish", 1),
    Block(3, 2.3, 80, False, "h_swish", 1),
    Block(3, 2.3, 80, False, "h_swish", 1),
    Block(3, 6, 112, True, "h_swish", 1),
    Block(3, 6, 112, True, "h_swish", 1),
    Block(5, 6, 160, True, "h_swish", 2),
    Block(5, 6, 160, True, "h_swish", 1),
    Block(5, 6, 160, True, "h_swish", 1),
)

SMALL = (
    Block(3, 1, 16, True, "relu", 2),
    Block(3, 4.5, 24, False, "relu", 2),
    Block(3, 3.67, 24, False, "relu", 1),
    Block(5, 4, 40, True, "h_swish", 2),
    Block(5, 6, 40, True, "h_swish", 1),
    Block(5, 6, 40, True, "h_swish", 1),
    Block(5, 3, 48, True, "h_swish", 1),
    Block(5, 3, 48, True, "h_swish", 1),
    Block(5, 6, 96, True, "h_swish", 2),
    Block(5, 6, 96, True, "h_swish", 1),
    Block(5, 6, 96, True, "h_swish", 1),
)

ACTIVATIONS = {"relu": nn.relu, "h_swish": layers.h_swish}


class InvertedResidual(nn.Module):
    """Expand (unless the input has `hidden` channels), depthwise, squeeze-and-excite, project.

    There is a skip connection if input and output have the same shape. `se`: whether there is
    squeeze-and-excite. `se_last`: whether it comes after the activation.
    """

    hidden: int
    features: int
    kernel: int
    stride: int
    se: bool
    se_last: bool
    act: str
    norm: Any
    dtype: Any

    @nn.compact
    def __call__(self, x, train: bool):
        conv, norm = _conv_and_norm(self, self.norm, train)
        act = ACTIVATIONS[self.act]
        squeeze_excite = _identity
        if self.se:
            squeezed = layers.make_divisible(self.hidden // 4)
            squeeze_excite = layers.SqueezeExcite(squeezed, self.dtype, name="se")
        expanded = x.shape[-1] != self.hidden
        y = x
        if expanded:
            y = act(norm("expand_bn", conv("expand_conv", y, self.hidden, 1)))
        y = conv("depthwise_conv", y, self.hidden, self.kernel, self.stride, depthwise=True)
        y = norm("depthwise_bn", y)
        y = act(squeeze_excite(y)) if expanded and not self.se_last else squeeze_excite(act(y))
        y = norm("project_bn", conv("project_conv", y, self.features, 1))
        return x + y if self.stride == 1 and x.shape[-1] == self.features else y


class MobileNetV3(layers.Architecture):
    """Normalised images `[B, H, W, 3]` -> `stem`, `stage1 .. stage4`, `pooled`, `logits` if `num_classes`.

    Each of the four blocks of stride 2 begins a stage, so stages end at strides 4, 8, 16 and 32. `stage4` is
    the output of the last 1x1 convolution. `pooled`, float32 `[B, D]`, is the representation that SEED's
    authors probe: average over the map, Linear to `pooled_features`, h_swish, dropout (in train mode).

    Attributes:
      blocks: `LARGE` or `SMALL`.
      pooled_features: D at `width=1`.
      se_last: squeeze-and-excite after the activation, which is torchvision's form.
      width: factor on the channels, rounded to multiples of 8, as in d-li14. A factor above 1 also enlarges
        `pooled_features`; a factor below 1 does not shrink them.
      small_stem: stride 1 in the stem and in the first block of stride 2, for images of 16 to 64 pixels. The
        total stride is then 8 and not 32.
      dropout: rate before the classifier.
      remat: compute each block again in the backward pass instead of keeping its activations.
      bn_epsilon, bn_momentum, bn_group: see `layers.BatchNorm`.
      dtype: of the convolutions and Linear layers.
    """

    blocks: tuple[Block, ...]
    pooled_features: int
    se_last: bool
    num_classes: int | None = None
    width: float = 1.0
    small_stem: bool = False
    dropout: float = 0.2
    remat: bool = False
    bn_epsilon: float = 1e-5
    bn_momentum: float = 0.9
    bn_group: int | None = None
    dtype: Any = jnp.float32

    stem: ClassVar = frozenset({"stem_conv", "stem_bn"})

    @nn.compact
    def __call__(self, x, train: bool, keys=None):
        batch_norm = functools.partial(
            layers.BatchNorm, self.bn_group, self.bn_momentum, self.bn_epsilon, dtype=self.dtype
        )
        conv, norm = _conv_and_norm(self, batch_norm, train)
        stem_stride = 1 if self.small_stem else 2
        x = conv("stem_conv", x, layers.make_divisible(16 * self.width), 3, stem_stride)
        x = layers.h_swish(norm("stem_bn", x))
        features = {"stem": x}
        stage = 0
        block_class = layers.block_class(InvertedResidual, self.remat, train)
        for i, block in enumerate(self.blocks, start=1):
            stage += block.stride == 2
            hidden = layers.make_divisible(x.shape[-1] * block.expand)
            x = block_class(
                hidden=hidden,
                features=layers.make_divisible(block.channels * self.width),
                kernel=block.kernel,
                stride=1 if self.small_stem and stage == 1 else block.stride,
                se=block.se,
                se_last=self.se_last,
                act=block.act,
                norm=batch_norm,
                dtype=self.dtype,
                name=f"block{i}",
            )(x, train)
            if stage:
                features[f"stage{stage}"] = x
        x = layers.h_swish(norm("last_bn", conv("last_conv", x, hidden, 1)))
        features["stage4"] = x
        x = layers.global_average(x)
        pooled_features = layers.make_divisible(self.pooled_features * max(self.width, 1.0))
        x = layers.h_swish(layers.narrow_linear(pooled_features, "classifier", self.dtype)(x))
        x = layers.Dropout(self.dropout, name="dropout")(x.astype(jnp.float32), train, keys)
        features["pooled"] = x
        if self.num_classes is not None:
            fc = layers.narrow_linear(self.num_classes, "fc", self.dtype)
            features["logits"] = fc(x).astype(jnp.float32)
        return features

    @nn.nowrap
    def block_names(self):
        return [f"block{i}" for i in range(1, len(self.blocks) + 1)]


def _conv_and_norm(module, batch_norm, train):
    def conv(name, x, features, kernel, stride=1, depthwise=False):
        return layers.Conv(features, kernel, stride, depthwise, dtype=module.dtype, name=name)(x)

    def norm(name, x):
        return batch_norm(name=name)(x, train)

    return conv, norm


def _identity(x):
    return x


mobilenetv3_large = functools.partial(MobileNetV3, LARGE, 1280, False)
mobilenetv3_small = functools.partial(MobileNetV3, SMALL, 1024, False)
mobilenetv3_large_torchvision = functools.partial(
    MobileNetV3, LARGE, 1280, True, bn_epsilon=1e-3, bn_momentum=0.99
)
mobilenetv3_small_torchvision = functools.partial(
    MobileNetV3, SMALL, 1024, True, bn_epsilon=1e-3, bn_momentum=0.99
)
