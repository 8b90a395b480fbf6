"""AutoAugment, RandAugment and TrivialAugment on the device, inside the jitted step.

The operations and their ranges are torchvision's (transforms/autoaugment.py).

What it costs. An image gets one operation after the other, and vmap over a switch would compute all of them
for each image. Instead a batch passes three stages, one for each kind of operation: one resampling by
matrices, one blend, and the operations on levels, of which only equalize needs a histogram. Images that ask
for something else pass a stage unchanged. A stage that no image of the batch asks for is skipped when the
step runs, so with one draw for the whole batch at most one stage runs. The operations of a policy are a scan:
each stage is compiled once, whatever the policy has.

Measured for AutoAugment of 64 images on a busy CPU with two cores, as CPU time: 1.4 to 1.7 s to compile. With
one draw an image, 8 ms a batch at 32 pixels and 0.6 s at 224, most of it for equalize; with one draw a batch,
2 ms and 0.1 s on average.
"""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np

from seed_jax.data import image_ops as ops
from seed_jax.data import rng
from seed_jax.data.photometric import blend, luma
from seed_jax.errors import UserError, unknown

OPS = (
    *("identity", "shear_x", "shear_y", "translate_x", "translate_y", "rotate"),
    *("brightness", "colour", "contrast", "sharpness"),
    *("posterize", "solarize", "autocontrast", "equalize", "invert", "solarize_add"),
)
_GEOMETRY, _BLENDS, _LEVELS = range(1, 6), range(6, 10), range(10, 16)
_SIGNED = range(1, 10)  # their amount is negated in half of the draws
_WITHOUT_INVERT = OPS.index("invert")  # torchvision's RandAugment and TrivialAugment draw from the first 14


def _policy(text: str) -> tuple:
    """Sub-policies, each two of (operation, probability, level), from lines of `name probability level`."""
    steps = [part.split() for line in text.split("\n") for part in line.split("|") if part.strip()]
    steps = [(name, float(probability), int(level)) for name, probability, level in steps]
    return tuple(zip(steps[::2], steps[1::2], strict=True))


# Cubuk et al., arXiv 1805.09501, tables 7 and 9, as torchvision has them; operations without an amount have
# level 0. Some sub-policies occur twice, and some probabilities are 0.
POLICIES = {
    "cifar10": _policy("""
        invert       0.1 0 | contrast     0.2 6
        rotate       0.7 2 | translate_x  0.3 9
        sharpness    0.8 1 | sharpness    0.9 3
        shear_y      0.5 8 | translate_y  0.7 9
        autocontrast 0.5 0 | equalize     0.9 0
        shear_y      0.2 7 | posterize    0.3 7
        colour       0.4 3 | brightness   0.6 7
        sharpness    0.3 9 | brightness   0.7 9
        equalize     0.6 0 | equalize     0.5 0
        contrast     0.6 7 | sharpness    0.6 5
        colour       0.7 7 | translate_x  0.5 8
        equalize     0.3 0 | autocontrast 0.4 0
        translate_y  0.4 3 | sharpness    0.2 6
        brightness   0.9 6 | colour       0.2 8
        solarize     0.5 2 | invert       0.0 0
        equalize     0.2 0 | autocontrast 0.6 0
        equalize     0.2 0 | equalize     0.6 0
        colour       0.9 9 | equalize     0.6 0
        autocontrast 0.8 0 | solarize     0.2 8
        brightness   0.1 3 | colour       0.7 0
        solarize     0.4 5 | autocontrast 0.9 0
        translate_y  0.9 9 | translate_y  0.7 9
        autocontrast 0.9 0 | solarize     0.8 3
        equalize     0.8 0 | invert       0.1 0
        translate_y  0.7 9 | autocontrast 0.9 0
    """),
    "imagenet": _policy("""
        posterize    0.4 8 | rotate       0.6 9
        solarize     0.6 5 | autocontrast 0.6 0
        equalize     0.8 0 | equalize     0.6 0
        posterize    0.6 7 | posterize    0.6 6
        equalize     0.4 0 | solarize     0.2 4
        equalize     0.4 0 | rotate       0.8 8
        solarize     0.6 3 | equalize     0.6 0
        posterize    0.8 5 | equalize     1.0 0
        rotate       0.2 3 | solarize     0.6 8
        equalize     0.6 0 | posterize    0.4 6
        rotate       0.8 8 | colour       0.4 0
        rotate       0.4 9 | equalize     0.6 0
        equalize     0.0 0 | equalize     0.8 0
        invert       0.6 0 | equalize     1.0 0
        colour       0.6 4 | contrast     1.0 8
        rotate       0.8 8 | colour       1.0 2
        colour       0.8 8 | solarize     0.8 7
        sharpness    0.4 7 | invert       0.6 0
        shear_x      0.6 5 | equalize     1.0 0
        colour       0.4 0 | equalize     0.6 0
        equalize     0.4 0 | solarize     0.2 4
        solarize     0.6 5 | autocontrast 0.6 0
        invert       0.6 0 | equalize     1.0 0
        colour       0.6 4 | contrast     1.0 8
        equalize     0.8 0 | equalize     0.6 0
    """),
}


@dataclasses.dataclass(frozen=True)
class Rules:
    """How the operations are carried out.

    Attributes:
      torchvision_0_10: shear about the centre by tan(amount), and solarize from 256 levels down, as the
        released code's version of torchvision; False is today's.
      truncate: cut to whole levels first and after each operation, as torchvision on uint8. False keeps what
        lies between levels.
      bicubic: shear, move by fractions of a pixel and rotate by bicubic interpolation, as timm where its
        crops are bicubic; False takes the nearest pixel.
      fill: colour of what comes from outside the image, a number or three.
    """

    torchvision_0_10: bool = False
    truncate: bool = False
    bicubic: bool = False
    fill: float | tuple[float, float, float] = 0.0


def auto_augment(images, keys, policy: str, rules: Rules = Rules()):
    """One of the 25 sub-policies for each draw (Cubuk et al., CVPR 2019, arXiv 1805.09501).

    Good-DA-in-KD uses `cifar10` for CIFAR-100 and `imagenet` for Tiny ImageNet and ImageNet, one draw a
    batch.

    Args:
      images: float32 `[B, H, W, 3]` in [0, 1].
      keys: typed keys, `[B]` for one draw an image, or one key `[]` for one draw for the whole batch.
      policy: a key of `POLICIES`.

    Returns:
      float32 `[B, H, W, 3]` in [0, 1].

    Raises:
      UserError: unknown policy; images that are not RGB.
    """
    if policy not in POLICIES:
        raise unknown("AutoAugment policy", policy, POLICIES)
    ops.check_rgb(images, "AutoAugment")
    table = POLICIES[policy]
    op = np.array([[OPS.index(name) for name, _, _ in steps] for steps in table])
    probability = np.array([[p for _, p, _ in steps] for steps in table], np.float32)
    ranges = amounts(10, images.shape, rules)
    amount = np.array([[ranges[OPS.index(name), level] for name, _, level in steps] for steps in table])

    u = _uniforms(keys, len(images), 5)
    which = jnp.int32(u[:, 0] * len(table))
    applied = u[:, 1:3] < jnp.asarray(probability)[which]
    op = jnp.where(applied, jnp.asarray(op)[which], 0)
    return _apply_in_order(images, op, jnp.asarray(amount, jnp.float32)[which], u[:, 3:5], rules)


def rand_augment(images, keys, *, count: int = 2, level: int = 9, bins: int = 31, rules: Rules = Rules()):
    """`count` operations, each any of 14, at one level (Cubuk et al., NeurIPS 2020, arXiv 1909.13719).

    torchvision's form: the level is one of `bins`, over the ranges of AutoAugment. timm's form is
    `timm_rand_augment`. Other arguments as `auto_augment`.

    Raises:
      UserError: a level outside the bins; images that are not RGB.
    """
    ops.check_rgb(images, "RandAugment")
    if not 0 <= level < bins:
        raise UserError(f"The level of RandAugment is {level}: use 0 to {bins - 1}.")
    u = _uniforms(keys, len(images), 2 * count)
    op = jnp.int32(u[:, :count] * _WITHOUT_INVERT)
    amount = jnp.asarray(amounts(bins, images.shape, rules)[:, level])[op]
    return _apply_in_order(images, op, amount, u[:, count:], rules)


def timm_rand_augment(images, keys, *, fill, level: float = 9.0, spread: float = 0.5):
    """RandAugment as fine-tuning recipes have it: timm's `rand-m9-mstd0.5-inc1`.

    Two draws from 15 operations (timm/data/auto_augment.py, `_RAND_INCREASING_TRANSFORMS`), each carried out
    with probability 0.5, at a level drawn from N(level, spread) and cut to [0, 10]; bicubic. Other arguments
    as `auto_augment`. timm works on whole levels, we keep what lies between.

    Args:
      fill: colour of what comes from outside, a number or `[3]`; timm has the mean of the normalisation.

    Raises:
      UserError: images that are not RGB.
    """
    ops.check_rgb(images, "RandAugment")
    keys = rng.one_or_each(keys, len(images))
    u = _uniforms(keys, len(images), 6)
    noise = jax.vmap(lambda key: jax.random.normal(jax.random.fold_in(key, 1), (2,)))(keys)
    op = 1 + jnp.int32(u[:, :2] * (len(OPS) - 1))
    amount = timm_amounts(op, jnp.clip(level + spread * noise, 0, 10), images.shape)
    op = jnp.where(u[:, 2:4] < 0.5, op, 0)
    return _apply_in_order(images, op, amount, u[:, 4:], Rules(bicubic=True, fill=fill))


def timm_amounts(op, level, shape):
    """What a level means in timm's increasing form, in the units of `amounts`, before the sign.

    Args:
      op: int array, indices into `OPS`.
      level: float32 of the same shape, 0 to 10.
      shape: of the images, `[B, H, W, 3]`.
    """
    share = level / 10
    at_most = np.zeros(len(OPS), np.float32)
    at_most[1:10] = 0.3, 0.3, 0.45 * shape[2], 0.45 * shape[1], 30, 0.9, 0.9, 0.9, 0.9
    amount = jnp.asarray(at_most)[op] * share
    amount = jnp.where(op == OPS.index("posterize"), 4 - jnp.floor(4 * share), amount)
    amount = jnp.where(op == OPS.index("solarize"), 256 - jnp.floor(256 * share), amount)
    return jnp.where(op == OPS.index("solarize_add"), jnp.floor(110 * share), amount)


def trivial_augment(images, keys, *, bins: int = 31, rules: Rules = Rules()):
    """One operation, any of 14, at any level (Müller and Hutter, ICCV 2021, arXiv 2103.10158), the wide form.

    Arguments as `auto_augment`. It moves images by up to 32 pixels, whatever their size.

    Raises:
      UserError: images that are not RGB.
    """
    ops.check_rgb(images, "TrivialAugment")
    u = _uniforms(keys, len(images), 3)
    op = jnp.int32(u[:, :1] * _WITHOUT_INVERT)
    amount = jnp.asarray(amounts(bins, images.shape, rules, wide=True))[op, jnp.int32(u[:, 1:2] * bins)]
    return _apply_in_order(images, op, amount, u[:, 2:], rules)


def amounts(bins: int, shape, rules: Rules, wide: bool = False) -> np.ndarray:
    """What each level of each operation means, float32 `[16, bins]`, before the sign.

    Shear in pixels per pixel, translation in pixels, rotation in degrees, blends as the factor minus 1,
    posterize in bits, solarize in levels.

    Args:
      shape: of the images, `[B, H, W, 3]`.
      wide: the ranges of TrivialAugment.
    """
    ramp = np.linspace(0, 1, bins)
    table = np.zeros((len(OPS), bins))
    table[1:3] = (0.99 if wide else 0.3) * ramp
    table[3] = (32 if wide else 150 / 331 * shape[2]) * ramp
    table[4] = (32 if wide else 150 / 331 * shape[1]) * ramp
    table[5] = (135 if wide else 30) * ramp
    table[6:10] = (0.99 if wide else 0.9) * ramp
    table[10] = 8 - np.round((6 if wide else 4) * ramp)
    table[11] = (256 if rules.torchvision_0_10 else 255) * (1 - ramp)
    return table.astype(np.float32)


def _uniforms(keys, batch, count):
    keys = rng.one_or_each(keys, batch)
    return jax.vmap(lambda key: jax.random.uniform(key, (count,)))(keys)


def _apply_in_order(images, op, amount, sign, rules):
    """Apply operations `[n, steps]` with their amounts, negated where `sign` is below a half."""
    signed = (op >= _SIGNED[0]) & (op <= _SIGNED[-1])
    amount = jnp.where(signed & (sign < 0.5), -amount, amount)

    def step(x, one):
        x = apply(x, *one, rules)
        return (ops.truncate(x) if rules.truncate else x), None

    images = ops.truncate(images) if rules.truncate else images
    return jax.lax.scan(step, images, (op.T, amount.T))[0]


def apply(x, op, amount, rules: Rules = Rules()):
    """One operation for each image.

    Args:
      x: float32 `[B, H, W, 3]` in [0, 1].
      op: int `[B]`, indices into `OPS`; or `[1]`, for all images.
      amount: float32, shaped as `op`, in the units of `amounts`; blends take 1 + amount as their factor.
    """
    op, amount = (jnp.broadcast_to(each, x.shape[:1]) for each in (op, amount))
    for kinds, stage in ((_GEOMETRY, _geometry), (_BLENDS, _blends), (_LEVELS, _levels)):
        asked = ((op >= kinds[0]) & (op <= kinds[-1])).any()
        x = jax.lax.cond(asked, functools.partial(stage, rules), lambda x, op, amount: x, x, op, amount)
    return x


def _geometry(rules, x, op, amount):
    shear_x, shear_y, right, down, degrees = (jnp.where(op == kind, amount, 0) for kind in _GEOMETRY)
    rotates, shears = (op == _GEOMETRY[4]), (op <= _GEOMETRY[1])
    matrices = jnp.where(
        rotates[:, None, None],
        ops.rotation_matrix(x.shape, degrees),
        jnp.where(
            shears[:, None, None],
            ops.shear_matrix(x.shape, shear_x, shear_y, about_centre=rules.torchvision_0_10),
            ops.translation_matrix(x.shape, right, down, whole=not rules.bicubic),
        ),
    )
    return ops.resample(x, matrices, bicubic=rules.bicubic, fill=rules.fill)


def _blends(rules, x, op, amount):
    del rules
    black, _, contrast, sharpness = (ops.per_image(op) == kind for kind in _BLENDS)
    other = jnp.where(contrast, ops.mean_grey(x), luma(x))
    other = jnp.where(sharpness, ops.smooth(x), jnp.where(black, 0, other))
    blended = (op >= _BLENDS[0]) & (op <= _BLENDS[-1])
    return blend(x, other, ops.per_image(jnp.where(blended, 1 + amount, 1)))


def _levels(rules, x, op, amount):
    del rules
    posterize, solarize, autocontrast, equalize, invert, add = (ops.per_image(op) == k for k in _LEVELS)
    plain = jnp.where(posterize, ops.posterize(x, jnp.where(op == _LEVELS[0], amount, 8)), x)
    plain = jnp.where(solarize, ops.solarize(x, amount), plain)
    plain = jnp.where(autocontrast, ops.autocontrast(x), plain)
    plain = jnp.where(invert, ops.invert(x), plain)
    plain = jnp.where(add, ops.solarize_add(x, amount), plain)
    return jax.lax.cond(
        equalize.any(), lambda plain: jnp.where(equalize, ops.equalize(x), plain), lambda plain: plain, plain
    )
