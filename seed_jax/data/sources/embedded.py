"""Datasets inside scikit-learn and scikit-image, which need no download."""

import functools

import numpy as np
from PIL import Image

from seed_jax.data import rng
from seed_jax.data.sources.arrays import Arrays
from seed_jax.data.sources.base import split_of
from seed_jax.errors import UserError


@functools.cache
def digits() -> Arrays:
    """scikit-learn's 1,797 handwritten digits (8x8, 17 grey levels), enlarged to 32x32 RGB."""
    from sklearn.datasets import load_digits

    small, labels = load_digits(return_X_y=True)
    small = np.round(small.reshape(-1, 8, 8) * (255 / 16)).astype(np.uint8)
    large = [np.asarray(Image.fromarray(x).resize((32, 32), Image.Resampling.BILINEAR)) for x in small]
    return Arrays("digits", np.repeat(np.stack(large)[..., None], 3, axis=-1), labels)


@functools.cache
def scattered() -> Arrays:
    """Each of scikit-learn's 1,797 digits twice, at a random place on a black 16x16 canvas, as RGB.

    A digit is 10 to 14 pixels wide and tilted by up to 10 degrees. Raw pixels classify the aligned `digits`
    well; here a network has to find the digit first. Both copies of a digit are in the same split.
    """
    from sklearn.datasets import load_digits

    small, labels = load_digits(return_X_y=True)
    small = np.round(small.reshape(-1, 8, 8) * (255 / 16)).astype(np.uint8)
    canvases = np.zeros((2 * len(small), 16, 16), np.uint8)
    for n, canvas in enumerate(canvases):
        random = rng.host_generator(0, n, 0, 0)
        side = int(random.integers(10, 15))
        digit = Image.fromarray(small[n // 2]).resize((side, side), Image.Resampling.BILINEAR)
        digit = digit.rotate(random.uniform(-10, 10), Image.Resampling.BILINEAR)
        top, left = random.integers(0, 17 - side, 2)
        canvas[top : top + side, left : left + side] = np.asarray(digit)
    source = Arrays("scattered", np.repeat(canvases[..., None], 3, axis=-1), np.repeat(labels, 2))
    source.splits = split_of(np.arange(len(canvases)) // 2)
    return source


@functools.cache
def photos() -> Arrays:
    """Disjoint 32x32 tiles of scikit-learn's two photographs, 260 of each; the label is the photograph."""
    from sklearn.datasets import load_sample_images

    return _tiles("photos", load_sample_images().images)


@functools.cache
def photos6() -> Arrays:
    """As `photos`, plus four colour photographs in scikit-image's wheel: 1,378 tiles in 6 classes.

    Raises `UserError` when scikit-image is not installed.
    """
    try:
        from skimage import data
    except ModuleNotFoundError:
        raise UserError("data.source: photos6 needs scikit-image: run `pip install scikit-image`.") from None
    from sklearn.datasets import load_sample_images

    more = [data.astronaut(), data.chelsea(), data.coffee(), data.rocket()]
    return _tiles("photos6", [*load_sample_images().images, *more])


def _tiles(title, photographs, side=32):
    tiles = []
    for photo in photographs:
        rows, columns = photo.shape[0] // side, photo.shape[1] // side
        grid = photo[: rows * side, : columns * side].reshape(rows, side, columns, side, 3)
        tiles.append(grid.swapaxes(1, 2).reshape(-1, side, side, 3))
    labels = np.repeat(np.arange(len(tiles)), [len(x) for x in tiles])
    return Arrays(title, np.concatenate(tiles), labels)


EMBEDDED = {"digits": digits, "scattered": scattered, "photos": photos, "photos6": photos6}
