"""The operations of augmentation policies, everything random passed in, on batches of float images in [0, 1].

They do what PIL's and torchvision's operations do to uint8. An operation that needs whole levels (equalize,
posterize, solarize) rounds to the nearest n / 255. Amounts are one for each image, `[B]`, or a scalar.
"""

import jax
import jax.numpy as jnp

from seed_jax.data.photometric import blend, luma
from seed_jax.errors import UserError

_SLACK = 1e-3  # of a level: rounding errors do not turn a whole level into the one below


def check_rgb(images: jax.Array, what: str) -> None:
    """Raise an error unless `images` is float `[B, H, W, 3]`; `what` works on them, for the message.

    Raises:
      UserError: another rank or number of channels.
      TypeError: whole numbers instead of floats in [0, 1].
    """
    if images.ndim != 4 or images.shape[-1] != 3:
        raise UserError(
            f"{what} works on RGB images [B, H, W, 3], and these are {list(images.shape)}: choose another "
            "augmentation, or repeat the grey channel three times."
        )
    if not jnp.issubdtype(images.dtype, jnp.floating):
        raise TypeError(f"{what} works on floats in [0, 1], and these are {images.dtype}: divide by 255.")


def truncate(x):
    """Floats in [0, 1] cut down to whole levels n / 255, as a cast to uint8 and back does.

    MingSun-Tse/Good-DA-in-KD does so before flip, crop and AutoAugment. It first undoes its normalisation,
    whose rounding errors cost 14 to 24 % of the 256 levels one level, by channel. We keep whole levels.
    """
    return jnp.floor(255 * x + _SLACK) / 255


def shear(x, across=0.0, down=0.0, *, about_centre=False):
    """Shear `[B, H, W, 3]`: pixel (column i, row j) comes from (i + across * j, j + down * i).

    The nearest pixel is taken; what comes from outside is black. Use one of the two amounts at a time.

    Args:
      about_centre: False shears about the top left corner, as torchvision does today (issue 5204 of
        pytorch/vision). True is torchvision 0.10: about the centre, by tan(amount).
    """
    return resample(x, shear_matrix(x.shape, across, down, about_centre))


def translate(x, right=0.0, down=0.0):
    """Move `[B, H, W, 3]` by pixels, cut to whole ones toward 0; black moves in."""
    return resample(x, translation_matrix(x.shape, right, down))


def rotate(x, degrees):
    """Rotate `[B, H, W, 3]` about its centre, counter-clockwise, nearest pixel, black from outside."""
    return resample(x, rotation_matrix(x.shape, degrees))


def shear_matrix(shape, across, down, about_centre):
    """The matrices of `shear`, for `resample`."""
    across, down = _amounts(shape, across), _amounts(shape, down)
    if about_centre:
        across, down = jnp.tan(across), jnp.tan(down)
    x0, y0 = (shape[2] / 2, shape[1] / 2) if about_centre else (0.0, 0.0)
    return _matrix(1.0, across, -across * y0, down, 1.0, -down * x0)


def translation_matrix(shape, right, down, whole=True):
    """The matrices of `translate`, for `resample`; not `whole`: also by fractions of a pixel."""
    right, down = _amounts(shape, right), _amounts(shape, down)
    if whole:
        right, down = jnp.trunc(right), jnp.trunc(down)
    return _matrix(1.0, 0.0, -right, 0.0, 1.0, -down)


def rotation_matrix(shape, degrees):
    """The matrices of `rotate`, for `resample`."""
    angle = jnp.deg2rad(_amounts(shape, degrees))
    cos, sin = jnp.cos(angle), jnp.sin(angle)
    x0, y0 = shape[2] / 2, shape[1] / 2
    return _matrix(cos, -sin, x0 - cos * x0 + sin * y0, sin, cos, y0 - sin * x0 - cos * y0)


def resample(x, matrices, *, bicubic=False, fill=0.0):
    """Each pixel's value from where its centre is sent.

    Args:
      x: float `[B, H, W, 3]`.
      matrices: float32 `[B, 2, 3]`, from (column, row, 1) of the result to (column, row) of `x`, in pixels,
        as PIL's `Image.transform`; pixel i covers [i, i + 1).
      bicubic: PIL's interpolation between 4 x 4 pixels (a = -1, edges repeated); False takes the nearest.
      fill: colour of what comes from outside, a number or `[3]`.
    """
    _, height, width, _ = x.shape
    fill = jnp.asarray(fill, x.dtype)
    columns, rows = jnp.meshgrid(jnp.arange(width) + 0.5, jnp.arange(height) + 0.5)

    def one(image, m):
        # A centre sent to a boundary takes the pixel behind it, whatever the rounding errors.
        column = jnp.floor(m[0, 0] * columns + m[0, 1] * rows + m[0, 2] + 1e-4).astype(jnp.int32)
        row = jnp.floor(m[1, 0] * columns + m[1, 1] * rows + m[1, 2] + 1e-4).astype(jnp.int32)
        inside = (column >= 0) & (column < width) & (row >= 0) & (row < height)
        place = jnp.clip(row, 0, height - 1) * width + jnp.clip(column, 0, width - 1)
        return jnp.where(inside[..., None], image.reshape(-1, 3)[place], fill)

    def between(image, m):
        column, row = (m[k, 0] * columns + m[k, 1] * rows + m[k, 2] for k in (0, 1))
        inside = (column >= 0) & (column < width) & (row >= 0) & (row < height)
        pixels, total = image.reshape(-1, 3), 0.0
        for i, down in enumerate(_cubic_weights(row - 0.5)):
            for j, across in enumerate(_cubic_weights(column - 0.5)):
                y = jnp.clip(jnp.int32(jnp.floor(row - 0.5)) + i - 1, 0, height - 1)
                x = jnp.clip(jnp.int32(jnp.floor(column - 0.5)) + j - 1, 0, width - 1)
                total += (down * across)[..., None] * pixels[y * width + x]
        return jnp.where(inside[..., None], jnp.clip(total, 0, 1), fill)

    return jax.vmap(between if bicubic else one)(x, matrices)


def _cubic_weights(place):
    """Weights of the pixels -1, 0, 1 and 2 after the one below `place`: Keys' kernel with a = -1."""
    t = place - jnp.floor(place)
    near = [(d - 2) * d * d + 1 for d in (t, 1 - t)]
    far = [((5 - d) * d - 8) * d + 4 for d in (1 + t, 2 - t)]
    return far[0], near[0], near[1], far[1]


def brightness(x, factor):
    """Blend `[B, H, W, 3]` with black: factor 0 is black, 1 leaves the image."""
    return blend(x, 0.0, per_image(factor))


def colour(x, factor):
    """Blend `[B, H, W, 3]` with its grey, pixel by pixel: factor 0 is grey."""
    return blend(x, luma(x), per_image(factor))


def contrast(x, factor):
    """Blend `[B, H, W, 3]` with its mean grey: factor 0 is even. PIL rounds the mean to a whole level."""
    return blend(x, mean_grey(x), per_image(factor))


def sharpness(x, factor):
    """Blend `[B, H, W, 3]` with its `smooth`: factor 0 is smooth, above 1 is sharper."""
    return blend(x, smooth(x), per_image(factor))


def mean_grey(x):
    """The mean grey of each image `[B, H, W, 3]`, `[B, 1, 1, 1]`."""
    return luma(x).mean(axis=(1, 2, 3), keepdims=True)


def smooth(x):
    """PIL's SMOOTH filter: the mean of 3 x 3 pixels where the middle counts five times; borders stay."""
    _, height, width, _ = x.shape
    if min(height, width) < 3:
        return x
    rows = x[:, :-2] + x[:, 1:-1] + x[:, 2:]
    box = rows[:, :, :-2] + rows[:, :, 1:-1] + rows[:, :, 2:]
    inner = (box + 4 * x[:, 1:-1, 1:-1]) / 13
    return x.at[:, 1:-1, 1:-1].set(inner)


def invert(x):
    """1 - x."""
    return 1 - x


def solarize(x, threshold):
    """Invert the levels of `[B, H, W, 3]` from `threshold` up, in levels, 0 to 256; it may be a fraction."""
    return jnp.where(_level(x) >= per_image(threshold), 1 - x, x)


def solarize_add(x, amount):
    """Add `amount` levels to the levels of `[B, H, W, 3]` below 128, up to 255."""
    return jnp.where(_level(x) < 128, jnp.minimum(x + per_image(amount) / 255, 1), x)


def posterize(x, bits):
    """Keep the highest bits, 0 to 8, of each level of `[B, H, W, 3]`; `bits` are whole numbers."""
    step = jnp.exp2(8 - per_image(bits))
    return jnp.floor(_level(x) / step) * step / 255


def autocontrast(x):
    """Stretch each channel of each image `[B, H, W, 3]` to [0, 1]; a channel of one value stays.

    torchvision 0.10 leaves all channels of an image as they are if one of them has one value.
    """
    low, high = x.min(axis=(1, 2), keepdims=True), x.max(axis=(1, 2), keepdims=True)
    stretch = high > low
    return jnp.where(stretch, (x - low) / jnp.where(stretch, high - low, 1), x)


def equalize(x):
    """Equalise the histogram of each channel of each image `[B, H, W, 3]`, as PIL's ImageOps.equalize.

    The result has whole levels, by a table from the histogram of the nearest levels; a channel for which PIL
    has no table stays.
    """

    def one(channel, levels):
        histogram = jnp.zeros(256, jnp.int32).at[levels].add(1)
        below = jnp.cumsum(histogram) - histogram
        step = below[levels.max()] // 255  # without the pixels of the highest level
        table = jnp.minimum((below + step // 2) // jnp.maximum(step, 1), 255)
        return jnp.where(step > 0, table[levels] / 255, channel)

    pixels = x.reshape(len(x), -1, 3)
    channels = jax.vmap(one, in_axes=1, out_axes=1)
    return jax.vmap(channels)(pixels, _level(pixels).astype(jnp.int32)).reshape(x.shape).astype(x.dtype)


def per_image(amount):
    """An amount, a scalar or `[B]`, in the shape that broadcasts against images, `[B or 1, 1, 1, 1]`."""
    return jnp.reshape(jnp.asarray(amount, jnp.float32), (-1, 1, 1, 1))


def _amounts(shape, amount):
    return jnp.broadcast_to(jnp.asarray(amount, jnp.float32), shape[:1])


def _level(x):
    return jnp.clip(jnp.round(255 * x), 0, 255)


def _matrix(*entries):
    return jnp.stack(jnp.broadcast_arrays(*entries), axis=-1).reshape(-1, 2, 3)
