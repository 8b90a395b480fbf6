"""Swin transformers (Liu et al., ICCV 2021, arXiv 2103.14030): attention within windows that shift.

Source of the choices: microsoft/Swin-Transformer, models/swin_transformer.py. The second version is in
swinv2.py.
"""

import functools
import math
import re
from collections.abc import Callable
from typing import Any, ClassVar

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from seed_jax.errors import UserError
from seed_jax.models import layers
from seed_jax.models.fd_vit import pairs, spline
from seed_jax.models.vit import MLP, PatchEmbed, check_sides, token_init

MASKED = -100.0  # what the logits of a pair gain whose tokens were not neighbours before the shift


class Block(nn.Module):
    """Attention within windows, then a perceptron of width 4 C, each on a layer norm and added to the map.

    `[B, H, W, C]` -> the like, float32, and the attention weights `[B, windows, heads, N, N]`.

    Attributes:
      heads: attention heads.
      window: side of a window, tokens; N = window^2.
      shift: rows and columns by which the windows are shifted.
      drop_path: rate of stochastic depth of this block.
      epsilon: of the layer norms.
      dtype: of matrix products and GELU.
    """

    heads: int
    window: int
    shift: int
    drop_path: float
    epsilon: float
    dtype: Any

    @nn.compact
    def __call__(self, x, train: bool, keys):
        y = layers.LayerNorm(self.epsilon, name="norm1")(x)
        y, weights = in_windows(Attention(self.heads, self.window, self.dtype, name="attn"), y, self)
        x = x + layers.DropPath(self.drop_path, name="drop_path1")(y, train, keys)
        y = MLP(False, self.dtype, name="mlp")(layers.LayerNorm(self.epsilon, name="norm2")(x))
        y = y.astype(jnp.float32)
        return x + layers.DropPath(self.drop_path, name="drop_path2")(y, train, keys), weights


class Attention(nn.Module):
    """Softmax attention within each window of `[B, windows, N, C]`, with relative positions, float32 softmax.

    Called with tokens and a mask, as `attend`, and returns what that returns, after a Linear.
    """

    heads: int
    window: int
    dtype: Any

    @nn.compact
    def __call__(self, x, mask):
        dim = x.shape[-1]
        qkv = layers.Linear(3 * dim, dtype=self.dtype, kernel_init=token_init, name="qkv")(x)
        q, k, v = split_heads(qkv, self.heads)
        logits = jnp.einsum("bwhqd,bwhkd->bwhqk", q, k, preferred_element_type=jnp.float32)
        bias = RelativePositions(self.heads, self.window, name="rel_pos_bias")()
        y, weights = attend(logits / math.sqrt(dim // self.heads) + bias[None, None], v, mask)
        return layers.Linear(dim, dtype=self.dtype, kernel_init=token_init, name="proj")(y), weights


class RelativePositions(nn.Module):
    """What attention logits gain by where query and key are, float32 `[heads, N, N]`, of a table with a row
    for each offset of query and key, rows of tokens first.
    """

    heads: int
    window: int

    @nn.compact
    def __call__(self):
        rows = (2 * self.window - 1) ** 2
        table = self.param("table", token_init, (rows, self.heads), jnp.float32)
        return table[offsets(self.window)].transpose(2, 0, 1)


class Merge(nn.Module):
    """Join 2 x 2 tokens: `[B, H, W, C]` -> float32 `[B, H / 2, W / 2, 2 C]`, a layer norm and a Linear.

    The order of the four is (row, column) 0 0, 1 0, 0 1, 1 1. An odd side is padded with zeros (microsoft/
    esvit, models/swin_transformer.py; Swin's own code refuses it).

    Attributes:
      epsilon: of the layer norm.
      norm_first: whether the norm comes before the Linear.
      dtype: of the Linear.
    """

    epsilon: float
    norm_first: bool
    dtype: Any

    @nn.compact
    def __call__(self, x):
        x = padded(x, 2)
        batch, height, width, channels = x.shape
        x = x.reshape(batch, height // 2, 2, width // 2, 2, channels).transpose(0, 1, 3, 4, 2, 5)
        x = x.reshape(batch, height // 2, width // 2, 4 * channels)
        norm = layers.LayerNorm(self.epsilon, name="norm")
        linear = layers.Linear(2 * channels, False, self.dtype, kernel_init=token_init, name="reduction")
        return linear(norm(x)).astype(jnp.float32) if self.norm_first else norm(linear(x).astype(jnp.float32))


class SwinTransformer(layers.Architecture):
    """Normalised images `[B, H, W, 3]` -> maps, tokens, `pooled`. `H` and `W` are any multiples of `patch`.

    With n = `patch`, the features are

      stem             `[B, H / n, W / n, C]`, the input of the first block
      stage1           `[B, H / n, W / n, C]`, the output of the last block of the stage
      stage2 .. stage4 the same after merging: sides halved, rounded up, and channels doubled each time
      tokens           `[B, T, 8 C]`, `stage4` after the final layer norm, in reading order
      pooled           `[B, 8 C]`, the mean of `tokens`
      logits           `[B, num_classes]`, if `num_classes` is not None
      attention1 ..    `[B, windows, heads, N, N]` of each block, if `attention`

    All of them are float32, and so are layer norms, softmax and residual sums.

    Attributes:
      dim: C.
      depths: blocks of each stage; every second block has shifted windows.
      heads: attention heads in the blocks of each stage.
      window: side of a window, tokens. In a stage whose map is not larger, for images of `image_size`, one
        window covers the map, and nothing is shifted.
      image_size: side of the square images for which the windows are chosen, a multiple of 8 `patch`. Maps of
        other images are padded with zeros to whole windows, at the right and at the bottom, after the first
        layer norm; the zeros are attended to (microsoft/esvit, models/swin_transformer.py). Swin's own code
        takes images of `image_size` alone.
      patch: side of a patch, pixels.
      epsilon: of the layer norms. EsViT's networks have 1e-6 (esvit, models/swin_transformer.py).
      drop_path: stochastic depth; the rate grows linearly from 0 in the first block to this in the last.
      attention: return the attention weights, too.
      remat: compute each block again in the backward pass instead of keeping its activations.
      dtype: of matrix products and GELU.
      undecayed: the tables of relative positions.

    Layers are numbered as in SwinTransformer/Feature-Distillation, optimizer.py: a merging has the number of
    the block before it.

    Raises:
      UserError: `image_size` is no multiple of 8 `patch`, or `patch` does not divide a side.
    """

    dim: int
    depths: tuple[int, ...]
    heads: tuple[int, ...]
    window: int = 7
    image_size: int = 224
    patch: int = 4
    num_classes: int | None = None
    epsilon: float = 1e-5
    drop_path: float = 0.0
    attention: bool = False
    remat: bool = False
    dtype: Any = jnp.float32

    undecayed: ClassVar = frozenset({"rel_pos_bias"})
    stem: ClassVar = frozenset({"patch_embed", "patch_norm"})
    adapts: ClassVar = frozenset({"window", "image_size"})
    block: ClassVar = Block
    norm_first: ClassVar = True

    @nn.compact
    def __call__(self, x, train: bool, keys=None):
        x = self._embed(x)
        features, number, last = {"stem": x}, 0, len(self.depths)
        block_class = layers.block_class(self.block, self.remat, train)
        for stage, depth in enumerate(self.depths, start=1):
            window, shift = self.window_of(stage)
            for i in range(depth):
                block = block_class(
                    self.heads[stage - 1],
                    window,
                    shift if i % 2 else 0,
                    self.drop_path * number / max(1, sum(self.depths) - 1),
                    self.epsilon,
                    self.dtype,
                    **self.block_options(number),
                    name=f"block{stage}_{i}",
                )
                x, weights = block(x, train, keys)
                number += 1
                if self.attention:
                    features[f"attention{number}"] = weights
            features[f"stage{stage}"] = x
            if stage < last:
                x = Merge(self.epsilon, self.norm_first, self.dtype, name=f"merge{stage}")(x)
        tokens = layers.LayerNorm(self.epsilon, name="norm")(x)
        features["tokens"] = tokens.reshape(len(x), -1, x.shape[-1])
        features["pooled"] = features["tokens"].mean(axis=1)
        if self.num_classes is not None:
            fc = layers.Linear(self.num_classes, dtype=self.dtype, kernel_init=token_init, name="fc")
            features["logits"] = fc(features["pooled"]).astype(jnp.float32)
        return features

    @nn.nowrap
    def block_options(self, number: int) -> dict:
        """Further attributes of block `number`, counted from 0 through all stages."""
        return {}

    @nn.nowrap
    def window_of(self, stage: int) -> tuple[int, int]:
        """The side of the windows in a stage, counted from 1, and how far every second block shifts them."""
        side = self.image_size // self.patch // 2 ** (stage - 1)
        return (side, 0) if side <= self.window else (self.window, self.window // 2)

    @nn.nowrap
    def block_names(self):
        return [f"block{stage}_{i}" for stage, depth in enumerate(self.depths, 1) for i in range(depth)]

    @nn.nowrap
    def layer(self, path):
        if merge := re.fullmatch(r"merge(\d+)", path[0]):
            return sum(self.depths[: int(merge[1])])
        return super().layer(path)

    @nn.nowrap
    def adapt(self, params, other):
        """The parameters that this network starts with: tables are resized to its windows."""
        adapted = dict(params)
        for name in self.block_names():
            window, _ = self.window_of(int(re.match(r"block(\d+)_", name)[1]))
            table = resize_table(params[name]["attn"]["rel_pos_bias"]["table"], window)
            adapted[name] = params[name] | {
                "attn": params[name]["attn"] | {"rel_pos_bias": {"table": table}},
            }
        return adapted

    @nn.nowrap
    def embed_init(self) -> Callable | None:
        """Of the patch embedding's weights, with a bias of 0; None for PyTorch's initial values."""
        return None

    def _embed(self, x):
        """The map that the first block gets: float32 `[B, H / patch, W / patch, C]`."""
        coarsest = self.patch * 2 ** (len(self.depths) - 1)
        if self.image_size % coarsest:
            raise UserError(
                f"image_size of a Swin transformer is {self.image_size}, which is not a multiple of "
                f"{coarsest}: use {max(1, round(self.image_size / coarsest)) * coarsest}."
            )
        check_sides(x.shape[1:3], self.patch)
        grid = (x.shape[1] // self.patch, x.shape[2] // self.patch)
        x = PatchEmbed(self.dim, self.patch, True, self.dtype, self.embed_init(), name="patch_embed")(x)
        return layers.LayerNorm(self.epsilon, name="patch_norm")(x).reshape(-1, *grid, self.dim)


def in_windows(attention: Callable, x, block) -> tuple[jax.Array, jax.Array]:
    """Attention within windows of a map: float32 `[B, H, W, C]`, and its weights `[B, windows, heads, N, N]`.

    Args:
      attention: called with `[B, windows, N, C]` and a mask, or None; returns the like and the weights.
      x: `[B, H, W, C]`; sides that windows do not divide are padded with zeros.
      block: has `window` and `shift`.
    """
    height, width = x.shape[1:3]
    x = padded(x, block.window)
    sides, mask = x.shape[1:3], None
    if block.shift:
        x = jnp.roll(x, (-block.shift, -block.shift), (1, 2))
        mask = jnp.asarray(shift_mask(sides, block.window, block.shift))
    y, weights = attention(partition(x, block.window), mask)
    rows, columns, n = sides[0] // block.window, sides[1] // block.window, block.window
    y = y.astype(jnp.float32).reshape(-1, rows, columns, n, n, y.shape[-1])
    y = y.transpose(0, 1, 3, 2, 4, 5).reshape(x.shape)
    if block.shift:
        y = jnp.roll(y, (block.shift, block.shift), (1, 2))
    return y[:, :height, :width], weights


def split_heads(qkv, heads: int) -> jax.Array:
    """`[B, windows, N, 3 C]` -> query, key and value: `[3, B, windows, heads, N, C / heads]`."""
    batch, count, tokens, _ = qkv.shape
    return qkv.reshape(batch, count, tokens, 3, heads, -1).transpose(3, 0, 1, 4, 2, 5)


def attend(logits, v, mask) -> tuple[jax.Array, jax.Array]:
    """The values that each query gets, `[B, windows, N, C]` in the dtype of `v`, and the float32 weights.

    Args:
      logits: float32 `[B, windows, heads, N, N]`.
      v: `[B, windows, heads, N, C / heads]`.
      mask: added to the logits, float32 `[windows, N, N]`, or None.
    """
    weights = jax.nn.softmax(logits if mask is None else logits + mask[None, :, None])
    y = jnp.einsum("bwhqk,bwhkd->bwqhd", weights.astype(v.dtype), v)
    return y.reshape(*y.shape[:3], -1), weights


def padded(x, multiple: int):
    """`x` `[B, H, W, C]` with zeros at the right and at the bottom, until `multiple` divides both sides."""
    down, right = (-side % multiple for side in x.shape[1:3])
    return jnp.pad(x, ((0, 0), (0, down), (0, right), (0, 0))) if down or right else x


def partition(x, window: int):
    """`[B, H, W, C]` -> `[B, windows, N, C]`, windows and tokens in reading order."""
    batch, height, width, channels = x.shape
    x = x.reshape(batch, height // window, window, width // window, window, channels)
    return x.transpose(0, 1, 3, 2, 4, 5).reshape(batch, -1, window**2, channels)


@functools.cache
def offsets(window: int) -> np.ndarray:
    """The row of a table of relative positions for each query and key of a window, int `[N, N]`.

    >>> offsets(2)
    array([[4, 3, 1, 0],
           [5, 4, 2, 1],
           [7, 6, 4, 3],
           [8, 7, 5, 4]])
    """
    return pairs((window, window))[1:, 1:]


def resize_table(table, window: int):
    """A table of relative positions, `[(2 old - 1)^2, heads]`, for windows of another size.

    As Feature-Distillation fine-tunes (utils.py, remap_pretrained_keys_swin): a cubic spline on an axis that
    grows geometrically (`fd_vit.spline`). Microsoft's own loader resizes bicubically.
    """
    old, new = math.isqrt(len(table)), 2 * window - 1
    if old == new:
        return table
    matrix = spline(old, new)
    resized = np.einsum("hi,wj,ijd->hwd", matrix, matrix, np.asarray(table).reshape(old, old, -1))
    return resized.reshape(new**2, -1)


@functools.cache
def shift_mask(sides: tuple[int, int], window: int, shift: int) -> np.ndarray:
    """What the logits gain in shifted windows: `MASKED` for tokens from opposite ends of the map, else 0.

    Args:
      sides: of the map, rows and columns, multiples of `window`.
      window, shift: as for `Block`.

    Returns:
      float32 `[windows, N, N]`.

    >>> shift_mask((2, 4), 2, 1)[1].astype(int)  # each token of this window comes from another end
    array([[   0, -100, -100, -100],
           [-100,    0, -100, -100],
           [-100, -100,    0, -100],
           [-100, -100, -100,    0]])
    """
    rows, columns = (
        (np.arange(side) >= side - window).astype(int) + (np.arange(side) >= side - shift) for side in sides
    )
    regions = partition((3 * rows[:, None] + columns)[None, :, :, None], window)[0, :, :, 0]
    mask = np.where(regions[:, :, None] == regions[:, None, :], 0, MASKED).astype(np.float32)
    mask.setflags(write=False)  # the cache returns it again
    return mask


swin_tiny = functools.partial(SwinTransformer, 96, (2, 2, 6, 2), (3, 6, 12, 24))
swin_small = functools.partial(SwinTransformer, 96, (2, 2, 18, 2), (3, 6, 12, 24))
swin_base = functools.partial(SwinTransformer, 128, (2, 2, 18, 2), (4, 8, 16, 32))
