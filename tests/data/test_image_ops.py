"""Each operation against PIL, at whole levels. Ours are cut to whole levels where PIL's are."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image, ImageEnhance, ImageOps

from seed_jax.data import image_ops as ops
from seed_jax.errors import UserError

HEIGHT, WIDTH = 24, 20


@pytest.fixture
def images():
    """Noise, a ramp, few levels, and one with an even channel."""
    x = np.random.default_rng(0).integers(0, 256, (4, HEIGHT, WIDTH, 3))
    x[1] = np.linspace(40, 180, HEIGHT).astype(int)[:, None, None]
    x[2] = x[2] // 100 * 90
    x[3, ..., 1] = 77
    return x.astype(np.uint8)


def compare(images, ours, pil, levels=0, share=0.0):
    """`ours` of the batch against `pil` of each image; a `share` of the pixels may differ by more."""
    ours = np.asarray(ops.truncate(jax.jit(ours)(jnp.asarray(images / 255, jnp.float32))) * 255)
    theirs = np.stack([np.asarray(pil(Image.fromarray(image))) for image in images]).astype(float)
    assert (np.abs(ours - theirs) > levels + 1e-3).mean() <= share


@pytest.mark.parametrize(
    ("amount", "across", "about_centre"),
    [(-0.3, True, False), (0.3, False, False), (0.13, True, True), (-0.3, False, True)],
)
def test_shear(images, amount, across, about_centre):
    """torchvision today: x comes from x + amount * y; 0.10: about the centre, by tan(amount)."""
    m = math.tan(amount) if about_centre else amount
    half = (HEIGHT if across else WIDTH) / 2
    shift = -m * half if about_centre else 0
    data = (1, m, shift, 0, 1, 0) if across else (1, 0, 0, m, 1, shift)
    amounts = {"across": amount} if across else {"down": amount}
    compare(
        images,
        lambda x: ops.shear(x, **amounts, about_centre=about_centre),
        lambda im: im.transform(im.size, Image.Transform.AFFINE, data, Image.Resampling.NEAREST),
        share=0.005,  # a pixel centre on a boundary falls to either side
    )


def test_translate(images):
    moved = np.zeros_like(images)
    moved[:, :-2, 3:] = images[:, 2:, :-3]
    ours = ops.translate(jnp.asarray(images / 255, jnp.float32), 3.9, -2.9)
    np.testing.assert_allclose(ours, moved / 255, atol=1e-6)


@pytest.mark.parametrize("degrees", [-30.0, 13.3, 90.0, 133.0])
def test_rotate(images, degrees):
    compare(images, lambda x: ops.rotate(x, degrees), lambda im: im.rotate(degrees), share=0.005)


@pytest.mark.parametrize("factor", [0.1, 0.55, 1.0, 1.9])
def test_blends(images, factor):
    """PIL rounds what it blends with: the grey, its mean, the smoothed pixels."""
    for ours, enhance in (
        (ops.brightness, ImageEnhance.Brightness),
        (ops.colour, ImageEnhance.Color),
        (ops.contrast, ImageEnhance.Contrast),
        (ops.sharpness, ImageEnhance.Sharpness),
    ):
        compare(
            images,
            lambda x, ours=ours: ours(x, factor),
            lambda im, enhance=enhance: enhance(im).enhance(factor),
            levels=1,
        )


def test_sharpness_of_a_small_image_changes_nothing():
    x = jnp.linspace(0, 1, 2 * 2 * 5 * 3).reshape(2, 2, 5, 3)
    np.testing.assert_allclose(ops.sharpness(x, 1.7), x, atol=1e-6)


@pytest.mark.parametrize("bits", [1, 4, 7, 8])
def test_posterize(images, bits):
    compare(images, lambda x: ops.posterize(x, bits), lambda im: ImageOps.posterize(im, bits))


@pytest.mark.parametrize("threshold", [0, 85, 113.33, 255, 256])
def test_solarize(images, threshold):
    compare(images, lambda x: ops.solarize(x, threshold), lambda im: ImageOps.solarize(im, threshold))


def test_autocontrast(images):
    compare(images, ops.autocontrast, ImageOps.autocontrast, levels=1)


def test_equalize_and_invert(images):
    compare(images, ops.equalize, ImageOps.equalize)
    compare(images, ops.invert, ImageOps.invert)


def test_equalize_leaves_a_channel_without_a_table():
    """Fewer than 255 pixels below the highest level: PIL's step is 0. Between levels nothing is rounded."""
    x = jnp.full((1, 16, 16, 3), 0.3).at[0, 0, 0].set(1.0)
    np.testing.assert_array_equal(ops.equalize(x.at[0, :8].set(1.0)), x.at[0, :8].set(1.0))
    np.testing.assert_array_equal(ops.equalize(x)[0, 0, 0], 1.0)


def test_one_amount_an_image(images):
    x = jnp.asarray(images / 255, jnp.float32)
    amounts = jnp.array([0.2, 0.7, 1.0, 1.8])
    for op in (ops.brightness, ops.contrast, ops.rotate, ops.shear, ops.translate):
        alone = jnp.concatenate([op(x[i : i + 1], amounts[i]) for i in range(4)])
        np.testing.assert_allclose(op(x, amounts), alone, atol=1e-6)


def test_truncate_keeps_whole_levels():
    levels = jnp.arange(256) / 255
    np.testing.assert_array_equal(ops.truncate(levels), levels)
    np.testing.assert_allclose(ops.truncate(levels[:-1] + 0.9 / 255), levels[:-1], atol=1e-7)


def test_other_images_are_refused():
    with pytest.raises(UserError, match=r"Cutout works on RGB .* \[2, 8, 8, 1\]"):
        ops.check_rgb(jnp.zeros((2, 8, 8, 1)), "Cutout")
    with pytest.raises(TypeError, match="uint8: divide by 255"):
        ops.check_rgb(jnp.zeros((2, 8, 8, 3), jnp.uint8), "Cutout")
