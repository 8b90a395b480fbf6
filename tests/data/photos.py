"""A picture that several tests read."""

import numpy as np


def photo(width=61, height=40):
    """A smooth picture, which lossy formats change little."""
    y, x = np.mgrid[0:height, 0:width]
    channels = [x * 255 / width, y * 255 / height, 128 + 60 * np.sin(x / 9) * np.cos(y / 7)]
    return np.stack(channels, -1).astype(np.uint8)
