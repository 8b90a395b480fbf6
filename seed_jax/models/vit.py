"""Vision transformers (Dosovitskiy et al. 2021) in the forms that DeiT, DINO, MAE, CLIP and DINOv2 published.

| weights of         | `form`                       | `patch` | `image_size` | images normalised by    |
|--------------------|------------------------------|---------|--------------|-------------------------|
| DeiT, MAE, MoCo v3 | `deit`                       | 16      | 224          | ImageNet's mean and std |
| DINO               | `dino`                       | 8, 16   | 224          | ImageNet's mean and std |
| OpenAI's CLIP      | `clip`                       | 14, 16  | 224          | `CLIP_MEAN`, `CLIP_STD` |
| OpenCLIP (GELU)    | `clip_gelu`                  | 14, 16  | 224          | `CLIP_MEAN`, `CLIP_STD` |
| DINOv2             | `dinov2`, `dinov2_registers` | 14      | 518          | ImageNet's mean and std |

The authors evaluate on the central 224 x 224 pixels of images resized bicubically (MoCo v3: bilinearly) to a
shorter side of 256 (CLIP: 224). MoCo v3's small network has `heads=12`, and its networks start with
`mocov3_init=True`. The width D is 384, 768 and 1024 for
small, base and large.

Parameter names follow timm's: `cls_token`, `pos_embed`, `patch_embed`, `norm` (or `fc_norm`) and
`block0/{norm1,attn/qkv,attn/proj,norm2,mlp/fc1,mlp/fc2}`, but `fc` for `head` and `norm_pre` for CLIP's
`ln_pre`.
"""

import functools
import math
from collections.abc import Callable
from typing import Any, ClassVar, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from seed_jax.errors import UserError, unknown
from seed_jax.models import layers
from seed_jax.models.positions import resize_positions, sine_positions

# github.com/openai/CLIP, clip/clip.py.
CLIP_MEAN = (0.48145466, 0.4578275, 0.40821073)
CLIP_STD = (0.26862954, 0.26130258, 0.27577711)


class Form(NamedTuple):
    """The differences between the published networks, apart from their size.

    Attributes:
      patch_bias: whether the patch embedding has a bias.
      norm_pre: layer norm before the first block.
      quick_gelu: `x sigmoid(1.702 x)` for GELU.
      epsilon: of the layer norms.
      layer_scale: a learnt factor per channel on what a block adds.
      registers: number of tokens without a position, between the cls token and the patches.
      offset, antialias: how position embeddings are resized (`positions.bicubic`).
    """

    patch_bias: bool = True
    norm_pre: bool = False
    quick_gelu: bool = False
    epsilon: float = 1e-6
    layer_scale: bool = False
    registers: int = 0
    offset: float = 0.0
    antialias: bool = False


FORMS = {
    "deit": Form(),
    "dino": Form(offset=0.1),
    "clip": Form(patch_bias=False, norm_pre=True, quick_gelu=True, epsilon=1e-5, antialias=True),
    "clip_gelu": Form(patch_bias=False, norm_pre=True, epsilon=1e-5, antialias=True),
    "dinov2": Form(layer_scale=True, offset=0.1),
    "dinov2_registers": Form(layer_scale=True, registers=4, antialias=True),
}


# timm's `trunc_normal_(std=0.02)`: it truncates at +-2, which is a hundred deviations, so never.
token_init = nn.initializers.normal(0.02)
_xavier = nn.initializers.xavier_uniform()
_each_xavier = nn.initializers.variance_scaling(1, "fan_in", "uniform")  # of three square matrices in one


class VisionTransformer(layers.Architecture):
    """Normalised images `[B, H, W, 3]` -> tokens and `pooled`. `H` and `W` are any multiples of `patch`.

    There are T = 1 + registers + H / patch * W / patch tokens: cls, registers, patches in reading order. The
    features are

      stem             `[B, T, D]`, the input of the first block
      stage1 .. stage4 `[B, T, D]`, the output of each quarter of the blocks (`stage_ends`)
      tokens           `[B, T, D]`, the output of the last block after the final layer norm
      pooled           `[B, D]`, the cls token of `tokens`
      logits           `[B, num_classes]`, if `num_classes` is not None
      attention1 ..    `[B, heads, T, T]` of each block, if `attention`

    All of them are float32, and so are layer norms, softmax and residual sums.

    Attributes:
      dim: D.
      depth: number of blocks.
      heads: attention heads per block.
      patch: side of a patch, pixels.
      form: a key of `FORMS`.
      image_size: side of the square images for which the position embedding is stored. For other images it is
        resized bicubically, as the form's authors do when loading weights (`deit`: facebookresearch/mae,
        util/pos_embed.py; `clip`: mlfoundations/open_clip, resize_pos_embed) or in each forward (DINO,
        DINOv2: vision_transformer.py).
      pool: 'cls', or 'mean' as MAE fine-tunes: then `tokens` are not normalised, and `pooled` is the
        normalised mean over the patches.
      drop_path: stochastic depth; the rate grows linearly from 0 in the first block to this in the last.
      attention: return the attention weights, too.
      remat: compute each block again in the backward pass instead of keeping its activations.
      mocov3_init: start as facebookresearch/moco-v3, vits.py: positions from a fixed table of sines and
        cosines (`sine_positions`), the cls token from N(0, 1e-6), Linear layers from Xavier's uniform
        distribution, with query, key and value apart.
      dtype: of matrix products and GELU.
      undecayed: names of the position table and tokens, which weight decay leaves alone.

    Raises:
      UserError: `form` or `pool` is unknown, `patch` does not divide a size, or `heads` not `dim`.
    """

    dim: int
    depth: int
    heads: int
    patch: int = 16
    form: str = "deit"
    image_size: int = 224
    num_classes: int | None = None
    pool: str = "cls"
    drop_path: float = 0.0
    attention: bool = False
    remat: bool = False
    mocov3_init: bool = False
    dtype: Any = jnp.float32

    undecayed: ClassVar = frozenset({"pos_embed", "cls_token", "register_tokens"})
    stem: ClassVar = frozenset({"patch_embed", "cls_token", "pos_embed", "register_tokens", "norm_pre"})
    adapts: ClassVar = frozenset({"pool", "image_size"})

    @nn.compact
    def __call__(self, x, train: bool, keys=None):
        form = _choice("form", self.form, FORMS)
        pool_mean = _choice("pool", self.pool, {"cls": False, "mean": True})
        check_heads(self.dim, self.heads)
        if self.mocov3_init and self.dim % 4:
            raise UserError(f"dim is {self.dim}, and the positions of mocov3_init need a multiple of 4.")
        x = self._embed(form, x)
        features = {"stem": x}
        block_class = layers.block_class(Block, self.remat, train)
        ends = stage_ends(self.depth)
        for i in range(self.depth):
            rate = self.drop_path * i / max(1, self.depth - 1)
            block = block_class(self.heads, form, rate, self.dtype, self.mocov3_init, name=f"block{i}")
            x, weights = block(x, train, keys)
            if self.attention:
                features[f"attention{i + 1}"] = weights
            if i + 1 in ends:
                features[f"stage{ends[i + 1]}"] = x
        if pool_mean:
            features["tokens"] = x
            features["pooled"] = _layer_norm(form, "fc_norm")(x[:, 1 + form.registers :].mean(1))
        else:
            features["tokens"] = _layer_norm(form, "norm")(x)
            features["pooled"] = features["tokens"][:, 0]
        if self.num_classes is not None:
            fc = _linear(self.num_classes, "fc", self.dtype)
            features["logits"] = fc(features["pooled"]).astype(jnp.float32)
        return features

    @property
    def prefix_tokens(self) -> int:
        """The cls token and the registers."""
        return 1 + _choice("form", self.form, FORMS).registers

    @nn.nowrap
    def block_names(self):
        return [f"block{i}" for i in range(self.depth)]

    @nn.nowrap
    def adapt(self, params, other):
        """The parameters that this network starts with, as MAE fine-tunes (main_finetune.py).

        Positions are resized to `image_size`, and the final norm is dropped for a fresh one where this
        network normalises the mean.
        """
        side, old = (net.image_size // net.patch for net in (self, other))
        if side != old:
            form, positions = FORMS[self.form], params["pos_embed"]
            resized = resize_positions(positions[0, 1:], (side, side), form.offset, form.antialias)
            params = params | {"pos_embed": jnp.concatenate([positions[:, :1], resized[None]], axis=1)}
        return adapt_norm(params, self, other)

    def _embed(self, form, x):
        """The tokens that the first block gets: float32 `[B, T, D]`."""
        check_sides((self.image_size, *x.shape[1:3]), self.patch)
        grid = (x.shape[1] // self.patch, x.shape[2] // self.patch)
        stored = self.image_size // self.patch
        of_cls = of_positions = token_init
        of_patches = None
        if self.mocov3_init:
            of_cls, of_positions = nn.initializers.normal(1e-6), _sine_init
            bound = math.sqrt(6 / (3 * self.patch**2 + self.dim))
            of_patches = functools.partial(_uniform, bound=bound)
        cls = self.param("cls_token", of_cls, (1, 1, self.dim), jnp.float32)
        positions = self.param("pos_embed", of_positions, (1, 1 + stored**2, self.dim), jnp.float32)
        embed = PatchEmbed(self.dim, self.patch, form.patch_bias, self.dtype, of_patches, name="patch_embed")
        x = embed(x)
        if grid != (stored, stored):
            resized = resize_positions(positions[0, 1:], grid, form.offset, form.antialias)
            positions = jnp.concatenate([positions[:, :1], resized[None]], axis=1)
        x = jnp.concatenate([jnp.broadcast_to(cls, (x.shape[0], 1, self.dim)), x], axis=1) + positions
        if form.registers:
            init = nn.initializers.normal(1e-6)
            registers = self.param("register_tokens", init, (1, form.registers, self.dim), jnp.float32)
            registers = jnp.broadcast_to(registers, (x.shape[0], form.registers, self.dim))
            x = jnp.concatenate([x[:, :1], registers, x[:, 1:]], axis=1)
        return _layer_norm(form, "norm_pre")(x) if form.norm_pre else x


class PatchEmbed(nn.Module):
    """`[B, H, W, C]` -> float32 `[B, H / patch * W / patch, dim]`: a convolution of stride `patch`.

    `kernel_init`: of the kernel, with a bias of 0; None for PyTorch's initial values.
    """

    dim: int
    patch: int
    bias: bool
    dtype: Any
    kernel_init: Callable | None = None

    @nn.compact
    def __call__(self, x):
        p, channels = self.patch, x.shape[-1]
        uniform = functools.partial(_uniform, bound=1 / math.sqrt(p * p * channels))
        kernel = self.param("kernel", self.kernel_init or uniform, (p, p, channels, self.dim))
        grid = (x.shape[1] // p, x.shape[2] // p)
        x = x.astype(self.dtype).reshape(-1, grid[0], p, grid[1], p, channels).transpose(0, 1, 3, 2, 4, 5)
        x = x.reshape(-1, p * p * channels)  # all patches as one matrix: see `layers.on_rows`
        x = (x @ kernel.reshape(-1, self.dim).astype(self.dtype)).astype(jnp.float32)
        if self.bias:
            zeros_or_uniform = nn.initializers.zeros if self.kernel_init else uniform
            x += self.param("bias", zeros_or_uniform, (self.dim,)).reshape(1, -1)
        return x.reshape(-1, grid[0] * grid[1], self.dim)


class Block(nn.Module):
    """Attention, then a perceptron of width 4 D, each on a layer norm of the stream and added to it.

    Called with tokens `[B, T, D]`; returns the like and the attention weights, float32 `[B, heads, T, T]`.
    """

    heads: int
    form: Form
    drop_path: float
    dtype: Any
    xavier: bool = False

    @nn.compact
    def __call__(self, x, train: bool, keys):
        of_qkv, of_others = (_each_xavier, _xavier) if self.xavier else (token_init, token_init)
        attention = Attention(self.heads, self.dtype, (of_qkv, of_others), name="attn")
        y, weights = attention(_layer_norm(self.form, "norm1")(x))
        x = self._added(x, y, 1, train, keys)
        mlp = MLP(self.form.quick_gelu, self.dtype, (of_others, of_others), name="mlp")
        y = mlp(_layer_norm(self.form, "norm2")(x))
        return self._added(x, y, 2, train, keys), weights

    def _added(self, x, y, number, train, keys):
        if self.form.layer_scale:
            y = layers.LayerScale(name=f"ls{number}")(y)
        y = y.astype(jnp.float32)
        return x + layers.DropPath(self.drop_path, name=f"drop_path{number}")(y, train, keys)


class Attention(nn.Module):
    """Softmax attention among all tokens of `[B, T, D]`; also returns its weights.

    They are float32 `[B, heads, T, T]`.
    """

    heads: int
    dtype: Any
    kernel_inits: tuple[Callable, Callable] = (token_init, token_init)

    @nn.compact
    def __call__(self, x):
        batch, tokens, dim = x.shape
        of_qkv, of_proj = self.kernel_inits
        qkv = _linear(3 * dim, "qkv", self.dtype, of_qkv)(x).reshape(batch, tokens, 3, self.heads, -1)
        # Heads before tokens: with `bqhd,bkhd` both products take twice the time on a CPU.
        q, k, v = qkv.transpose(2, 0, 3, 1, 4)
        logits = jnp.einsum("bhqd,bhkd->bhqk", q, k, preferred_element_type=jnp.float32)
        weights = jax.nn.softmax(logits / math.sqrt(dim // self.heads))
        y = jnp.einsum("bhqk,bhkd->bhqd", weights.astype(self.dtype), v)
        y = y.transpose(0, 2, 1, 3).reshape(x.shape)
        return _linear(dim, "proj", self.dtype, of_proj)(y), weights


class MLP(nn.Module):
    """Linear to 4 D, GELU (exact, or CLIP's `x sigmoid(1.702 x)`), Linear back."""

    quick_gelu: bool
    dtype: Any
    kernel_inits: tuple[Callable, Callable] = (token_init, token_init)

    @nn.compact
    def __call__(self, x):
        first, second = self.kernel_inits
        y = layers.Linear(4 * x.shape[-1], dtype=self.dtype, kernel_init=first, name="fc1")(x)
        y = y * jax.nn.sigmoid(1.702 * y) if self.quick_gelu else jax.nn.gelu(y, approximate=False)
        return layers.Linear(x.shape[-1], dtype=self.dtype, kernel_init=second, name="fc2")(y)


def adapt_norm(params: dict, network, other) -> dict:
    """The parameters of `other` with the final norm that `network` has: `norm`, or `fc_norm` of the mean.

    Raises:
      UserError: `other` has no norm of tokens.
    """
    if network.pool == other.pool:
        return params
    if other.pool == "mean":
        raise UserError(
            f"student.options.pool is {network.pool!r}, and the network of student.init has 'mean', without "
            "a norm of the tokens: use 'mean'."
        )
    fresh = {"scale": jnp.ones(network.dim), "bias": jnp.zeros(network.dim)}
    return {name: tree for name, tree in params.items() if name != "norm"} | {"fc_norm": fresh}


def stage_ends(depth: int) -> dict[int, int]:
    """The stage that ends after a number of blocks: each quarter of them, rounded up.

    >>> stage_ends(12), stage_ends(6), stage_ends(2)
    ({3: 1, 6: 2, 9: 3, 12: 4}, {2: 1, 3: 2, 5: 3, 6: 4}, {1: 2, 2: 4})
    """
    return {-(-stage * depth // 4): stage for stage in range(1, 5)}


def check_heads(dim: int, heads: int) -> None:
    """Raise `UserError` unless the heads share the width evenly."""
    if dim % heads:
        raise UserError(f"A vision transformer has dim={dim}, which heads={heads} do not divide: use others.")


def check_sides(sides, patch: int) -> None:
    """Raise `UserError` for the first side of an image, in pixels, that patches do not divide."""
    for side in sides:
        if side % patch:
            nearest = max(1, round(side / patch)) * patch
            raise UserError(
                f"An image side is {side} pixels, which is not a multiple of patch={patch}: use {nearest}."
            )


def _sine_init(key, shape, dtype):
    """`sine_positions` behind a cls token at 0."""
    _, tokens, dim = shape
    table = sine_positions(math.isqrt(tokens - 1), dim)
    return jnp.asarray(np.concatenate([np.zeros((1, dim)), table])[None], dtype)


def _layer_norm(form, name):
    return layers.LayerNorm(form.epsilon, name=name)


def _linear(features, name, dtype, init=token_init):
    return layers.Linear(features, dtype=dtype, kernel_init=init, name=name)


def _uniform(key, shape, bound):
    return jax.random.uniform(key, shape, jnp.float32, -bound, bound)


def _choice(what, name, table):
    if name not in table:
        raise unknown(f"{what} of a vision transformer", name, table)
    return table[name]


vit_small = functools.partial(VisionTransformer, dim=384, depth=12, heads=6)
vit_base = functools.partial(VisionTransformer, dim=768, depth=12, heads=12)
vit_large = functools.partial(VisionTransformer, dim=1024, depth=24, heads=16)
