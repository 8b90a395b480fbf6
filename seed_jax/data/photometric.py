"""Flip, colour and blur on the device, inside the jitted step.

The operations are torchvision's, on floats in [0, 1]. Each sample has one key, folded by the index of the
view. Random numbers are drawn per sample under vmap, so a view depends neither on the rest of the batch nor
on the sharding.
"""

import dataclasses
import functools

import jax
import jax.numpy as jnp

from seed_jax.errors import unknown

_LUMA = (0.299, 0.587, 0.114)
_BLUR_SIGMA = (0.1, 2.0)
_BLUR_RADIUS = 6  # pixels: three standard deviations of the widest kernel
_NUMBERS = 14  # 0-3: apply jitter, grey, blur, solarise; 4-7: factors; 8-11: order; 12: sigma; 13: flip


@dataclasses.dataclass(frozen=True)
class Preset:
    """Strengths of the colour jitter and probabilities of the operations.

    An operation whose strength or probability is 0 is not compiled.

    Attributes:
      brightness: strength s; the factor is drawn from U(1 - s, 1 + s).
      contrast: as brightness.
      saturation: as brightness.
      hue: strength s; the shift is drawn from U(-s, s) turns.
      jitter: probability of the four operations above, applied together in random order.
      grey: probability of replacing the colours by their grey.
      grey_first: whether grey comes before the jitter instead of after it.
      blur: probability of a Gaussian blur.
      solarise: probability of inverting the values from 0.5 up.
    """

    brightness: float = 0.0
    contrast: float = 0.0
    saturation: float = 0.0
    hue: float = 0.0
    jitter: float = 0.8
    grey: float = 0.0
    grey_first: bool = False
    blur: float = 0.0
    solarise: float = 0.0


_MOCOV2 = Preset(0.4, 0.4, 0.4, 0.1, grey=0.2, blur=0.5)

# The names are those of the original code; the flip probability is a field of ViewSpec. We differ from the
# original code in three ways. Values are not rounded to 1/255 between operations. The blur is a Gaussian cut
# at 6 pixels; PIL uses three box blurs, and SimCLR cuts at a tenth of the view and pads with zeros. Contrast
# blends with the mean grey, as in torchvision; SimCLR's TensorFlow code uses the mean of each channel.
PRESETS = {
    "none": Preset(),
    "mocov2": _MOCOV2,  # facebookresearch/moco with --aug-plus
    "mocov1": Preset(
        0.4, 0.4, 0.4, 0.4, jitter=1.0, grey=0.2, grey_first=True
    ),  # facebookresearch/moco without --aug-plus; SEED uses it for SimCLR teachers
    "simclr": Preset(0.8, 0.8, 0.8, 0.2, grey=0.2, blur=0.5),  # google-research/simclr; also SwAV's own code
    "swav": _MOCOV2,  # SEED's views for its SwAV teachers (jacobswan1/SEED, tools/utils.py)
    "swav_small": _MOCOV2,  # SEED's small patches for the same teachers
    # facebookresearch/dino, main_dino.py: the first global view, the second one, the local views
    "dino": Preset(0.4, 0.4, 0.2, 0.1, grey=0.2, blur=1.0),
    "dino_second": Preset(0.4, 0.4, 0.2, 0.1, grey=0.2, blur=0.1, solarise=0.2),
    "dino_local": Preset(0.4, 0.4, 0.2, 0.1, grey=0.2, blur=0.5),
    "fd": Preset(),  # SwinTransformer/Feature-Distillation, data/data_fd.py: only crop and flip
    "supervised": Preset(),
    "cifar": Preset(),  # only crop and flip
    "digits": Preset(brightness=0.4, contrast=0.4),
}


def augment(
    preset: str, images: jax.Array, keys: jax.Array, flip: float = 0.0, first_view: int = 0
) -> tuple[jax.Array, jax.Array]:
    """Augment crops: returns the views and whether each one was mirrored.

    Args:
      preset: a key of `PRESETS`.
      images: uint8 `[B, V, H, W, 3]`.
      keys: typed keys `[B]`, one per sample; view `v` uses `fold_in(key, first_view + v)`.
      flip: probability of mirroring a view left to right.
      first_view: index of the first view, where a sample has views in several arrays.

    Returns:
      The views, float32 `[B, V, H, W, 3]` in [0, 1], and `flips` of them, bool `[B, V]`.

    Raises:
      UserError: unknown preset.
    """
    if preset not in PRESETS:
        raise unknown("photometric preset", preset, PRESETS)
    p = PRESETS[preset]
    x = images.astype(jnp.float32) / 255
    colour = max(p.brightness, p.contrast, p.saturation, p.hue)
    if p.jitter * colour + p.grey + p.blur + p.solarise + flip == 0:
        return x, jnp.zeros(images.shape[:2], bool)
    u = numbers(keys, images.shape[1], first_view)
    flipped = flips(u, flip)
    if flip:  # mirroring commutes with the operations that follow
        x = jnp.where(flipped[..., None, None, None], x[..., ::-1, :], x)
    return jax.vmap(jax.vmap(functools.partial(_augment_one, p)))(x, u), flipped


def numbers(keys: jax.Array, count: int, first_view: int = 0) -> jax.Array:
    """The uniform numbers of `count` views of each sample, float32 `[B, count, 14]` in [0, 1).

    View `v` is keyed by `fold_in(key, first_view + v)`; `keys` are typed, `[B]`.
    """

    def one(key, view):
        # One draw of all numbers compiles far faster than one draw per choice.
        return jax.random.uniform(jax.random.fold_in(key, view), (_NUMBERS,))

    views = first_view + jnp.arange(count)
    return jax.vmap(lambda key: jax.vmap(lambda view: one(key, view))(views))(keys)


def flips(u: jax.Array, probability: float) -> jax.Array:
    """Which views to mirror left to right, bool `[B, V]`, from their `numbers` `[B, V, 14]`."""
    return u[..., 13] < probability


def _augment_one(p: Preset, x: jax.Array, u: jax.Array) -> jax.Array:
    jittered, grey, blurred, solarised = u[0] < p.jitter, u[1] < p.grey, u[2] < p.blur, u[3] < p.solarise
    if p.grey and p.grey_first:
        x = jnp.where(grey, luma(x), x)
    strengths = (p.brightness, p.contrast, p.saturation, p.hue)
    active = [op for op, strength in enumerate(strengths) if strength]
    if p.jitter and active:
        offset = jnp.where(jittered, jnp.array(strengths) * (2 * u[4:8] - 1), 0.0)
        order = jnp.array(active)[jnp.argsort(u[8 : 8 + len(active)])]
        x = jitter(x, offset, order, has_hue=p.hue > 0)
    if p.grey and not p.grey_first:
        x = jnp.where(grey, luma(x), x)
    if p.blur:
        low, high = _BLUR_SIGMA
        x = jnp.where(blurred, gaussian_blur(x, low + (high - low) * u[12]), x)
    if p.solarise:
        x = jnp.where(solarised, solarise(x), x)
    return x


def jitter(x: jax.Array, offset: jax.Array, order: jax.Array, has_hue: bool = True) -> jax.Array:
    """Change brightness (0), contrast (1), saturation (2) and hue (3) of an image, as in torchvision.

    Brightness blends with black, contrast with the mean grey, saturation with the grey of each pixel.

    Args:
      x: float32 RGB `[H, W, 3]` in [0, 1].
      offset: float32 `[4]`: the factors of the three blends minus 1, and the hue shift in turns.
      order: int `[n]`, the operations to apply, in this order.
      has_hue: False leaves out the hue code, which is the most expensive.
    """

    def step(x, op):
        grey = luma(x)
        other = jnp.where(op == 1, grey.mean(), jnp.where(op == 2, grey, 0.0))
        out = blend(x, other, 1 + offset[op])
        return (jnp.where(op == 3, shift_hue(x, offset[3]), out) if has_hue else out), None

    # XLA would fuse unrolled steps and recompute the early ones in each later one.
    return jax.lax.scan(step, x, order)[0]


def blend(x, other, factor):
    """`factor * x + (1 - factor) * other`, clipped to [0, 1], as PIL's ImageEnhance."""
    return jnp.clip(factor * x + (1 - factor) * other, 0.0, 1.0)


def luma(x: jax.Array) -> jax.Array:
    """Grey `[..., 1]` of RGB `[..., 3]`, by ITU-R 601 as PIL's mode L."""
    r, g, b = _LUMA
    return r * x[..., 0:1] + g * x[..., 1:2] + b * x[..., 2:3]


def shift_hue(x: jax.Array, shift: jax.Array) -> jax.Array:
    """Shift the hue of RGB `[H, W, 3]` by `shift` turns in HSV."""
    r, g, b = x[..., 0:1], x[..., 1:2], x[..., 2:3]
    value = jnp.maximum(jnp.maximum(r, g), b)
    chroma = value - jnp.minimum(jnp.minimum(r, g), b)
    scale = 1 / jnp.where(chroma == 0, 1.0, chroma)
    sector = jnp.where(value == g, 2 + (b - r) * scale, 4 + (r - g) * scale)
    sector = jnp.where(value == r, (g - b) * scale, sector)
    # No branches: each channel is the same hat-shaped function of the hue, shifted by a third of a turn.
    k = sector + (6 * shift + jnp.array([5.0, 3.0, 1.0]).reshape(1, 1, 3))
    k = k - 6 * jnp.floor(k / 6)
    return value - chroma * jnp.clip(jnp.minimum(k, 4 - k), 0.0, 1.0)


def gaussian_blur(x: jax.Array, sigma: jax.Array) -> jax.Array:
    """Blur `[H, W, 3]` with a Gaussian of standard deviation `sigma` pixels, cut at 6 pixels, edges repeated.

    PIL's GaussianBlur approximates the same kernel by three box blurs.
    """
    taps = jnp.arange(-_BLUR_RADIUS, _BLUR_RADIUS + 1)
    weights = jnp.exp(-0.5 * (taps / sigma) ** 2)
    weights = weights / weights.sum()
    for axis in (0, 1):
        pad = [(0, 0)] * 3
        pad[axis] = (_BLUR_RADIUS, _BLUR_RADIUS)
        # Without the barrier XLA recomputes the input once per tap.
        padded = jax.lax.optimization_barrier(jnp.pad(x, pad, mode="edge"))
        shifted = (jax.lax.slice_in_dim(padded, n, n + x.shape[axis], axis=axis) for n in range(len(taps)))
        x = sum(weight * pixels for weight, pixels in zip(weights, shifted, strict=True))
    return jnp.minimum(x, 1.0)  # the weights add up to 1 only within rounding


def solarise(x: jax.Array) -> jax.Array:
    """Invert the values from 0.5 up, as PIL's ImageOps.solarize."""
    return jnp.where(x >= 0.5, 1 - x, x)
