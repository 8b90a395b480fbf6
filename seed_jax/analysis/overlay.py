"""Maps in colours, alone or laid over an image."""

import chex
import jax
import numpy as np

COLOURS = "inferno"  # perceptually uniform: equal steps of a map look equally large


def coloured(values: np.ndarray, *, low: float | None = None, high: float | None = None) -> np.ndarray:
    """A map in colours, from black (low) over red to pale yellow (high).

    Args:
      values: float `[h, w]`.
      low, high: the values of the darkest and the brightest colour; None for the lowest and the highest of
        the map. What lies outside has the nearest colour. If they are equal, all is black.

    Returns:
      uint8 `[h, w, 3]`.

    Raises:
      AssertionError: the shape or dtype is not the above, or a value is not finite.

    >>> coloured(np.array([[0.0, 2.0, 9.0]]), high=2.0).tolist()
    [[[0, 0, 4], [252, 255, 164], [252, 255, 164]]]
    """
    return np.rint(_colours(values, low, high)).astype(np.uint8)


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
    image, attention = np.asarray(image), np.asarray(attention)
    chex.assert_shape(image, (None, None, 3), custom_message="image")
    chex.assert_type(image, np.uint8, custom_message="image")
    _check(attention, "attention")
    assert 0 <= alpha <= 1, f"alpha is {alpha}: use 0 to 1."
    shape = image.shape[:2]
    large = np.asarray(jax.image.resize(attention.astype(np.float32), shape, "linear", antialias=False))
    return np.rint((1 - alpha) * image + alpha * _colours(large)).astype(np.uint8)


def _colours(values, low=None, high=None) -> np.ndarray:
    from matplotlib import colormaps

    values = np.asarray(values)
    _check(values, "values")
    low, high = (values.min() if low is None else low), (values.max() if high is None else high)
    shares = np.clip((values - low) / (high - low), 0, 1) if high > low else np.zeros(values.shape)
    return 255 * colormaps[COLOURS](shares)[..., :3]


def _check(values, name):
    chex.assert_rank(values, 2, custom_message=name)
    chex.assert_type(values, float, custom_message=name)
    assert np.isfinite(values).all(), f"a value of {name} is not finite: the network has diverged."
