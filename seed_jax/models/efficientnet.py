"""EfficientNet B0 to B3 (Tan and Le 2019) and EfficientNet-Lite, in the forms whose weights are published.

`efficientnet_b0` .. `b3`: lukemelas/EfficientNet-PyTorch, which SEED uses. Padding is TensorFlow's SAME,
computed for the variant's nominal image size (224, 240, 260, 300 pixels) at every image size. Batch norm has
epsilon 1e-3 and momentum 0.99 (PyTorch's 0.01). Images are normalised with ImageNet's mean and std.

`efficientnet_b0_torchvision` .. `b3`: torchvision's models/efficientnet.py. Padding is symmetric, epsilon
1e-5, momentum 0.9 (PyTorch's 0.1). Images have 224, 240, 288 and 300 pixels and ImageNet's mean and std.

`efficientnet_lite0`, `lite2`: package efficientnet_lite_pytorch 0.1.0. These networks are as in
lukemelas, for 224 and 260 pixels, but with ReLU6 for swish and without squeeze-and-excite; stem, head and the
repeats of the first and last stage are not scaled. The package's README shows ImageNet's mean and
std for its parent's networks and states none for these. The weights come from tensorflow/tpu,
models/official/efficientnet/lite/efficientnet_lite_builder.py, which has mean 127 and std 128 of 255:
`LITE_MEAN` and `LITE_STD`.

Parameter names: `stem_conv`, `stem_bn`; `block{stage}_{i}`, stages counted from 1 and blocks from 0, with
`expand_conv, expand_bn, depthwise_conv, depthwise_bn, se/{reduce,expand}, project_conv, project_bn`;
`head_conv`, `head_bn`; `fc`.
"""

import functools
import math
from typing import Any, ClassVar, NamedTuple

import flax.linen as nn
import jax.numpy as jnp

from seed_jax.models import layers

LITE_MEAN = (127 / 255,) * 3
LITE_STD = (128 / 255,) * 3


class Stage(NamedTuple):
    """One row of the paper's table 1, before scaling. `stride` is of the first block; the others have 1."""

    repeats: int
    kernel: int
    stride: int
    expand: int
    channels: int


STAGES = (
    Stage(1, 3, 1, 1, 16),
    Stage(2, 3, 2, 6, 24),
    Stage(2, 5, 2, 6, 40),
    Stage(3, 3, 2, 6, 80),
    Stage(3, 5, 1, 6, 112),
    Stage(4, 5, 2, 6, 192),
    Stage(1, 3, 1, 6, 320),
)


class SqueezeExcite(nn.Module):
    """Scale channels by gates: average over the map, Linear to `hidden`, swish, Linear back, sigmoid."""

    hidden: int
    dtype: Any

    @nn.compact
    def __call__(self, x):
        channels = x.shape[-1]
        gate = layers.global_average(x).astype(self.dtype)
        gate = nn.silu(layers.torch_linear(self.hidden, channels, "reduce", self.dtype)(gate))
        gate = nn.sigmoid(layers.torch_linear(channels, self.hidden, "expand", self.dtype)(gate))
        return x * gate[:, None, None, :]


class MBConv(nn.Module):
    """Expand (unless `expand` is 1), depthwise, squeeze-and-excite, project.

    There is a skip connection, with stochastic depth, if input and output have the same shape.
    """

    features: int
    kernel: int
    stride: int
    pad: tuple[int, int] | None
    expand: int
    se: bool
    act: Any
    drop_path: float
    norm: Any
    dtype: Any

    @nn.compact
    def __call__(self, x, train: bool, keys):
        conv, norm = _conv_and_norm(self, self.norm, train)
        inputs = x.shape[-1]
        y = x
        if self.expand > 1:
            y = self.act(norm("expand_bn", conv("expand_conv", y, inputs * self.expand, 1)))
        y = conv("depthwise_conv", y, y.shape[-1], self.kernel, self.stride, depthwise=True, pad=self.pad)
        y = self.act(norm("depthwise_bn", y))
        if self.se:
            y = SqueezeExcite(inputs // 4, self.dtype, name="se")(y)
        y = norm("project_bn", conv("project_conv", y, self.features, 1))
        if self.stride > 1 or inputs != self.features:
            return y
        return x + layers.DropPath(self.drop_path, name="drop_path")(y, train, keys)


class EfficientNet(layers.Architecture):
    """Normalised images `[B, H, W, 3]` -> `stem`, `stage1 .. stage4`, `pooled`, `logits` if `num_classes`.

    Each block of stride 2 begins a stage, so stages end at strides 4, 8, 16 and 32. `stage4` is the output of
    the head convolution (1280 channels; B2 1408, B3 1536). `pooled`, float32 `[B, D]`, is its average after
    dropout (in train mode), as the authors' classifier gets it. Parameters start with PyTorch's default
    initialisation, as in lukemelas.

    Attributes:
      width, depth: the paper's factors on channels and on repeats.
      size: side in pixels for which TensorFlow's padding is computed; None for symmetric padding.
      lite: the Lite form.
      small_stem: stride 1 in the stem and in the first block of stride 2, for images of 16 to 64 pixels. The
        total stride is then 8 and not 32.
      dropout: rate before the classifier.
      drop_path: stochastic depth; block i of n, counted from 0, has rate `drop_path * i / n`.
      remat: compute each block again in the backward pass instead of keeping its activations.
      bn_epsilon, bn_momentum, bn_group: see `layers.BatchNorm`.
      dtype: of the convolutions and Linear layers.

    Raises:
      UserError: images are so small that no pixel of a map is left.
    """

    width: float
    depth: float
    size: int | None
    lite: bool
    num_classes: int | None = None
    small_stem: bool = False
    dropout: float = 0.2
    drop_path: float = 0.2
    remat: bool = False
    bn_epsilon: float = 1e-3
    bn_momentum: float = 0.99
    bn_group: int | None = None
    dtype: Any = jnp.float32

    stem: ClassVar = frozenset({"stem_conv", "stem_bn"})

    @nn.compact
    def __call__(self, x, train: bool, keys=None):
        batch_norm = functools.partial(
            layers.BatchNorm, self.bn_group, self.bn_momentum, self.bn_epsilon, dtype=self.dtype
        )
        conv, norm = _conv_and_norm(self, batch_norm, train)
        act = nn.relu6 if self.lite else nn.silu
        outer_width = 1.0 if self.lite else self.width
        repeats = self._repeats()

        stride, size = (1 if self.small_stem else 2), self.size
        pad, size = static_same(size, 3, stride)
        x = conv("stem_conv", x, layers.make_divisible(32 * outer_width), 3, stride, pad=pad)
        x = act(norm("stem_bn", x))
        features = {"stem": x}
        stage, index = 0, 0
        block_class = layers.block_class(MBConv, self.remat, train)
        for number, row in enumerate(STAGES, start=1):
            stage += row.stride == 2
            for i in range(repeats[number - 1]):
                stride = 1 if i > 0 or (self.small_stem and stage == 1) else row.stride
                pad, size = static_same(size, row.kernel, stride)
                x = block_class(
                    features=layers.make_divisible(row.channels * self.width),
                    kernel=row.kernel,
                    stride=stride,
                    pad=pad,
                    expand=row.expand,
                    se=not self.lite,
                    act=act,
                    drop_path=self.drop_path * index / sum(repeats),
                    norm=batch_norm,
                    dtype=self.dtype,
                    name=f"block{number}_{i}",
                )(x, train, keys)
                index += 1
            if stage:
                features[f"stage{stage}"] = x
        x = act(norm("head_bn", conv("head_conv", x, layers.make_divisible(1280 * outer_width), 1)))
        features["stage4"] = x
        x = layers.global_average(x)
        x = layers.Dropout(self.dropout, name="dropout")(x, train, keys)
        features["pooled"] = x
        if self.num_classes is not None:
            fc = layers.torch_linear(self.num_classes, x.shape[-1], "fc", self.dtype)
            features["logits"] = fc(x).astype(jnp.float32)
        return features

    @nn.nowrap
    def block_names(self):
        return [f"block{stage}_{i}" for stage, n in enumerate(self._repeats(), start=1) for i in range(n)]

    @nn.nowrap
    def _repeats(self):
        scaled = [math.ceil(self.depth * stage.repeats) for stage in STAGES]
        return [1, *scaled[1:-1], 1] if self.lite else scaled


def static_same(size: int | None, kernel: int, stride: int) -> tuple[tuple[int, int] | None, int | None]:
    """TensorFlow's SAME padding of an axis of length `size`: zeros (before, after), length of the output.

    (None, None) if `size` is None, which stands for symmetric padding.

    >>> static_same(224, kernel=3, stride=2)
    ((0, 1), 112)
    """
    if size is None:
        return None, None
    output = -(-size // stride)
    total = max((output - 1) * stride + kernel - size, 0)
    return (total // 2, total - total // 2), output


def _conv_and_norm(module, batch_norm, train):
    def conv(name, x, features, kernel, stride=1, depthwise=False, pad=None):
        init, dtype = layers.torch_conv_init, module.dtype
        return layers.Conv(features, kernel, stride, depthwise, pad, init, dtype, name=name)(x)

    def norm(name, x):
        return batch_norm(name=name)(x, train)

    return conv, norm


TORCHVISION = {"bn_epsilon": 1e-5, "bn_momentum": 0.9}

ARCHITECTURES = {
    "efficientnet_b0": functools.partial(EfficientNet, 1.0, 1.0, 224, False),
    "efficientnet_b1": functools.partial(EfficientNet, 1.0, 1.1, 240, False),
    "efficientnet_b2": functools.partial(EfficientNet, 1.1, 1.2, 260, False, dropout=0.3),
    "efficientnet_b3": functools.partial(EfficientNet, 1.2, 1.4, 300, False, dropout=0.3),
    "efficientnet_b0_torchvision": functools.partial(EfficientNet, 1.0, 1.0, None, False, **TORCHVISION),
    "efficientnet_b1_torchvision": functools.partial(EfficientNet, 1.0, 1.1, None, False, **TORCHVISION),
    "efficientnet_b2_torchvision": functools.partial(
        EfficientNet, 1.1, 1.2, None, False, dropout=0.3, **TORCHVISION
    ),
    "efficientnet_b3_torchvision": functools.partial(
        EfficientNet, 1.2, 1.4, None, False, dropout=0.3, **TORCHVISION
    ),
    "efficientnet_lite0": functools.partial(EfficientNet, 1.0, 1.0, 224, True),
    "efficientnet_lite2": functools.partial(EfficientNet, 1.1, 1.2, 260, True, dropout=0.3),
}
