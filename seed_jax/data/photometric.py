"""Flip, colour and blur on the device, inside the jitted step: one key a sample, one fold a view.

The operations are torchvision's on floats in [0, 1]. What is random is drawn per sample under vmap, so that a
sample's view does not depend on its batch or on how the batch is sharded.
"""

import dataclasses

import jax
import jax.numpy as jnp

from seed_jax.errors import unknown

_LUMA = (0.299, 0.587, 0.114)  # ITU-R 601, as PIL's mode L
_BLUR_SIGMA = (0.1, 2.0)
_BLUR_RADIUS = 6  # three standard deviations of the widest kernel


@dataclasses.dataclass(frozen=True)
class Preset:
    """Jitter strengths, and probabilities of the operations; a strength or probability of 0 costs nothing.

    Factors are drawn from U(1 - s, 1 + s), the hue from U(-s, s) turns.
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

# Named as their codes name them; the probability of a flip belongs to the ViewSpec. What differs from those
# codes: factors are not rounded to 1/255, the blur is a Gaussian cut at 6 pixels where PIL's is three boxes
# and SimCLR's cut at a tenth of the view with zeros around it, and the contrast blends with the mean grey, as
# torchvision's, where SimCLR's TensorFlow has a mean for each channel.
PRESETS = {
    "none": Preset(),
    "mocov2": _MOCOV2,  # facebookresearch/moco with --aug-plus
    "mocov1": Preset(
        0.4, 0.4, 0.4, 0.4, jitter=1.0, grey=0.2, grey_first=True
    ),  # and SEED's for SimCLR teachers
    "simclr": Preset(0.8, 0.8, 0.8, 0.2, grey=0.2, blur=0.5),  # google-research/simclr, SwAV's own too
    "swav": _MOCOV2,  # what SEED feeds its SwAV teachers (jacobswan1/SEED, tools/utils.py)
    "swav_small": _MOCOV2,  # the same for its small patches
    "fd": Preset(),  # SwinTransformer/Feature-Distillation, data/data_fd.py: crop and flip alone
    "supervised": Preset(),
    "cifar": Preset(),  # crop and flip alone
    "digits": Preset(brightness=0.4, contrast=0.4),
}


def augment(
    preset: str, images: jax.Array, keys: jax.Array, flip: float = 0.0, first_view: int = 0
) -> jax.Array:
    """uint8 `[B, V, H, W, 3]` and typed keys `[B]` to float32 `[B, V, H, W, 3]` in [0, 1].

    View `v` of a sample is keyed by `fold_in(key, first_view + v)` and mirrored with probability `flip`.
    Raises `UserError` for an unknown preset.
    """
    if preset not in PRESETS:
        raise unknown("photometric preset", preset, PRESETS)
    p = PRESETS[preset]
    x = images.astype(jnp.float32) / 255
    if (
        p.jitter * max(p.brightness, p.contrast, p.saturation, p.hue) + p.grey + p.blur + p.solarise + flip
        == 0
    ):
        return x
    views = first_view + jnp.arange(images.shape[1])

    def sample(x, key):
        return jax.vmap(lambda x, view: _augment_one(p, flip, x, jax.random.fold_in(key, view)))(x, views)

    return jax.vmap(sample)(x, keys)


def _augment_one(p: Preset, flip: float, x: jax.Array, key: jax.Array) -> jax.Array:
    u = jax.random.uniform(key, (14,))  # in one draw, which compiles far faster than one for each choice
    jittered, grey, blurred, solarised = u[0] < p.jitter, u[1] < p.grey, u[2] < p.blur, u[3] < p.solarise
    if flip:  # commutes with all that follows
        x = jnp.where(u[13] < flip, x[:, ::-1], x)
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
    """Brightness (0), contrast (1), saturation (2), hue (3) of `[H, W, 3]`, those in `order`, in that order.

    `offset` `[4]`: the factors of the first three less one, and the turn of the hue. The first three are
    blends: with black, with the mean grey, with the grey.
    """

    def step(x, op):
        grey = luma(x)
        other = jnp.where(op == 1, grey.mean(), jnp.where(op == 2, grey, 0.0))
        out = blend(x, other, 1 + offset[op])
        return (jnp.where(op == 3, shift_hue(x, offset[3]), out) if has_hue else out), None

    # A loop, because XLA would fuse unrolled steps and then recompute the early ones in each later one.
    return jax.lax.scan(step, x, order)[0]


def blend(x, other, factor):
    """`factor * x + (1 - factor) * other`, clipped: PIL's ImageEnhance."""
    return jnp.clip(factor * x + (1 - factor) * other, 0.0, 1.0)


def luma(x: jax.Array) -> jax.Array:
    """Grey `[..., 1]` of RGB `[..., 3]`."""
    r, g, b = _LUMA
    return r * x[..., 0:1] + g * x[..., 1:2] + b * x[..., 2:3]


def shift_hue(x: jax.Array, shift: jax.Array) -> jax.Array:
    """RGB `[H, W, 3]` with its hue turned by `shift` turns in HSV."""
    r, g, b = x[..., 0:1], x[..., 1:2], x[..., 2:3]
    value = jnp.maximum(jnp.maximum(r, g), b)
    chroma = value - jnp.minimum(jnp.minimum(r, g), b)
    scale = 1 / jnp.where(chroma == 0, 1.0, chroma)
    sector = jnp.where(value == g, 2 + (b - r) * scale, 4 + (r - g) * scale)
    sector = jnp.where(value == r, (g - b) * scale, sector)
    # Back to RGB without branches: each channel is the same hat-shaped function of the hue, a third apart.
    k = sector + (6 * shift + jnp.array([5.0, 3.0, 1.0]).reshape(1, 1, 3))
    k = k - 6 * jnp.floor(k / 6)
    return value - chroma * jnp.clip(jnp.minimum(k, 4 - k), 0.0, 1.0)


def gaussian_blur(x: jax.Array, sigma: jax.Array) -> jax.Array:
    """A Gaussian of standard deviation `sigma` pixels over `[H, W, 3]`, cut at 6 pixels, edges repeated.

    PIL's GaussianBlur approximates the same kernel by three box blurs.
    """
    taps = jnp.arange(-_BLUR_RADIUS, _BLUR_RADIUS + 1)
    weights = jnp.exp(-0.5 * (taps / sigma) ** 2)
    weights = weights / weights.sum()
    for axis in (0, 1):
        pad = [(0, 0)] * 3
        pad[axis] = (_BLUR_RADIUS, _BLUR_RADIUS)
        # Without the barrier XLA recomputes what comes before once for each of the thirteen taps.
        padded = jax.lax.optimization_barrier(jnp.pad(x, pad, mode="edge"))
        shifted = (jax.lax.slice_in_dim(padded, n, n + x.shape[axis], axis=axis) for n in range(len(taps)))
        x = sum(weight * pixels for weight, pixels in zip(weights, shifted, strict=True))
    return jnp.minimum(x, 1.0)  # the weights add up to 1 only within rounding


def solarise(x: jax.Array) -> jax.Array:
    """Values from one half up are inverted."""
    return jnp.where(x >= 0.5, 1 - x, x)
