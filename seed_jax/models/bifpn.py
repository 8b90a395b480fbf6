"""The self-teacher of FRSKD: a BiFPN over the stages of a backbone, with a classifier (arXiv 2103.08273).

Ji et al., CVPR 2021, section 3.1; MingiJi/FRSKD, models/bifpnc.py and bifpn.py. Where the two differ, the
docstring of `SelfTeacher` says which one a default follows.
"""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax import lax

from seed_jax.errors import UserError
from seed_jax.models import conv, layers
from seed_jax.models.network import stage_maps

UPSAMPLING = {"nearest": "nearest", "bilinear": "linear"}
SMALL = 1e-6  # added to the sum of the fusion weights (EfficientDet, Tan et al. 2020, section 3.3)


class SelfTeacher(nn.Module):
    """Refine the stages of a backbone top-down, then bottom-up, and classify the last refined map.

    It reads the stages of the backbone as `activated` gives them, and writes refined maps of the same sides,
    after a ReLU, as `teacher_stage1`, `teacher_stage2`, .., the average of the last one as `teacher_pooled`,
    float32 `[B, D]`, and `teacher_logits`, float32 `[B, num_classes]`. With L_i a lateral 1x1 convolution of
    stage i, and weights w that are learnt, not negative, and sum up to 1:

    - top-down: P_n = L_n, and P_i = node(w1 L_i + w2 up(P_{i+1}))
    - bottom-up: T_1 = P_1, T_i = node(w1 L'_i + w2 P_i + w3 down(T_{i-1})), and T_n = node(w1 L'_n +
      w2 down(T_{n-1})), where L' is a second lateral convolution

    A node is a 3x3 depthwise and a 1x1 convolution and a BatchNorm, `depth` times with ReLUs between. There
    is one such layer: the released code with two of them fails on unequal channels.

    Attributes:
      num_classes: of `teacher_logits`.
      width: channels of level i as a multiple of those of stage i (BiFPNc). `up` and `down` then include a
        1x1 convolution from the channels of one level to those of the next.
      channels: above 0, every level has that many channels instead (BiFPN; the paper has 256).
      depth: of each node; the paper has 2.
      upsample: 'nearest', as the released code, or 'bilinear', as the paper says.
      detach: True trains the backbone by no gradient of the self-teacher, as the paper says; False is the
        released code, where the cross entropy of `teacher_logits` reaches the backbone.
      bn_group: samples per group of batch statistics (`layers.BatchNorm`).
      dtype: of the convolutions and the maps.

    Raises:
      UserError: the backbone has fewer than two stages that are maps, or a stage has neither the sides of the
        one before nor their halves.
    """

    num_classes: int
    width: int = 2
    channels: int = 0
    depth: int = 2
    upsample: str = "nearest"
    detach: bool = True
    bn_group: int | None = None
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, features, train: bool, keys=None):
        del keys
        names = _stages(features)
        maps = [activated(features, name).astype(self.dtype) for name in names]
        if self.detach:
            maps = lax.stop_gradient(maps)

        def norm(name, x):
            return layers.BatchNorm(self.bn_group, dtype=self.dtype, name=name)(x, train)

        def convolution(name, x, channels, kernel=1, depthwise=False):
            return layers.Conv(
                channels,
                kernel,
                depthwise=depthwise,
                kernel_init=layers.torch_conv_init,
                dtype=self.dtype,
                name=name,
            )(x)

        def lateral(name, x, channels):
            return nn.relu(norm(f"{name}_norm", convolution(f"{name}_conv", x, channels)))

        def resampled(name, x, channels):
            return x if self.channels else lateral(name, x, channels)

        def node(name, inputs):
            x = self._fused(f"{name}_weights", inputs)
            for i in range(1, self.depth + 1):
                x = x if i == 1 else nn.relu(x)
                x = convolution(f"{name}_depthwise{i}", x, x.shape[-1], 3, depthwise=True)
                x = norm(f"{name}_norm{i}", convolution(f"{name}_conv{i}", x, x.shape[-1]))
            return nn.relu(x)

        widths = [self.channels or self.width * x.shape[-1] for x in maps]
        last = len(maps) - 1
        first = [lateral(f"lateral{i + 1}", x, widths[i]) for i, x in enumerate(maps)]
        top_down = first[-1:]
        for i in reversed(range(last)):
            above = jax.image.resize(
                top_down[0], (*maps[i].shape[:3], widths[i + 1]), UPSAMPLING[self.upsample]
            )
            above = resampled(f"up{i + 1}", above, widths[i])
            top_down.insert(0, node(f"top_down{i + 1}", [first[i], above]))
        refined = top_down[:1]
        for i in range(1, last + 1):
            stride = 1 if maps[i].shape[1:3] == maps[i - 1].shape[1:3] else 2
            below = resampled(f"down{i + 1}", _pooled(refined[-1], stride), widths[i])
            again = lateral(f"second_lateral{i + 1}", maps[i], widths[i])
            between = [top_down[i]] if i < last else []
            refined.append(node(f"bottom_up{i + 1}", [again, *between, below]))

        pooled = layers.global_average(refined[-1])
        outputs = {f"teacher_{name}": x for name, x in zip(names, refined, strict=True)}
        logits = layers.torch_linear(self.num_classes, pooled.shape[-1], "fc")(pooled)
        return outputs | {"teacher_pooled": pooled, "teacher_logits": logits}

    def _fused(self, name, inputs):
        weights = nn.relu(self.param(name, nn.initializers.ones, (len(inputs),), jnp.float32))
        weights = (weights / (weights.sum() + SMALL)).astype(self.dtype)
        return sum(weight * x for weight, x in zip(weights, inputs, strict=True))


def activated(features, name: str) -> jax.Array:
    """The stage that `name` names, such as 'stage1', after its ReLU: `[.., H, W, C]`, of its dtype.

    It is the ReLU of `preact1`, if the backbone has that. In a wide ResNet this is the stage after the norm
    that comes next, as MingiJi/FRSKD, models/wrn.py, ends each stage with a norm.
    """
    return nn.relu(features.get(name.replace("stage", "preact"), features[name]))


def _pooled(x, stride: int):
    """The maximum over 3x3, of a map that is not negative, to 1 / stride of its sides, rounded up.

    Zeros pad it, on the far sides alone if one is enough, as in the released code.
    """
    pads = lax.padtype_to_pads(x.shape[1:3], (3, 3), (stride, stride), "SAME")
    return conv.max_pool(jnp.pad(x, ((0, 0), *pads, (0, 0))), 3, stride, pad=(0, 0))


def _stages(features) -> list[str]:
    """The names of the stages that are maps, in order."""
    names = stage_maps(features)
    if len(names) < 2:
        raise UserError(
            "student.model: a self-teacher needs two stages or more that are maps [B, H, W, C], and the "
            f"backbone has {len(names)}: use a convolutional network, such as resnet18."
        )
    for before, after in zip(names, names[1:], strict=False):
        large, small = features[before].shape[1:3], features[after].shape[1:3]
        if small not in (large, tuple((side + 1) // 2 for side in large)):
            raise UserError(
                f"student.model: {after} has {small[0]} x {small[1]} pixels and {before} {large[0]} x "
                f"{large[1]}, and a self-teacher needs the same or half as many on a side: use another model."
            )
    return names
