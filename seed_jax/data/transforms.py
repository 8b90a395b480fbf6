"""Rotations and permutations of colours, the views whose number a network can tell from the pixels (SLA)."""

import itertools

import jax
import jax.numpy as jnp

from seed_jax.data.image_ops import check_rgb
from seed_jax.errors import UserError

# The order is that of hankook/SLA, augmentations.py; the first view is the image itself.
ROTATIONS = {1: (0,), 2: (0, 2), 4: (0, 1, 2, 3)}  # quarter turns, counter-clockwise
COLOURS = {
    1: ((0, 1, 2),),
    3: ((0, 1, 2), (1, 2, 0), (2, 0, 1)),
    6: tuple(itertools.permutations((0, 1, 2))),
}


def transform(images: jax.Array, rotations: int, colours: int) -> jax.Array:
    """All views of each image: every rotation with every permutation of colours.

    The M = rotations * colours views are ordered as hankook/SLA's: all permutations of the first rotation
    come first. There the pixels are normalised before; here after, each colour by its place.

    Args:
      images: float `[B, H, W, C]`.
      rotations: 1, 2 (0 and 180 degrees) or 4.
      colours: 1, 3 (the cyclic ones) or 6.

    Returns:
      `[B, M, H, W, C]`, of the dtype of `images`.

    Raises:
      UserError: colours of images that are not RGB; a quarter turn of images that are not square; another
        number.

    >>> image = jnp.arange(12.0).reshape(1, 2, 2, 3)
    >>> views = transform(image, 4, 3)
    >>> views.shape, views[0, 1, 0, 0].tolist(), views[0, 3, 0, 0].tolist()
    ((1, 12, 2, 2, 3), [1.0, 2.0, 0.0], [3.0, 4.0, 5.0])
    """
    check(rotations, colours)
    if colours > 1:
        check_rgb(images, "A permutation of colours")
    height, width = images.shape[1:3]
    if rotations == 4 and height != width:
        raise UserError(
            f"A quarter turn needs square images, and these have {height} x {width} pixels: use 2 rotations."
        )
    turned = [jnp.rot90(images, k, axes=(1, 2)) for k in ROTATIONS[rotations]]
    if colours == 1:
        return jnp.stack(turned, axis=1)
    return jnp.stack([x[..., jnp.array(order)] for x in turned for order in COLOURS[colours]], axis=1)


def check(rotations: int, colours: int) -> None:
    """Raise `UserError` if there are no such views; it names the keys `method.rotations` and `.colours`."""
    for key, value, known in (("rotations", rotations, ROTATIONS), ("colours", colours, COLOURS)):
        if value not in known:
            raise UserError(f"method.{key} is {value}: use one of {', '.join(map(str, known))}.")
