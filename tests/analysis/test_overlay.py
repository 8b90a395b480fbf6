"""Maps in colours and overlays: the enlarged map against torch's, the blend by hand."""

import numpy as np
import pytest
import torch
from matplotlib import colormaps

from seed_jax.analysis import coloured, overlay


def test_a_map_is_enlarged_as_torch_does_and_scaled_to_its_range():
    draw = np.random.default_rng(0)
    attention = draw.uniform(3, 9, (4, 5)).astype(np.float32)
    image = draw.integers(0, 256, (16, 15, 3), np.uint8)
    large = torch.nn.functional.interpolate(
        torch.from_numpy(attention)[None, None], (16, 15), mode="bilinear", align_corners=False
    )[0, 0].numpy()
    got = overlay(image, attention, alpha=1.0).astype(int)
    shares = (large - large.min()) / (large.max() - large.min())
    np.testing.assert_allclose(got, 255 * colormaps["inferno"](shares)[..., :3], atol=4)
    order = np.argsort(large, axis=None)
    brightness = (got @ [0.2126, 0.7152, 0.0722]).reshape(-1)[order]
    assert (np.diff(brightness) > -2).all()  # brighter wherever the map is higher, but for rounding
    assert got.reshape(-1, 3)[order[0]].tolist() == [0, 0, 4]
    assert got.reshape(-1, 3)[order[-1]].tolist() == [252, 255, 164]


def test_the_blend():
    image, attention = np.full((2, 2, 3), 100, np.uint8), np.ones((2, 2))
    np.testing.assert_array_equal(overlay(image, attention, alpha=0.0), image)
    assert overlay(image, attention, alpha=0.5)[0, 0].tolist() == [50, 50, 52]  # one value: all low


def test_colours_of_a_range_that_is_given():
    values = np.array([[-1.0, 0.0, 0.5, 1.0, 3.0]])
    want = 255 * colormaps["inferno"](np.array([0, 0, 0.5, 1, 1]))[:, :3]
    np.testing.assert_allclose(coloured(values, low=0.0, high=1.0)[0], want, atol=0.5)
    np.testing.assert_array_equal(coloured(values[:, 1:4]), coloured(values, low=0.0, high=1.0)[:, 1:4])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"alpha": 2.0}, "alpha is 2.0: use 0 to 1"),
        ({"attention": np.full((2, 2), np.nan)}, "the network has diverged"),
        ({"attention": np.ones((1, 2, 2))}, "attention"),
        ({"image": np.ones((2, 2, 3))}, "image"),
    ],
)
def test_wrong_arguments(options, message):
    given = {"image": np.zeros((2, 2, 3), np.uint8), "attention": np.ones((2, 2))} | options
    with pytest.raises(AssertionError, match=message):
        overlay(given.pop("image"), given.pop("attention"), **given)
