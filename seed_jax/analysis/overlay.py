"""Where a network looks: an attention map laid over its image in colours."""

import chex
import jax
import numpy as np

COLOURS = "inferno"  # perceptually uniform: equal steps of a map look equally large


def overlay(image: np.ndarray, attention: np.ndarray, *, alpha: float = 0.5) -> np.ndarray:
    """An image blended with the colours of an attention map.

    The map is enlarged to the image bilinearly with half-pixel centres, scaled to [0, 1] by its own lowest
    and highest value, and coloured from black (low) over red to pale yellow (high). Its scale says nothing:
    compare places, not maps. A map of one value is all low.

    Args:
      image: uint8 `[H, W, 3]`.
      attention: float `[h, w]`, as one of `seed_jax.losses.attention_map`.
      alpha: share of the colours, 0 to 1.

    Returns:
      uint8 `[H, W, 3]`.

    Raises:
      AssertionError: a shape or dtype is not the above, a value of the map is not finite, or `alpha` is
        outside 0 to 1.

    >>> overlay(np.zeros((1, 2, 3), np.uint8), np.array([[0.0, 2.0]]), alpha=1.0).tolist()
    [[[0, 0, 4], [252, 255, 164]]]
    """
    from matplotlib import colormaps

    image, attention = np.asarray(image), np.asarray(attention)
    chex.assert_shape(image, (None, None, 3), custom_message="image")
    chex.assert_type(image, np.uint8, custom_message="image")
    chex.assert_rank(attention, 2, custom_message="attention")
    chex.assert_type(attention, float, custom_message="attention")
    assert 0 <= alpha <= 1, f"alpha is {alpha}: use 0 to 1."
    assert np.isfinite(attention).all(), "a value of attention is not finite: the network has diverged."
    shape = image.shape[:2]
    large = np.asarray(jax.image.resize(attention.astype(np.float32), shape, "linear", antialias=False))
    low, high = large.min(), large.max()
    shares = (large - low) / (high - low) if high > low else np.zeros(shape)
    colours = 255 * colormaps[COLOURS](shares)[..., :3]
    return np.rint((1 - alpha) * image + alpha * colours).astype(np.uint8)
