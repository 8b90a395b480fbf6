"""Mixup, CutMix, CutMixPick, Cutout and random erasing on the device, inside the jitted step.

A method mixes a batch, asks its teacher about the result, and may keep only the best of a pool:

    pool = mixing.cutmix_pool(x, key)
    logits = teacher(pool.images)["logits"]
    best = mixing.pick("teacher_entropy", logits)
    x, logits, own, partner = pool.images[best], logits[best], pool.own[best], pool.partner[best]

The teacher's logits of the picks are those of the pool: it need not run again. A pick compares the whole
pool, so on several devices the picked images travel between them.

Keys. Who is mixed with whom depends on the batch, and so on the key of the step. What may be drawn for each
image (share, box) is drawn once for the whole batch, as the released code does (MingSun-Tse/Good-DA-in-KD,
helper/loops.py), or for each image from the keys of the samples, into which the method folds a number of its
own (`rng.fold`).
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from seed_jax.data import rng
from seed_jax.data.image_ops import check_rgb, per_image
from seed_jax.errors import UserError, unknown

CRITERIA = ("teacher_entropy", "student_entropy", "kld")


class Mixed(NamedTuple):
    """Mixed images and the labels that they imply: `weight` of `label[own]`, the rest of `label[partner]`.

    Attributes:
      images: float32 `[N, H, W, 3]` in [0, 1].
      own, partner: int32 `[N]`, rows of the batch that the two parts of an image come from.
      weight: float32 `[N]`, the share of `own`: lambda; for CutMix the exact share of its pixels.
    """

    images: jax.Array
    own: jax.Array
    partner: jax.Array
    weight: jax.Array


class Box(NamedTuple):
    """A rectangle for each image, int32 `[B]`, or for all, `[1]`, in pixels; right and bottom are outside."""

    left: jax.Array
    top: jax.Array
    right: jax.Array
    bottom: jax.Array


def mixup(images, key, keys=None, *, alpha: float = 1.0) -> Mixed:
    """x' = w x + (1 - w) x[partner], w ~ Beta(alpha, alpha) (Zhang et al., ICLR 2018, arXiv 1710.09412).

    Partners are a random permutation, so an image can be its own partner, as in the released code.

    Args:
      images: float32 `[B, H, W, 3]` in [0, 1].
      key: typed key of the step `[]`.
      keys: typed keys of the samples `[B]` for one w an image; None: one w for the batch.

    Raises:
      UserError: a batch of one image; images that are not RGB.
    """
    _check_pairs(images, "Mixup")
    for_partner, for_batch = jax.random.split(key)
    partner = jax.random.permutation(for_partner, len(images)).astype(jnp.int32)
    keys = rng.one_or_each(for_batch if keys is None else keys, len(images))
    return mix(images, partner, jax.vmap(lambda k: _beta(k, alpha))(keys))


def mix(images, partner, weight) -> Mixed:
    """Mixup without chance.

    Args:
      images: float32 `[B, H, W, 3]`.
      partner: int32 `[B]`.
      weight: float32 `[B]` or `[1]`, the share of the image itself.
    """
    share = per_image(weight)
    return _mixed(share * images + (1 - share) * images[partner], partner, weight)


def cutmix(images, key, keys=None, *, alpha: float = 1.0) -> Mixed:
    """Paste a box of another image into each image (Yun et al., ICCV 2019, arXiv 1905.04899).

    The box is `cut_box` for lambda ~ Beta(alpha, alpha) and a uniform centre. Partners are a `derangement`,
    as in Good-DA-in-KD; CutMix's own code lets an image be its own partner. Arguments as `mixup`.

    Raises:
      UserError: a batch of one image; images that are not RGB.
    """
    _check_pairs(images, "CutMix")
    for_partner, for_batch = jax.random.split(key)
    partner = derangement(for_partner, len(images))
    return paste(images, partner, random_box(images, for_batch if keys is None else keys, alpha=alpha))


def cutmix_pool(images, key, keys=None, *, alpha: float = 1.0, runs: int = 2) -> Mixed:
    """`cutmix` several times, drawn anew: the pool of CutMixPick, `[B * runs]`, from which `pick` picks.

    The rows of an image are adjacent, so that they stay on its device. Arguments as `cutmix`.
    """

    def one(run):
        again = None if keys is None else jax.vmap(lambda k: jax.random.fold_in(k, run))(keys)
        return cutmix(images, jax.random.fold_in(key, run), again, alpha=alpha)

    pool = [one(run) for run in range(runs)]
    return jax.tree.map(lambda *a: jnp.stack(a, axis=1).reshape(-1, *a[0].shape[1:]), *pool)


def derangement(key, count: int) -> jax.Array:
    """A uniform permutation without fixed points, int32 `[count]`, by drawing again; 2.7 draws on average.

    Raises:
      UserError: fewer than two items.
    """
    if count < 2:
        raise UserError(
            f"A batch of {count} has no image to mix with another: use --config.data.batch_size=2 or more."
        )

    def draw(carry):
        key, _ = carry
        key, now = jax.random.split(key)
        return key, jax.random.permutation(now, count).astype(jnp.int32)

    def has_fixed_point(carry):
        return (carry[1] == jnp.arange(count)).any()

    return jax.lax.while_loop(has_fixed_point, draw, (key, jnp.arange(count, dtype=jnp.int32)))[1]


def random_box(images, keys, *, alpha: float = 1.0) -> Box:
    """CutMix's `cut_box` for lambda ~ Beta(alpha, alpha) and a uniform centre.

    Args:
      images: `[B, H, W, 3]`.
      keys: typed keys of the samples `[B]` for one box an image, or one key `[]` for one box for all.
    """
    height, width = images.shape[1:3]

    def one(k):
        for_lambda, for_centre = jax.random.split(k)
        return _beta(for_lambda, alpha), _centre(for_centre, height, width)

    lam, centre = jax.vmap(one)(rng.one_or_each(keys, len(images)))
    return cut_box(lam, centre, height, width)


def cut_box(lam, centre, height: int, width: int) -> Box:
    """CutMix's box: int(side * sqrt(1 - lam)) pixels on each side, around the centre, cut at the borders.

    Half of the side, rounded down, lies on either side of the centre, so that odd sides lose a pixel.

    Args:
      lam: float32 `[B]` or `[1]` in [0, 1]: the share of pixels that stay, before the box is cut.
      centre: int32 column and row, each shaped as `lam`.
    """
    half = [jnp.floor(side * jnp.sqrt(1 - lam)).astype(jnp.int32) // 2 for side in (width, height)]
    return _around(centre, half, height, width)


def paste(images, partner, box: Box) -> Mixed:
    """CutMix without chance: the pixels of `images[partner]` in the box, the image's own elsewhere.

    Args:
      images: float32 `[B, H, W, 3]`.
      partner: int32 `[B]`.
      box: of each image, or one for all.
    """
    height, width = images.shape[1:3]
    mixed = jnp.where(inside(box, height, width), images[partner], images)
    return _mixed(mixed, partner, outside(box, height, width))


def outside(box: Box, height: int, width: int) -> jax.Array:
    """The share of pixels that are not in the box, float32 `[B]`, or `[1]` for one box."""
    return 1 - (box.right - box.left) * (box.bottom - box.top) / (height * width)


def inside(box: Box, height: int, width: int) -> jax.Array:
    """Which pixels are in the box, bool `[B, H, W, 1]`, or `[1, H, W, 1]` for one box."""
    left, top, right, bottom = (edge.reshape(-1, 1, 1, 1) for edge in box)
    rows = jnp.arange(height).reshape(1, -1, 1, 1)
    columns = jnp.arange(width).reshape(1, 1, -1, 1)
    return (rows >= top) & (rows < bottom) & (columns >= left) & (columns < right)


def pick(
    criterion: str,
    teacher_logits,
    student_logits=None,
    *,
    n_pick: int | None = None,
    ratio: float = 0.5,
    temperature: float = 4.0,
) -> jax.Array:
    """CutMixPick: the rows of a pool that are worth most, lowest score first, int32 `[n]`.

    `ratio`, the paper's half of the pool, also suits a last batch that is smaller than the others. The
    released code has a count, 64, and keeps all of a pool that is smaller; here that is an error.

    Args:
      criterion: of `scores`.
      teacher_logits: float `[N, C]` of the pool.
      student_logits: float `[N, C]`; None where the criterion does not ask the student.
      n_pick: how many; None for `ratio` of the pool, rounded down, at least 1.
      temperature: of `kld`.

    Raises:
      UserError: unknown criterion; n_pick or ratio outside the pool.
    """
    values = scores(criterion, teacher_logits, student_logits, temperature=temperature)
    pool = len(values)
    if n_pick is None:
        if not 0 < ratio <= 1:
            raise UserError(f"The ratio of picks is {ratio}: use a share of the pool, above 0 and up to 1.")
        n_pick = max(1, int(ratio * pool + 1e-6))  # 0.29 of 100 is 29
    if not 0 < n_pick <= pool:
        raise UserError(f"n_pick is {n_pick} and the pool has {pool} images: use 1 to {pool}, or more runs.")
    return jnp.argsort(values)[pool - n_pick :]


def scores(criterion: str, teacher_logits, student_logits=None, *, temperature: float = 4.0) -> jax.Array:
    """What `pick` sorts by, float32 `[N]`.

    `teacher_entropy` and `student_entropy` are the entropy of the softmax at temperature 1, in nats; `kld` is
    KL(teacher || student) at `temperature`, without its square (Good-DA-in-KD, get_entropy_batch).

    Raises:
      UserError: unknown criterion.
      ValueError: the criterion asks the student, and there are no logits of it.
    """
    if criterion not in CRITERIA:
        raise unknown("criterion of picking", criterion, CRITERIA)
    if criterion != "teacher_entropy" and student_logits is None:
        raise ValueError(f"The criterion {criterion!r} needs student_logits.")

    def log_softmax(logits, temperature):
        return jax.nn.log_softmax(jax.lax.stop_gradient(logits).astype(jnp.float32) / temperature)

    if criterion == "kld":
        log_t, log_s = log_softmax(teacher_logits, temperature), log_softmax(student_logits, temperature)
        return (jnp.exp(log_t) * (log_t - log_s)).sum(axis=1)
    log_p = log_softmax(teacher_logits if criterion == "teacher_entropy" else student_logits, 1.0)
    return -(jnp.exp(log_p) * log_p).sum(axis=1)


def cutout(images, keys, *, fill, length: int | None = None):
    """A square hole with a uniform centre, cut at the borders (DeVries and Taylor, arXiv 1708.04552).

    Args:
      images: float32 `[B, H, W, 3]` in [0, 1].
      keys: typed keys `[B]` for one hole an image, or one key `[]` for one hole for the whole batch.
      fill: colour of the hole, a number or `[3]`. The released codes fill normalised images with 0: that is
        the mean of the normalisation.
      length: side in pixels; half of it, rounded down, lies on either side of the centre. None is a quarter
        of the image's height: Good-DA-in-KD's 8 for CIFAR-100, 16 for Tiny ImageNet, 56 for ImageNet. The
        paper has 16 for CIFAR-10.

    Returns:
      float32 `[B, H, W, 3]`.

    Raises:
      UserError: images that are not RGB.
    """
    check_rgb(images, "Cutout")
    height, width = images.shape[1:3]
    half = (height // 4 if length is None else length) // 2
    keys = rng.one_or_each(keys, len(images))
    centre = jax.vmap(lambda key: _centre(key, height, width))(keys)
    return erase(images, _around(centre, (half, half), height, width), fill)


def random_erase(images, keys, *, fill, noise=0.0, probability=0.5, area=(0.02, 0.33), aspect=(0.3, 3.3)):
    """Erase a rectangle of random size and shape (Zhong et al., AAAI 2020, arXiv 1708.04896).

    As torchvision's RandomErasing: up to 10 rectangles are drawn until one is smaller than the image on both
    sides; without one the image stays.

    Args:
      images, keys, fill: as `cutout`.
      noise: standard deviation of Gaussian noise around the fill, a number or `[3]`; the data's own is timm's
        mode `pixel`. Noisy pixels may leave [0, 1]. 0 draws none.
      probability: of erasing.
      area: range of the share of pixels, uniform.
      aspect: range of height / width, uniform in its logarithm.

    Returns:
      float32 `[B, H, W, 3]`.

    Raises:
      UserError: images that are not RGB.
    """
    check_rgb(images, "Random erasing")
    height, width = images.shape[1:3]
    keys = rng.one_or_each(keys, len(images))

    def one(key):
        u = jax.random.uniform(key, (5, 10))
        pixels = height * width * (area[0] + (area[1] - area[0]) * u[0])
        low, high = jnp.log(jnp.asarray(aspect))
        shape = jnp.exp(low + (high - low) * u[1])
        rows = jnp.round(jnp.sqrt(pixels * shape)).astype(jnp.int32)
        columns = jnp.round(jnp.sqrt(pixels / shape)).astype(jnp.int32)
        fits = (rows < height) & (columns < width)
        n = jnp.argmax(fits)
        erased = fits[n] & (u[4, 0] < probability)
        top = jnp.int32(u[2, n] * (height - rows[n] + 1))
        left = jnp.int32(u[3, n] * (width - columns[n] + 1))
        return Box(left, top, left + jnp.where(erased, columns[n], 0), top + rows[n])

    box = jax.vmap(one)(keys)
    if not np.any(noise):
        return erase(images, box, fill)
    drawn = jax.vmap(lambda key: jax.random.normal(jax.random.fold_in(key, 1), images.shape[1:]))(keys)
    return erase(images, box, _colour(fill) + _colour(noise) * drawn)


def erase(images, box: Box, fill):
    """Fill the box in `images` `[B, H, W, 3]` with a number, a colour `[3]` or pixels `[B, H, W, 3]`."""
    return jnp.where(inside(box, *images.shape[1:3]), _colour(fill), images)


def _check_pairs(images, what):
    check_rgb(images, what)
    if len(images) < 2:
        raise UserError(
            f"{what} needs two images to mix, and the batch has {len(images)}: use "
            "--config.data.batch_size=2 or more."
        )


def _mixed(images, partner, weight):
    own = jnp.arange(len(images), dtype=jnp.int32)
    return Mixed(images, own, partner, jnp.broadcast_to(weight, own.shape))


def _beta(key, alpha):
    return jax.random.uniform(key) if alpha == 1 else jax.random.beta(key, alpha, alpha)


def _centre(key, height, width):
    for_column, for_row = jax.random.split(key)
    return jax.random.randint(for_column, (), 0, width), jax.random.randint(for_row, (), 0, height)


def _around(centre, half, height, width):
    (x, y), (across, down) = centre, half
    left, right = jnp.clip(x - across, 0, width), jnp.clip(x + across, 0, width)
    return Box(left, jnp.clip(y - down, 0, height), right, jnp.clip(y + down, 0, height))


def _colour(fill):
    fill = jnp.asarray(fill, jnp.float32)
    return fill if fill.ndim == 4 else fill.reshape(1, 1, 1, -1)
