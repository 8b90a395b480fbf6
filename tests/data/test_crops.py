"""Where crops lie and what they show, against torchvision's rules and PIL."""

import math

import numpy as np
import pytest
from hypothesis import assume, example, given, settings
from hypothesis import strategies as st
from photos import photo
from PIL import Image

from seed_jax.data import images


@given(
    width=st.integers(1, 600),
    height=st.integers(1, 600),
    seed=st.integers(0, 2**32),
    low=st.floats(0.05, 0.9),
    stretch=st.floats(1, 4),
)
def test_crop_lies_inside_and_keeps_area_and_aspect(width, height, seed, low, stretch):
    u = np.random.default_rng(seed).random(images.NUMBERS)
    scale, ratio = (low, 1.0), (1 / stretch, stretch)
    left, top, w, h = images.crop_box(width, height, u, scale, ratio)
    assert min(left, top) >= 0
    assert 1 <= w <= width - left
    assert 1 <= h <= height - top
    # Rounding moves each side by at most half a pixel; the fallback may be as small as the aspect requires.
    assert (w + 0.5) * (h + 0.5) >= min(low, min(width / height, height / width)) * width * height * 0.999
    assert (w - 0.5) / (h + 0.5) <= stretch * 1.001 or w == 1
    assert (h - 0.5) / (w + 0.5) <= stretch * 1.001 or h == 1


def test_crops_have_torchvisions_distribution():
    """Against torchvision's own form of the algorithm: new draws in each attempt, integer positions."""
    generator = np.random.default_rng(0)
    ours = np.array(
        [
            images.crop_box(300, 200, generator.random(images.NUMBERS), (0.2, 1), (3 / 4, 4 / 3))
            for _ in range(4000)
        ]
    )
    theirs = []
    for _ in range(4000):
        for _ in range(10):
            area = 300 * 200 * generator.uniform(0.2, 1)
            aspect = math.exp(generator.uniform(math.log(3 / 4), math.log(4 / 3)))
            w, h = round(math.sqrt(area * aspect)), round(math.sqrt(area / aspect))
            if w <= 300 and h <= 200:
                theirs.append((generator.integers(0, 300 - w + 1), generator.integers(0, 200 - h + 1), w, h))
                break
    for quantile in (0.1, 0.5, 0.9):
        np.testing.assert_allclose(
            np.quantile(ours, quantile, axis=0), np.quantile(theirs, quantile, axis=0), atol=6
        )


def test_fallback_is_the_centre():
    u = np.full(images.NUMBERS, 0.999)  # the whole area at 4:3, which never fits
    assert images.crop_box(100, 10, u, (1, 1), (3 / 4, 4 / 3)) == (43, 0, 13, 10)
    assert images.crop_box(10, 100, u, (1, 1), (3 / 4, 4 / 3)) == (0, 43, 10, 13)
    assert images.crop_box(10, 10, u, (1, 1), (3 / 4, 4 / 3)) == (0, 0, 10, 10)


@given(
    width=st.integers(1, 400),
    height=st.integers(1, 400),
    size=st.sampled_from([8, 64, 224]),
    seed=st.integers(0, 2**32),
)
@example(width=240, height=239, size=224, seed=1363)  # two levels at one value
@settings(max_examples=40, deadline=None)
def test_resized_crop_is_pils_to_one_grey_level(width, height, size, seed):
    """On noise, where influence of pixels outside the crop would show. Both round twice, after columns and
    after rows, which very rarely adds up to two levels.
    """
    generator = np.random.default_rng(seed)
    pixels = generator.integers(0, 256, (height, width, 3), np.uint8)
    left, top, w, h = images.crop_box(
        width, height, generator.random(images.NUMBERS), (0.2, 1), (3 / 4, 4 / 3)
    )
    crop = Image.fromarray(pixels).crop((left, top, left + w, top + h))
    expected = np.asarray(crop.resize((size, size), Image.Resampling.BILINEAR))
    view = images.resized_crop(pixels, (left, top, w, h), size)
    difference = np.abs(view.astype(int) - expected)
    assert difference.max() <= 2
    assert (difference > 1).sum() <= 1


@pytest.mark.parametrize("size", [224, 96, 32])
@given(width=st.integers(1, 400), height=st.integers(1, 400))
@settings(max_examples=20, deadline=None)
def test_eval_view_is_resize_and_centre_crop(size, width, height):
    """Against torchvision's Resize and CenterCrop, written out for PIL."""
    assume(max(width, height) < 8 * min(width, height))
    pixels = photo(width, height)
    short = {224: 256, 96: 110, 32: 37}[size]
    new = (short, int(short * height / width)) if width <= height else (int(short * width / height), short)
    left, top = round((new[0] - size) / 2.0), round((new[1] - size) / 2.0)
    resized = Image.fromarray(pixels).resize(new, Image.Resampling.BILINEAR)
    expected = np.asarray(resized.crop((left, top, left + size, top + size)))
    np.testing.assert_array_equal(images.eval_view(pixels, size), expected)
    assert images.eval_box(width, height, size) == (*new, left, top)


@pytest.mark.parametrize("size", [96, 32])
def test_eval_view_resizes_an_image_of_exactly_its_size_too(size):
    short = {96: 110, 32: 37}[size]
    resized = Image.fromarray(photo(size, size)).resize((short, short), Image.Resampling.BILINEAR)
    corner = round((short - size) / 2)
    expected = np.asarray(resized)[corner : corner + size, corner : corner + size]
    np.testing.assert_array_equal(images.eval_view(photo(size, size), size), expected)


@pytest.mark.parametrize("shape", [(1, 60_000, 3), (60_000, 1, 3)])
def test_a_thin_image_is_a_bad_image_before_it_fills_memory(shape):
    with pytest.raises(images.BadImage, match="too thin"):
        images.eval_view(np.zeros(shape, np.uint8), 224)
    assert images.eval_view(np.zeros((1000, 1, 3), np.uint8), 224).shape == (224, 224, 3)


def test_eval_view_leaves_a_fitting_image_alone_without_resize():
    np.testing.assert_array_equal(images.eval_view(photo(64, 64), 64, 1.0), photo(64, 64))
    assert images.eval_box(64, 64, 64, 1.0) == (64, 64, 0, 0)


@pytest.mark.parametrize("resize", [1.0, 256 / 224])
@pytest.mark.parametrize(("interpolation", "resample"), [("bilinear", 2), ("bicubic", 3)])
def test_eval_view_as_a_network_wants_it(resize, interpolation, resample):
    """Against PIL's own calls, on a landscape whose sides divide without remainder."""
    pixels = photo(448, 224)
    short = round(112 * resize)
    resized = Image.fromarray(pixels).resize((2 * short, short), resample)
    left, top = (2 * short - 112) // 2, (short - 112) // 2
    expected = np.asarray(resized.crop((left, top, left + 112, top + 112)))
    view = images.eval_view(pixels, 112, resize, interpolation)
    np.testing.assert_array_equal(view, expected)


@pytest.mark.parametrize("padding", [0, 1, 4])
def test_all_offsets_of_a_padded_crop_are_equally_likely(padding):
    side = 2 * padding + 1
    generator = np.random.default_rng(0)
    draws = [images.pad_offset(generator.random(images.NUMBERS), padding) for _ in range(100 * side**2)]
    offsets, counts = np.unique(draws, axis=0, return_counts=True)
    expected = [[x, y] for x in range(-padding, padding + 1) for y in range(-padding, padding + 1)]
    np.testing.assert_array_equal(offsets, expected)
    assert ((counts - 100) ** 2 / 100).sum() < side**2 + 5 * math.sqrt(2 * side**2)  # chi-squared, 5 sigma


def test_offsets_of_a_padded_crop_stay_inside_at_the_ends():
    below_one = np.full(images.NUMBERS, np.nextafter(1, 0))
    assert images.pad_offset(np.zeros(images.NUMBERS), 4) == (-4, -4)
    assert images.pad_offset(below_one, 4) == (4, 4)


@pytest.mark.parametrize(("left", "top"), [(0, 0), (-4, 3), (4, 4), (2, -4), (-4, -4)])
def test_window_is_a_slice_of_the_padded_image(left, top):
    pixels = photo(16, 16)
    padded = np.pad(pixels, ((4, 4), (4, 4), (0, 0)))
    expected = padded[top + 4 : top + 20, left + 4 : left + 20]
    np.testing.assert_array_equal(images.window(pixels, left, top, 16), expected)
