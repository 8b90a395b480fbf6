"""Swin transformers, second version (Liu et al., CVPR 2022, arXiv 2111.09883): cosine attention, positions by
a small network, layer norms after the branches.

Source of the choices: microsoft/Swin-Transformer, models/swin_transformer_v2.py. The student of feature
distillation is the base network with `window=14, image_size=224, fd_init=True` (SwinTransformer/
Feature-Distillation, models/swin_transformer_v2.py).

`swinv2_giant` is SwinV2-G. Its channels, its blocks and an "additional layer normalization on the main branch
every 6 layers" are the paper's (quoted in microsoft/Swin-Transformer, issue 353). Neither its code nor its
weights were released. We follow two ports, open-mmlab/mmpretrain (swin_transformer_v2.py) and timm
(swin_transformer_v2_cr.py): heads of 32 channels, a layer is a block, counted within its stage, and the norm
comes after both residual sums.
"""

import functools
import math
from typing import Any, ClassVar

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from seed_jax.errors import UserError
from seed_jax.models import layers
from seed_jax.models.swin import SwinTransformer, attend, in_windows, offsets, split_heads
from seed_jax.models.vit import MLP, token_init

LARGEST_SCALE = math.log(100)
EXACT = lax.Precision.HIGHEST  # of cosines, which are multiplied by up to 100, and of positions
HIDDEN = 512  # units of the network that computes the positions


class Block(nn.Module):
    """Attention within windows, then a perceptron of width 4 C; the norm of each is added to the map.

    Attributes:
      pretrained: side of the windows for which the positions were trained; 0 for `window`.
      fd_number: 0, or the block's number from 1 for FD's initial values (`SwinTransformerV2.fd_init`).
      extra_norm: a third layer norm, of the map itself, which the block returns.
      others: as for `swin.Block`.
    """

    heads: int
    window: int
    shift: int
    drop_path: float
    epsilon: float
    dtype: Any
    pretrained: int
    fd_number: int
    extra_norm: bool

    @nn.compact
    def __call__(self, x, train: bool, keys):
        last_init, norm_scale = token_init, 0.0
        if self.fd_number:
            last_init, norm_scale = nn.initializers.normal(0.02 / math.sqrt(2 * self.fd_number)), 1e-5

        def added(x, y, i):
            y = layers.LayerNorm(self.epsilon, norm_scale, name=f"norm{i}")(y.astype(jnp.float32))
            return x + layers.DropPath(self.drop_path, name=f"drop_path{i}")(y, train, keys)

        attention = CosineAttention(
            self.heads, self.window, self.pretrained or self.window, last_init, self.dtype, name="attn"
        )
        y, weights = in_windows(attention, x, self)
        x = added(x, y, 1)
        x = added(x, MLP(False, self.dtype, (token_init, last_init), name="mlp")(x), 2)
        return layers.LayerNorm(self.epsilon, name="norm3")(x) if self.extra_norm else x, weights


class CosineAttention(nn.Module):
    """Softmax of scaled cosines within each window of `[B, windows, N, C]`; float32 from the cosines on.

    Each head learns its scale, at first 10 and at most 100. Query and value have a bias, the key has none.
    Called as `swin.Attention`.

    Attributes:
      heads, window, pretrained, dtype: as for `Block`.
      last_init: of the weights of `proj`.
    """

    heads: int
    window: int
    pretrained: int
    last_init: nn.initializers.Initializer
    dtype: Any

    @nn.compact
    def __call__(self, x, mask):
        dim = x.shape[-1]
        qkv = layers.Linear(3 * dim, False, self.dtype, kernel_init=token_init, name="qkv")(x)
        q_bias, v_bias = (
            self.param(name, nn.initializers.zeros, (dim,), jnp.float32) for name in ("q_bias", "v_bias")
        )
        added = jnp.concatenate([q_bias, jnp.zeros_like(q_bias), v_bias]).astype(qkv.dtype)
        q, k, v = split_heads(qkv + added[None, None, None], self.heads)
        cosines = jnp.einsum("bwhqd,bwhkd->bwhqk", _unit(q), _unit(k), precision=EXACT)
        initial = nn.initializers.constant(math.log(10))
        scale = self.param("logit_scale", initial, (self.heads, 1, 1), jnp.float32)
        scale = jnp.exp(jnp.minimum(scale, LARGEST_SCALE))
        bias = ContinuousPositions(self.heads, self.window, self.pretrained, name="rel_pos_bias")()
        y, weights = attend(cosines * scale[None, None] + bias[None, None], v, mask)
        return layers.Linear(dim, True, self.dtype, kernel_init=self.last_init, name="proj")(y), weights


class ContinuousPositions(nn.Module):
    """What attention logits gain by where query and key are, float32 `[heads, N, N]`, between 0 and 16: a
    network of the offset, on a logarithmic axis.
    """

    heads: int
    window: int
    pretrained: int

    @nn.compact
    def __call__(self):
        x = jnp.asarray(places(self.window, self.pretrained))
        y = layers.Linear(HIDDEN, kernel_init=token_init, precision=EXACT, name="fc1")(x)
        y = layers.Linear(self.heads, False, kernel_init=token_init, precision=EXACT, name="fc2")(nn.relu(y))
        return 16 * jax.nn.sigmoid(y)[offsets(self.window)].transpose(2, 0, 1)


class SwinTransformerV2(SwinTransformer):
    """Normalised images `[B, H, W, 3]` -> maps, tokens and `pooled`, as `swin.SwinTransformer`.

    Maps that windows do not divide are padded as there, here directly before attention. Other attributes,
    features and errors are the same.

    Attributes:
      pretrained_window: side of the windows for which the positions were trained; 0 if it is `window`.
      pretrained_size: side of the images of that training, pixels, where windows larger than a map were as
        large as the map; 0 if it had as many windows as there are here. `pretrained_window` 12 with `window`
        16 or 24 then means the released 12, 12, 12, 6.
      fd_init: start as FD's student. The norms of a block start at 1e-5 and not at 0, patches are embedded by
        N(0, 0.02), and the last weights of both branches of block i, counted from 1, are divided by
        sqrt(2 i).
      extra_norm: every so many blocks of a stage, a layer norm of the map; 0 for none.
      undecayed: the scales of the cosines and the network of the positions.
    """

    window: int = 8
    image_size: int = 256
    pretrained_window: int = 0
    pretrained_size: int = 0
    fd_init: bool = False
    extra_norm: int = 0

    undecayed: ClassVar = frozenset({"logit_scale", "rel_pos_bias"})
    adapts: ClassVar = frozenset({"window", "image_size", "pretrained_window", "pretrained_size"})
    block: ClassVar = Block
    norm_first: ClassVar = False

    @nn.nowrap
    def block_options(self, number):
        stage = next(s for s in range(1, len(self.depths) + 1) if number < sum(self.depths[:s]))
        in_stage = number - sum(self.depths[: stage - 1])
        return {
            "pretrained": self.pretrained_of(stage),
            "fd_number": number + 1 if self.fd_init else 0,
            "extra_norm": self.extra_norm > 0 and (in_stage + 1) % self.extra_norm == 0,
        }

    @nn.nowrap
    def pretrained_of(self, stage: int) -> int:
        """The side of the windows for which a stage's positions were trained; the stage is counted from 1."""
        if not self.pretrained_window:
            return self.window_of(stage)[0]
        size = self.pretrained_size or self.image_size * self.pretrained_window // self.window
        return min(self.pretrained_window, math.ceil(size / (self.patch * 2 ** (stage - 1))))

    @nn.nowrap
    def adapt(self, params, other):
        """The parameters of `other` as they are, if both name the same trained windows."""
        ours, theirs = (
            [net.pretrained_of(stage) for stage in range(1, len(net.depths) + 1)] for net in (self, other)
        )
        if ours != theirs:
            raise UserError(
                "student.options.pretrained_window: the positions of student.init were trained for windows "
                f"of {', '.join(map(str, theirs))} in the stages, and the student's options mean "
                f"{', '.join(map(str, ours))}: use window={other.window} and "
                f"image_size={other.image_size}, or pretrained_window and pretrained_size that mean the same."
            )
        return params

    @nn.nowrap
    def embed_init(self):
        return token_init if self.fd_init else None


@functools.cache
def places(window: int, pretrained: int) -> np.ndarray:
    """Where each offset of query and key lies, rows of tokens first: float32 `[(2 window - 1)^2, 2]`.

    An offset is divided by the largest one of the pre-trained windows and times 8; x becomes
    sign(x) log2(1 + |x|) / 3. The largest offsets of a pre-trained window are at +-1.057.

    >>> places(2, 2)[:3].astype(float).round(3).tolist()
    [[-1.057, -1.057], [-1.057, 0.0], [-1.057, 1.057]]
    """
    axis = 8 * np.arange(1 - window, window) / max(1, pretrained - 1)
    axis = np.sign(axis) * np.log2(1 + np.abs(axis)) / 3
    found = np.stack(np.meshgrid(axis, axis, indexing="ij"), axis=-1).reshape(-1, 2).astype(np.float32)
    found.setflags(write=False)  # the cache returns it again
    return found


def _unit(x):
    """float32 vectors of length 1; 0 stays 0, with a finite gradient."""
    x = x.astype(jnp.float32)
    return x * lax.rsqrt(jnp.maximum(jnp.square(x).sum(axis=-1, keepdims=True), 1e-24))


swinv2_tiny = functools.partial(SwinTransformerV2, 96, (2, 2, 6, 2), (3, 6, 12, 24))
swinv2_small = functools.partial(SwinTransformerV2, 96, (2, 2, 18, 2), (3, 6, 12, 24))
swinv2_base = functools.partial(SwinTransformerV2, 128, (2, 2, 18, 2), (4, 8, 16, 32))
swinv2_giant = functools.partial(SwinTransformerV2, 512, (2, 2, 42, 4), (16, 32, 64, 128), extra_norm=6)
