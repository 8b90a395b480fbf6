"""ShuffleNet V1 (Zhang et al. 2018) and V2 (Ma et al. 2018) for images of 32 pixels, as the CRD zoo has them.

HobbitLong/RepDistiller, models/ShuffleNetv1.py (3 groups) and models/ShuffleNetv2.py (size 1). Both differ
from the papers in the stem, which is a 1x1 convolution of stride 1 without max pooling. Average pooling is
global here, not over 4 pixels, so other sizes work too.

Parameter names follow the original's: `conv1`, `bn1`; `layer{stage}_{i}/` with `conv{j}, bn{j}`; in V2 also
`conv2`, `bn2` after the stages; `fc` for `linear`.
"""

from typing import Any, ClassVar

import flax.linen as nn
import jax.numpy as jnp

from seed_jax.models import layers
from seed_jax.models.conv import depthwise_conv

GROUPS = 3


class BlockV1(nn.Module):
    """Grouped 1x1, shuffle, depthwise 3x3, grouped 1x1: `[B, H, W, C]` -> `[B, H', W', features]`.

    With stride 2 the input, average-pooled, becomes the last channels of the output; else it is added. Its
    first convolution is not grouped if `grouped` is false (in the block that reads the stem).
    """

    features: int
    stride: int
    grouped: bool
    bn_group: int | None
    dtype: Any

    @nn.compact
    def __call__(self, x, train: bool):
        conv, norm = _conv_and_norm(self, train)
        made = self.features - (x.shape[-1] if self.stride == 2 else 0)
        groups = GROUPS if self.grouped else 1
        y = nn.relu(norm("bn1", conv("conv1", x, made // 4, groups=groups)))
        y = norm("bn2", conv("conv2", shuffle(y, groups), made // 4, 3, self.stride, depthwise=True))
        y = norm("bn3", conv("conv3", nn.relu(y), made, groups=GROUPS))
        if self.stride == 1:
            return nn.relu(y + x)
        # The average over 3 x 3 pixels, of which the zeros of the padding count, as in PyTorch.
        x = depthwise_conv(x, jnp.full((3, 3, 1, x.shape[-1]), 1 / 9, x.dtype), stride=2)
        return nn.relu(jnp.concatenate([y, x], axis=-1))


class BlockV2(nn.Module):
    """Keep the first half of the channels, transform the second, shuffle the two: the shape stays."""

    bn_group: int | None
    dtype: Any

    @nn.compact
    def __call__(self, x, train: bool):
        conv, norm = _conv_and_norm(self, train)
        kept, y = jnp.split(x, 2, axis=-1)
        y = nn.relu(norm("bn1", conv("conv1", y, y.shape[-1])))
        y = norm("bn2", conv("conv2", y, y.shape[-1], 3, depthwise=True))
        y = nn.relu(norm("bn3", conv("conv3", y, y.shape[-1])))
        return shuffle(jnp.concatenate([kept, y], axis=-1), 2)


class DownV2(nn.Module):
    """Transform all channels twice with stride 2, shuffle: `[B, H, W, C]` -> `[B, H', W', features]`."""

    features: int
    bn_group: int | None
    dtype: Any

    @nn.compact
    def __call__(self, x, train: bool):
        conv, norm = _conv_and_norm(self, train)
        half = self.features // 2
        left = norm("bn1", conv("conv1", x, x.shape[-1], 3, 2, depthwise=True))
        left = nn.relu(norm("bn2", conv("conv2", left, half)))
        right = nn.relu(norm("bn3", conv("conv3", x, half)))
        right = norm("bn4", conv("conv4", right, half, 3, 2, depthwise=True))
        right = nn.relu(norm("bn5", conv("conv5", right, half)))
        return shuffle(jnp.concatenate([left, right], axis=-1), 2)


class ShuffleNet(layers.Architecture):
    """What V1 and V2 share: stem, three stages, global average, classifier."""

    num_classes: int | None = None
    remat: bool = False
    bn_group: int | None = None
    dtype: Any = jnp.float32

    stem: ClassVar = frozenset({"conv1", "bn1"})
    blocks: ClassVar = (4, 8, 4)

    @nn.compact
    def __call__(self, x, train: bool, keys=None):
        conv, norm = _conv_and_norm(self, train)
        x = nn.relu(norm("bn1", conv("conv1", x, 24)))
        features = {"stem": x}
        for stage, count in enumerate(self.blocks, start=1):
            for i in range(count):
                x = self.block(stage, i, train)(x, train)
            features[f"stage{stage}"] = x
        features["pooled"] = layers.global_average(self.end(x, conv, norm))
        if self.num_classes is not None:
            fc = layers.torch_linear(self.num_classes, features["pooled"].shape[-1], "fc", self.dtype)
            features["logits"] = fc(features["pooled"]).astype(jnp.float32)
        return features

    @nn.nowrap
    def block(self, stage, i, train):
        """Block `i` of a stage, both as they are counted in names."""
        raise NotImplementedError

    @nn.nowrap
    def end(self, x, conv, norm):
        """What comes between the last stage and the average."""
        return x

    @nn.nowrap
    def block_names(self):
        return [f"layer{stage}_{i}" for stage, n in enumerate(self.blocks, start=1) for i in range(n)]


class ShuffleNetV1(ShuffleNet):
    """Normalised images `[B, H, W, 3]` -> `stem`, `stage1 .. stage3`, `pooled`, `logits` if `num_classes`.

    Stages end at strides 2, 4 and 8. `pooled` is float32 `[B, 960]`.

    Attributes:
      remat: compute each block again in the backward pass instead of keeping its activations.
      bn_group: samples per group of batch statistics (`layers.BatchNorm`).
      dtype: of the convolutions and of the classifier.
    """

    @nn.nowrap
    def block(self, stage, i, train):
        block_class = layers.block_class(BlockV1, self.remat, train)
        return block_class(
            features=120 * 2**stage,
            stride=2 if i == 0 else 1,
            grouped=(stage, i) != (1, 0),
            bn_group=self.bn_group,
            dtype=self.dtype,
            name=f"layer{stage}_{i}",
        )


class ShuffleNetV2(ShuffleNet):
    """As `ShuffleNetV1`, but `pooled`, `[B, 1024]`, is the average after one more 1x1 convolution."""

    @nn.nowrap
    def block(self, stage, i, train):
        settings = {"bn_group": self.bn_group, "dtype": self.dtype, "name": f"layer{stage}_{i}"}
        if i == 0:
            return layers.block_class(DownV2, self.remat, train)(58 * 2**stage, **settings)
        return layers.block_class(BlockV2, self.remat, train)(**settings)

    @nn.nowrap
    def end(self, x, conv, norm):
        return nn.relu(norm("bn2", conv("conv2", x, 1024)))


def shuffle(x, groups: int):
    """Channel j of group i, of `[..., C]`, becomes channel i of group j."""
    x = x.reshape(*x.shape[:-1], groups, x.shape[-1] // groups)
    return x.swapaxes(-1, -2).reshape(*x.shape[:-2], -1)


def _conv_and_norm(module, train):
    def conv(name, x, features, kernel=1, stride=1, depthwise=False, groups=1):
        return layers.Conv(
            features,
            kernel,
            stride,
            depthwise,
            kernel_init=layers.torch_conv_init,
            dtype=module.dtype,
            groups=groups,
            name=name,
        )(x)

    def norm(name, x):
        return layers.BatchNorm(module.bn_group, dtype=module.dtype, name=name)(x, train)

    return conv, norm
