"""Exits: parts that classify after a stage of the backbone, so that a network can answer early.

"Be Your Own Teacher" (Zhang et al., ICCV 2019, arXiv 1905.08094) and its journal version,
"Self-Distillation: Towards Efficient and Compact Neural Networks" (TPAMI 2021).
"""

import math
import re
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from seed_jax.models import layers

FORMS = ("iccv", "journal")
LOGITS, ENSEMBLE = "logits", "ensemble_logits"


class Exit(nn.Module):
    """Classify the map of a stage: `exitN_pooled`, float32 `[B, D]`, and `exitN_logits`, `[B, num_classes]`.

    `iccv` is the bottleneck of luanyunteng/pytorch-be-your-own-teacher, models/resnet.py: convolutions 1x1 to
    D / 4 channels, k x k with stride k, 1x1 to D, a norm and a ReLU after each, then the average. k takes the
    map to the size of the last stage's; D is the width of the backbone's `pooled`. There the convolutions
    have a bias, which the norms take away again: ours have none. The paper gives no sizes.

    `journal` is that of the authors, ArchipLab-LinfengZhang/pytorch-self-distillation-final, resnet.py: the
    map is multiplied by an attention map, the sigmoid of a separable convolution with stride 2, a norm, a
    ReLU and bilinear resizing, so at least a half. Then a separable convolution for each later stage halves
    the sides if that stage does and doubles the channels. D is what these give.

    Attributes:
      stage: N, the stage that is read, `[B, H, W, C]`.
      strides: of each later stage, 1 or 2 as a rule.
      width: of the backbone's `pooled`.
      form: 'iccv' or 'journal'.
      bn_group: as for `layers.BatchNorm`.
      dtype: of the convolutions.

    >>> part = Exit(1, (2, 2), 32, num_classes=10)
    >>> features = {"stage1": jnp.ones((2, 16, 16, 8))}
    >>> variables = part.init(jax.random.key(0), features, train=False)
    >>> {name: x.shape for name, x in part.apply(variables, features, train=False).items()}
    {'exit1_pooled': (2, 32), 'exit1_logits': (2, 10)}
    """

    stage: int
    strides: tuple[int, ...]
    width: int
    num_classes: int
    form: str = "iccv"
    bn_group: int | None = None
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, features, train: bool, keys=None):
        del keys
        x = features[f"stage{self.stage}"]
        x = self._bottleneck(x, train) if self.form == "iccv" else self._attended(x, train)
        x = layers.global_average(x)
        logits = layers.torch_linear(self.num_classes, x.shape[-1], "fc")(x)
        return {f"exit{self.stage}_pooled": x, f"exit{self.stage}_logits": logits}

    def _bottleneck(self, x, train):
        stride, middle = math.prod(self.strides), max(1, self.width // 4)
        rows = ((middle, 1, 1), (middle, stride, stride), (self.width, 1, 1))
        for number, (channels, kernel, step) in enumerate(rows, start=1):
            conv = layers.Conv(channels, kernel, step, pad=(0, 0), dtype=self.dtype, name=f"conv{number}")
            norm = layers.BatchNorm(self.bn_group, dtype=self.dtype, name=f"bn{number}")
            x = nn.relu(norm(conv(x), train))
        return x

    def _attended(self, x, train):
        def separable(channels, stride, name):
            return SeparableConv(channels, stride, self.bn_group, self.dtype, name=name)

        norm = layers.BatchNorm(self.bn_group, dtype=self.dtype, name="attention_bn")
        weights = nn.relu(norm(separable(x.shape[-1], 2, "attention")(x, train), train))
        x = x * nn.sigmoid(jax.image.resize(weights, x.shape, "linear", antialias=False))
        for number, stride in enumerate(self.strides, start=1):
            x = separable(2 * x.shape[-1], stride, f"separable{number}")(x, train)
        return x


class SeparableConv(nn.Module):
    """Depthwise 3x3, 1x1, norm, ReLU, and the same again; the stride is the first one's (SepConv there)."""

    features: int
    stride: int
    bn_group: int | None
    dtype: Any

    @nn.compact
    def __call__(self, x, train: bool):
        conv, norm = layers.conv_and_norm(self, train)
        inputs = x.shape[-1]
        x = conv("depthwise1", x, inputs, 3, self.stride, depthwise=True)
        x = nn.relu(norm("bn1", conv("pointwise1", x, inputs, 1)))
        x = conv("depthwise2", x, inputs, 3, depthwise=True)
        return nn.relu(norm("bn2", conv("pointwise2", x, self.features, 1)))


class Ensemble(nn.Module):
    """`ensemble_logits`: the mean of the logits of all exits and the deepest. The part has no parameters.

    As the authors test it (ArchipLab-LinfengZhang/pytorch-self-distillation-final, train.py).
    """

    @nn.compact
    def __call__(self, features, train: bool, keys=None):
        del train, keys
        return {ENSEMBLE: jnp.mean(jnp.stack([features[name] for name in classifiers(features)]), axis=0)}


def classifiers(features) -> list[str]:
    """The entries of the exits' logits, shallowest first, and last `logits` of the deepest.

    >>> classifiers(["logits", "exit2_logits", "ensemble_logits", "exit1_logits", "pooled"])
    ['exit1_logits', 'exit2_logits', 'logits']
    """
    numbers = sorted(int(match[1]) for name in features if (match := re.fullmatch(r"exit(\d+)_logits", name)))
    return [*(f"exit{number}_logits" for number in numbers), LOGITS]


def pooled_of(entry: str) -> str:
    """The entry of the feature that a classifier reads.

    >>> pooled_of("exit1_logits"), pooled_of("logits")
    ('exit1_pooled', 'pooled')
    """
    return entry.removesuffix(LOGITS) + "pooled"
