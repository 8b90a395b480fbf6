"""The vision transformer that feature distillation trains (Wei et al., arXiv 2205.14141).

It is BEiT's: relative positions instead of absolute ones, query and value with a bias and key without, and a
learnt factor on what each block adds. Source of the choices: SwinTransformer/Feature-Distillation,
models/vision_transformer.py and config.py.
"""

import functools
import math
from collections.abc import Callable
from typing import Any, ClassVar

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from seed_jax.errors import UserError, unknown
from seed_jax.models import layers
from seed_jax.models.positions import resize_positions
from seed_jax.models.vit import (
    MLP,
    PatchEmbed,
    adapt_norm,
    check_heads,
    check_sides,
    stage_ends,
)

POSITIONS = ("shared", "layer", "absolute", "none")
POOLS = ("tokens", "mean")
EPSILON = 1e-6
EXTRA = 3  # rows of a table for pairs with the cls token: cls to patch, patch to cls, cls to cls


class FDVisionTransformer(layers.Architecture):
    """Normalised images `[B, H, W, 3]` -> tokens and `pooled`. `H` and `W` are any multiples of `patch`.

    There are T = 1 + H / patch * W / patch tokens: cls, then patches in reading order. The features are

      stem             `[B, T, D]`, the input of the first block
      stage1 .. stage4 `[B, T, D]`, the output of each quarter of the blocks (`stage_ends`)
      tokens           `[B, T, D]`, the output of the last block after the final layer norm
      pooled           `[B, D]`, the mean over the patches of `tokens`
      logits           `[B, num_classes]`, if `num_classes` is not None
      attention1 ..    `[B, heads, T, T]` of each block, if `attention`

    All of them are float32, and so are layer norms, softmax and residual sums.

    Attributes:
      dim: D.
      depth: number of blocks.
      heads: attention heads per block.
      patch: side of a patch, pixels.
      image_size: side of the square images for which positions are stored. For other images they are resized
        (`resize_table`, `resize_absolute`); the released code does so when it loads weights.
      positions: 'shared': one table of relative positions for all blocks, as FD distils; 'layer': one for
        each block, as it fine-tunes; 'absolute': an embedding that is added to the tokens; or 'none'.
      layer_scale: the learnt factor's initial value.
      truncated: draw initial weights from N(0, 0.02) cut at 0.02, as FD does for distillation, and not at
        2.0, which cuts nothing. The last Linear of each branch is then divided by sqrt(2 i) in block i, from
        1.
      pool: 'tokens', or 'mean' as FD and MAE fine-tune: then `tokens` are not normalised, and `pooled` is the
        normalised mean over the patches.
      drop_path: stochastic depth; the rate grows linearly from 0 in the first block to this in the last.
      attention: return the attention weights, too.
      remat: compute each block again in the backward pass instead of keeping its activations.
      dtype: of matrix products and GELU.

    Raises:
      UserError: `positions` or `pool` is unknown, `patch` does not divide a size, or `heads` not `dim`.
    """

    dim: int
    depth: int
    heads: int
    patch: int = 16
    image_size: int = 224
    num_classes: int | None = None
    positions: str = "shared"
    layer_scale: float = 0.1
    truncated: bool = True
    pool: str = "tokens"
    drop_path: float = 0.0
    attention: bool = False
    remat: bool = False
    dtype: Any = jnp.float32

    undecayed: ClassVar = frozenset({"cls_token", "pos_embed"})
    stem: ClassVar = frozenset({"patch_embed", "cls_token", "pos_embed"})
    prefix_tokens: ClassVar = 1
    adapts: ClassVar = frozenset({"positions", "pool", "image_size"})

    @nn.compact
    def __call__(self, x, train: bool, keys=None):
        for name, known in (("positions", POSITIONS), ("pool", POOLS)):
            if getattr(self, name) not in known:
                raise unknown(f"{name} of a vision transformer", getattr(self, name), known)
        check_heads(self.dim, self.heads)
        x, grid = self._embed(x)
        stored = self.image_size // self.patch
        bias = None
        if self.positions == "shared":
            bias = RelativePositions(self.heads, stored, name="rel_pos_bias")(grid)
        features, ends = {"stem": x}, stage_ends(self.depth)
        block_class = layers.block_class(Block, self.remat, train)
        for i in range(self.depth):
            block = block_class(
                self.heads,
                i + 1,
                stored if self.positions == "layer" else 0,
                grid,
                self.truncated,
                self.layer_scale,
                self.drop_path * i / max(1, self.depth - 1),
                self.dtype,
                name=f"block{i}",
            )
            x, weights = block(x, train, keys, bias)
            if self.attention:
                features[f"attention{i + 1}"] = weights
            if i + 1 in ends:
                features[f"stage{ends[i + 1]}"] = x
        if self.pool == "mean":
            features["tokens"] = x
            features["pooled"] = layers.LayerNorm(EPSILON, name="fc_norm")(x[:, 1:].mean(axis=1))
        else:
            features["tokens"] = layers.LayerNorm(EPSILON, name="norm")(x)
            features["pooled"] = features["tokens"][:, 1:].mean(axis=1)
        if self.num_classes is not None:
            # In FD's fine-tuning N(0, 0.02) is multiplied by 0.001.
            fc = layers.Linear(
                self.num_classes, dtype=self.dtype, kernel_init=nn.initializers.normal(2e-5), name="fc"
            )
            features["logits"] = fc(features["pooled"]).astype(jnp.float32)
        return features

    @nn.nowrap
    def block_names(self):
        return [f"block{i}" for i in range(self.depth)]

    @nn.nowrap
    def adapt(self, params, other):
        """The parameters that this network starts with, as the released code fine-tunes (utils.py).

        A shared table is copied into each block, positions are resized to `image_size`, and absolute
        positions are dropped where this network has none. Tables that `other` lacks start as 0. The final
        norm is dropped for a fresh one where this network normalises the mean.
        """
        relative = ("shared", "layer")
        possible = {"shared": {"shared", "absolute", "none"}, "layer": {*POSITIONS}, "absolute": {"absolute"}}
        if other.positions not in possible.get(self.positions, {"absolute", "none"}):
            raise UserError(
                f"student.options.positions is {self.positions!r}, and the network of student.init has "
                f"{other.positions!r}, which do not become those: use {other.positions!r}."
            )
        side, old = (net.image_size // net.patch for net in (self, other))

        def table(module):
            if other.positions not in relative:
                return jnp.zeros(((2 * side - 1) ** 2 + EXTRA, self.heads))
            found = (params if other.positions == "shared" else module["attn"])["rel_pos_bias"]["table"]
            return found if side == old else resize_table(found, (old, old), (side, side))

        adapted = {name: tree for name, tree in params.items() if name not in ("pos_embed", "rel_pos_bias")}
        if self.positions == "absolute":
            kept = params["pos_embed"]
            adapted["pos_embed"] = kept if side == old else resize_absolute(kept, (side, side))
        if self.positions == "shared":
            adapted["rel_pos_bias"] = {"table": table(None)}
        if self.positions == "layer":
            for name in self.block_names():
                attention = params[name]["attn"] | {"rel_pos_bias": {"table": table(params[name])}}
                adapted[name] = params[name] | {"attn": attention}
        return adapt_norm(adapted, self, other)

    def _embed(self, x):
        """The tokens that the first block gets, float32 `[B, T, D]`, and the grid of patches."""
        check_sides((self.image_size, *x.shape[1:3]), self.patch)
        init = initial(self.truncated)
        grid = (x.shape[1] // self.patch, x.shape[2] // self.patch)
        x = PatchEmbed(self.dim, self.patch, True, self.dtype, init, name="patch_embed")(x)
        cls = self.param("cls_token", init, (1, 1, self.dim), jnp.float32)
        x = jnp.concatenate([jnp.broadcast_to(cls, (len(x), 1, self.dim)), x], axis=1)
        if self.positions == "absolute":
            stored = self.image_size // self.patch
            positions = self.param("pos_embed", init, (1, 1 + stored**2, self.dim), jnp.float32)
            if grid != (stored, stored):
                positions = resize_absolute(positions, grid)
            x = x + positions
        return x, grid


class Block(nn.Module):
    """Attention, then a perceptron of width 4 D, each on a layer norm of the stream and added to it.

    Attributes:
      number: of the block, from 1.
      stored: side of the grid for which the block stores positions; 0 if it has none of its own.
      grid: rows and columns of patches.
      heads, truncated, layer_scale, drop_path, dtype: as for the network, `drop_path` of this block.
    """

    heads: int
    number: int
    stored: int
    grid: tuple[int, int]
    truncated: bool
    layer_scale: float
    drop_path: float
    dtype: Any

    @nn.compact
    def __call__(self, x, train: bool, keys, bias):
        inits = initial(self.truncated), initial(self.truncated, 1 / math.sqrt(2 * self.number))
        attention = Attention(self.heads, self.stored, self.grid, *inits, self.dtype, name="attn")
        y, weights = attention(layers.LayerNorm(EPSILON, name="norm1")(x), bias)
        x = self._added(x, y, 1, train, keys)
        y = MLP(False, self.dtype, inits, name="mlp")(layers.LayerNorm(EPSILON, name="norm2")(x))
        return self._added(x, y, 2, train, keys), weights

    def _added(self, x, y, number, train, keys):
        y = layers.LayerScale(self.layer_scale, name=f"ls{number}")(y).astype(jnp.float32)
        return x + layers.DropPath(self.drop_path, name=f"drop_path{number}")(y, train, keys)


class Attention(nn.Module):
    """Softmax attention among the tokens of `[B, T, D]`; also returns its weights, `[B, heads, T, T]`.

    Called with tokens and with what the logits gain, `[heads, T, T]` or None.

    Attributes:
      heads, stored, grid: as for `Block`.
      kernel_init, last_init: of the weights of `qkv` and `proj`.
      dtype: of the matrix products.
    """

    heads: int
    stored: int
    grid: tuple[int, int]
    kernel_init: Callable
    last_init: Callable
    dtype: Any

    @nn.compact
    def __call__(self, x, bias):
        batch, tokens, dim = x.shape
        qkv = layers.Linear(3 * dim, False, self.dtype, kernel_init=self.kernel_init, name="qkv")(x)
        q_bias, v_bias = (
            self.param(name, nn.initializers.zeros, (dim,), jnp.float32) for name in ("q_bias", "v_bias")
        )
        added = jnp.concatenate([q_bias, jnp.zeros_like(q_bias), v_bias]).astype(qkv.dtype)
        qkv = (qkv + added[None, None]).reshape(batch, tokens, 3, self.heads, -1)
        # Heads before tokens: with `bqhd,bkhd` both products take twice the time on a CPU.
        q, k, v = qkv.transpose(2, 0, 3, 1, 4)
        logits = jnp.einsum("bhqd,bhkd->bhqk", q, k, preferred_element_type=jnp.float32)
        logits = logits / math.sqrt(dim // self.heads)
        if self.stored:
            bias = RelativePositions(self.heads, self.stored, name="rel_pos_bias")(self.grid)
        if bias is not None:
            logits = logits + bias[None]
        weights = jax.nn.softmax(logits)
        y = jnp.einsum("bhqk,bhkd->bhqd", weights.astype(self.dtype), v)
        y = y.transpose(0, 2, 1, 3).reshape(x.shape)
        return layers.Linear(dim, True, self.dtype, kernel_init=self.last_init, name="proj")(y), weights


class RelativePositions(nn.Module):
    """What attention logits gain by where query and key are: float32 `[heads, T, T]`, of a table that starts
    as 0.

    The table has a row for each offset of two patches, rows of patches first, and three for pairs with the
    cls token: as query, as key, and with itself.

    Attributes:
      heads: attention heads.
      stored: rows and columns of patches for which the table, `[(2 stored - 1)^2 + 3, heads]`, is stored. For
        another `grid` it is resized.
    """

    heads: int
    stored: int

    @nn.compact
    def __call__(self, grid: tuple[int, int]):
        rows = (2 * self.stored - 1) ** 2 + EXTRA
        table = self.param("table", nn.initializers.zeros, (rows, self.heads), jnp.float32)
        if grid != (self.stored, self.stored):
            table = resize_table(table, (self.stored, self.stored), grid)
        return table[pairs(grid)].transpose(2, 0, 1)


@functools.cache
def pairs(grid: tuple[int, int]) -> np.ndarray:
    """The row of the table for each query and key, int `[T, T]`: the offset query minus key, or a cls row.

    >>> pairs((1, 2))
    array([[5, 3, 3],
           [4, 1, 0],
           [4, 2, 1]])
    """
    height, width = grid
    places = np.stack(np.meshgrid(np.arange(height), np.arange(width), indexing="ij"), -1).reshape(-1, 2)
    offsets = places[:, None] - places + [height - 1, width - 1]
    offset_count = (2 * height - 1) * (2 * width - 1)
    found = np.full((len(places) + 1,) * 2, offset_count + 2)
    found[0, 1:], found[1:, 0] = offset_count, offset_count + 1
    found[1:, 1:] = offsets[..., 0] * (2 * width - 1) + offsets[..., 1]
    found.setflags(write=False)  # the cache returns it again
    return found


def resize_table(table, old: tuple[int, int], new: tuple[int, int]) -> jax.Array:
    """Resize a table of relative positions to another grid of patches: `[rows, heads]`, float32.

    As BEiT and FD do when they load weights (microsoft/unilm, beit/run_class_finetuning.py): the old offsets
    are placed on an axis at distances that grow geometrically so that they reach the new largest offset, and
    a cubic spline is read at whole distances. The ratio of the progression is 1.01 to 1.5; what lies outside
    is the outermost value. The rows of the cls token are kept.

    >>> resize_table(jnp.ones((12, 2)), (2, 2), (3, 3)).shape
    (28, 2)
    """
    rows, columns = (jnp.asarray(spline(2 * a - 1, 2 * b - 1)) for a, b in zip(old, new, strict=True))
    square = table[:-EXTRA].reshape(2 * old[0] - 1, 2 * old[1] - 1, -1)
    resized = jnp.einsum("hi,wj,ijd->hwd", rows, columns, square, precision="highest")
    return jnp.concatenate([resized.reshape(-1, table.shape[1]), table[-EXTRA:]])


def resize_absolute(positions, grid: tuple[int, int]) -> jax.Array:
    """Resize absolute positions `[1, 1 + n * n, D]` to `[1, 1 + height * width, D]`: bicubic, float32.

    As `remap_pretrained_keys_vit` of the released code, utils.py. The position of the cls token is kept.
    """
    resized = resize_positions(positions[0, 1:], grid, 0.0, False)
    return jnp.concatenate([positions[:, :1], resized[None]], axis=1)


@functools.cache
def spline(inputs: int, outputs: int) -> np.ndarray:
    """The matrix `[outputs, inputs]` from values at old offsets to those at new ones, both odd; float32."""
    from scipy.interpolate import make_interp_spline  # most networks do not need it

    if inputs == outputs:
        return np.eye(inputs, dtype=np.float32)
    low, high = 1.01, 1.5
    while high - low > 1e-6:
        ratio = (low + high) / 2
        reach = (1 - ratio ** (inputs // 2)) / (1 - ratio)
        low, high = (low, ratio) if reach > outputs // 2 else (ratio, high)
    distances = np.cumsum(ratio ** np.arange(inputs // 2))
    old = np.concatenate([-distances[::-1], [0.0], distances])
    new = np.clip(np.arange(outputs) - outputs // 2, old[0], old[-1])
    matrix = make_interp_spline(old, np.eye(inputs), k=min(3, inputs - 1))(new).astype(np.float32)
    matrix.setflags(write=False)  # the cache returns it again
    return matrix


def initial(truncated: bool, factor: float = 1.0):
    """N(0, 0.02) times `factor`, cut at 0.02 before if `truncated`."""
    init = (
        nn.initializers.truncated_normal(0.02, lower=-1, upper=1)
        if truncated
        else nn.initializers.normal(0.02)
    )
    return lambda key, shape, dtype=jnp.float32: factor * init(key, shape, dtype)


fd_vit_small = functools.partial(FDVisionTransformer, dim=384, depth=12, heads=6)
fd_vit_base = functools.partial(FDVisionTransformer, dim=768, depth=12, heads=12)
fd_vit_large = functools.partial(FDVisionTransformer, dim=1024, depth=24, heads=16)
