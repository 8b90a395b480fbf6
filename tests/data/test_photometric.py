import colorsys
import dataclasses
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image, ImageEnhance, ImageFilter, ImageOps

from seed_jax import parallel
from seed_jax.data import photometric
from seed_jax.errors import UserError

augment_and_flips = jax.jit(photometric.augment, static_argnums=(0, 3), static_argnames="first_view")
STEP = 1 / 255  # PIL rounds to whole levels, we do not


def augment(*args, **kwargs):
    return augment_and_flips(*args, **kwargs)[0]


@pytest.fixture
def image():
    return np.random.default_rng(0).integers(0, 256, (24, 20, 3), np.uint8)


def to_pil(x):
    return Image.fromarray(np.round(np.asarray(x) * 255).astype(np.uint8))


def assert_near(ours, pil, levels):
    np.testing.assert_allclose(ours, np.asarray(pil) / 255, atol=levels * STEP)


def images_and_keys(batch=12, views=2, size=16, seed=0):
    images = np.random.default_rng(seed).integers(0, 256, (batch, views, size, size, 3), np.uint8)
    return images, jax.random.split(jax.random.key(seed), batch)


@pytest.mark.parametrize("factor", [0.0, 0.6, 1.0, 1.4])
def test_blends_are_pils_image_enhance(image, factor):
    x = jnp.asarray(image / 255, jnp.float32)
    pil = Image.fromarray(image)
    grey = photometric.luma(x)
    assert_near(photometric.blend(x, 0.0, factor), ImageEnhance.Brightness(pil).enhance(factor), 1.01)
    assert_near(photometric.blend(x, grey.mean(), factor), ImageEnhance.Contrast(pil).enhance(factor), 1.6)
    assert_near(photometric.blend(x, grey, factor), ImageEnhance.Color(pil).enhance(factor), 1.6)


def test_luma_is_pils_grey(image):
    assert_near(photometric.luma(jnp.asarray(image / 255))[..., 0], Image.fromarray(image).convert("L"), 1.01)


@pytest.mark.parametrize("shift", [-0.5, -0.1, 0.0, 0.07, 0.4])
def test_hue_is_a_turn_in_hsv(image, shift):
    image[0, :4] = [[0, 0, 0], [255, 255, 255], [77, 77, 77], [9, 200, 200]]  # greys have no hue; ties

    def turned(rgb):
        h, s, v = colorsys.rgb_to_hsv(*(rgb / 255))
        return colorsys.hsv_to_rgb((h + shift) % 1.0, s, v)

    expected = np.apply_along_axis(turned, -1, image.astype(float))
    ours = photometric.shift_hue(jnp.asarray(image / 255, jnp.float32), jnp.float32(shift))
    np.testing.assert_allclose(ours, expected, atol=3e-6)


@pytest.mark.parametrize("sigma", [0.1, 0.7, 2.0])
def test_blur_is_a_cut_gaussian(image, sigma):
    from scipy.ndimage import gaussian_filter

    expected = gaussian_filter(image / 255, (sigma, sigma, 0), mode="nearest", radius=(6, 6, 0))
    ours = photometric.gaussian_blur(jnp.asarray(image / 255, jnp.float32), jnp.float32(sigma))
    np.testing.assert_allclose(ours, expected, atol=1e-6)


@pytest.mark.parametrize("sigma", [0.5, 1.0, 2.0])
def test_pils_blur_approximates_it(image, sigma):
    """The docstring of `gaussian_blur` names this deviation."""
    pil = Image.fromarray(image).filter(ImageFilter.GaussianBlur(sigma))
    ours = photometric.gaussian_blur(jnp.asarray(image / 255, jnp.float32), jnp.float32(sigma))
    assert np.abs(np.asarray(ours) - np.asarray(pil) / 255).mean() < 6 * STEP


def test_solarise_is_pils(image):
    assert_near(
        photometric.solarise(jnp.asarray(image / 255)), ImageOps.solarize(Image.fromarray(image)), 0.01
    )


def pil_jitter(image, order, offset):
    """torchvision's ColorJitter on a PIL image, with the hue in floats."""
    for op in order:
        if op == 3:
            shifted = photometric.shift_hue(jnp.asarray(np.asarray(image) / 255), jnp.float32(offset[3]))
            image = to_pil(shifted)
        else:
            enhance = (ImageEnhance.Brightness, ImageEnhance.Contrast, ImageEnhance.Color)[op]
            image = enhance(image).enhance(1 + offset[op])
    return image


@pytest.mark.parametrize("order", [(0, 1, 2, 3), (3, 2, 1, 0), (1, 3, 0, 2), (2, 0, 3, 1)])
def test_jitter_applies_its_operations_in_order(image, order):
    offset = np.array([0.36, -0.32, 0.28, 0.06], np.float32)
    ours = jax.jit(photometric.jitter)(jnp.asarray(image / 255, jnp.float32), offset, jnp.array(order))
    right, wrong = (
        np.asarray(pil_jitter(Image.fromarray(image), o, offset)) / 255 for o in (order, order[::-1])
    )
    assert np.abs(ours - right).mean() < 1.5 * STEP
    assert np.abs(ours - wrong).mean() > 4 * STEP


def test_draws_have_their_distribution():
    """On 1,000 grey images of one level, whose brightness shows the factor."""
    images = np.full((1000, 1, 2, 2, 3), 100, np.uint8)
    keys = jax.random.split(jax.random.key(1), 1000)
    out = np.asarray(augment("digits", images, keys))[:, 0, 0, 0, 0] / (100 / 255)
    untouched = np.abs(out - 1) < 1e-6
    assert 0.15 < untouched.mean() < 0.25  # jitter has probability 0.8
    drawn = out[~untouched]
    assert 0.6 <= drawn.min() < 0.62
    assert 1.38 < drawn.max() <= 1.4
    np.testing.assert_allclose(np.quantile(drawn, [0.25, 0.5, 0.75]), [0.8, 1.0, 1.2], atol=0.04)


def test_probability_of_grey_and_blur():
    images, keys = images_and_keys(1000, 1, 4)
    out = np.asarray(augment("mocov2", images, keys))[:, 0]
    grey = (np.ptp(out, axis=-1) < 1e-6).all(axis=(1, 2))
    assert 0.16 < grey.mean() < 0.24
    # Half are blurred, three quarters of these by half a pixel or more, which removes most contrast of noise.
    contrast = out.std(axis=(1, 2, 3)) / (images[:, 0] / 255).std(axis=(1, 2, 3))
    assert 0.25 < (contrast < 0.5).mean() < 0.6


MOCO_V2 = ((0.4, 0.4, 0.4, 0.1), 0.8, 0.2, False, 0.5)


@pytest.mark.parametrize(
    ("preset", "values"),
    [
        ("mocov2", MOCO_V2),  # main_moco.py --aug-plus
        ("swav", MOCO_V2),  # SEED's swav_aug
        ("swav_small", MOCO_V2),  # SEED's swav_small_aug
        ("mocov1", ((0.4, 0.4, 0.4, 0.4), 1.0, 0.2, True, 0.0)),  # main_moco.py, as InstDisc
        ("dino_local", ((0.4, 0.4, 0.2, 0.1), 0.8, 0.2, False, 0.5)),  # main_dino.py, DataAugmentationDINO
        ("simclr", ((0.8, 0.8, 0.8, 0.2), 0.8, 0.2, False, 0.5)),  # data_util.py, strength 1
    ],
)
def test_presets_are_those_of_the_papers_codes(preset, values):
    p = photometric.PRESETS[preset]
    strengths = (p.brightness, p.contrast, p.saturation, p.hue)
    assert (strengths, p.jitter, p.grey, p.grey_first, p.blur) == values
    assert p.solarise == 0


def test_the_views_of_dino_differ_in_blur_and_solarisation():
    """main_dino.py, DataAugmentationDINO: GaussianBlur(1.0); GaussianBlur(0.1), Solarization(0.2); 0.5."""
    presets = [photometric.PRESETS[name] for name in ("dino", "dino_second", "dino_local")]
    assert [(p.blur, p.solarise) for p in presets] == [(1.0, 0.0), (0.1, 0.2), (0.5, 0.0)]
    same = {dataclasses.replace(p, blur=0.0, solarise=0.0) for p in presets}
    assert len(same) == 1


def test_grey_comes_before_the_jitter_in_mocov1():
    """A grey image stays grey for every hue and saturation."""
    images, keys = images_and_keys(1000, 1, 4)
    out = np.asarray(augment("mocov1", images, keys))
    grey = (np.ptp(out, axis=-1) < 1e-5).all(axis=(1, 2, 3))
    assert 0.16 < grey.mean() < 0.24
    assert np.abs(out - images / 255).max(axis=(1, 2, 3, 4)).min() > STEP  # the jitter has probability 1


def test_every_order_of_the_jitter_is_equally_likely(monkeypatch):
    def show_order(x, offset, order, has_hue):
        return jnp.broadcast_to(order.reshape(1, 4, 1).astype(jnp.float32), x.shape)

    monkeypatch.setattr(photometric, "jitter", show_order)
    images = np.zeros((2400, 1, 1, 4, 3), np.uint8)
    keys = jax.random.split(jax.random.key(0), len(images))
    drawn = np.asarray(photometric.augment("mocov1", images, keys)[0])[:, 0, 0, :, 0]
    orders, counts = np.unique(drawn, axis=0, return_counts=True)
    assert {tuple(order) for order in orders} == set(itertools.permutations((0, 1, 2, 3)))
    assert 60 <= counts.min() <= counts.max() <= 140  # 100 each on average


@pytest.mark.parametrize("preset", ["mocov1", "simclr", "swav", "digits"])
def test_presets_keep_shape_dtype_and_range(preset):
    images, keys = images_and_keys(4, 2, 8)
    out = augment(preset, images, keys)
    assert out.shape == images.shape
    assert out.dtype == jnp.float32
    assert out.min() >= 0
    assert out.max() <= 1


@pytest.mark.parametrize("preset", ["none", "supervised", "fd", "cifar"])
def test_a_preset_without_operations_costs_nothing(preset):
    images, keys = images_and_keys(4)
    np.testing.assert_allclose(augment(preset, images, keys), images / 255, rtol=1e-6)
    assert "random" not in str(jax.make_jaxpr(lambda x, k: augment(preset, x, k))(images, keys))


def test_unknown_preset():
    with pytest.raises(UserError, match="Unknown photometric preset 'moco': did you mean 'mocov[12]'"):
        augment("moco", *images_and_keys(1))


def test_a_sample_does_not_depend_on_its_batch_and_differs_by_view():
    images, keys = images_and_keys()
    images[:, 1] = images[:, 0]
    whole = augment("mocov2", images, keys)
    two = augment("mocov2", images[[7, 2]], keys[jnp.array([7, 2])])
    np.testing.assert_allclose(two, whole[jnp.array([7, 2])], atol=1e-5)
    second = augment("mocov2", images[:, 1:], keys, first_view=1)
    np.testing.assert_allclose(second, whole[:, 1:], atol=1e-5)
    assert np.abs(whole[:, 0] - whole[:, 1]).mean(axis=(1, 2, 3)).min() > STEP


def test_sharding_does_not_matter():
    images, keys = images_and_keys(16, 1)
    sharding = parallel.batch_sharding(parallel.make_mesh())
    alone = augment("mocov2", images, keys)
    images, keys = jax.device_put((images, keys), sharding)
    shared = augment("mocov2", images, keys)
    np.testing.assert_allclose(shared, alone, atol=1e-5)
    assert len(shared.sharding.device_set) == 8
    program = augment_and_flips.lower("mocov2", images, keys).compile().as_text()
    assert not [word for word in ("all-gather", "all-reduce", "all-to-all", "permute(") if word in program]


def test_flip_mirrors_views_at_its_rate_and_nothing_else():
    images, keys = images_and_keys(batch=500, size=4)
    out, flipped = augment_and_flips("none", images, keys, 0.3)
    out = np.round(255 * np.asarray(out))
    mirrored = (out == images[..., ::-1, :]).all((2, 3, 4))
    same = (out == images).all((2, 3, 4))
    np.testing.assert_array_equal(mirrored, ~same)
    np.testing.assert_array_equal(mirrored, flipped)
    assert abs(mirrored.mean() - 0.3) < 4 * np.sqrt(0.3 * 0.7 / mirrored.size)
    assert abs(np.corrcoef(mirrored[:, 0], mirrored[:, 1])[0, 1]) < 0.15


def test_flip_commutes_with_the_rest():
    """With probability 1 each view is the mirror image of the view with probability 0."""
    images, keys = images_and_keys(batch=6)
    plain = np.asarray(augment("simclr", images, keys, 0.0))
    np.testing.assert_allclose(augment("simclr", images, keys, 1.0), plain[..., ::-1, :], atol=1e-6)


@pytest.mark.parametrize("first_view", [0, 3])
def test_flips_are_keyed_by_sample_and_view(first_view):
    _, keys = images_and_keys(batch=9)
    flipped = photometric.flips(photometric.numbers(keys, 4, first_view), 0.4)
    assert flipped.dtype == bool
    for row in range(9):
        for view in range(4):
            key = jax.random.fold_in(keys[row], first_view + view)
            assert flipped[row, view] == (jax.random.uniform(key, (14,))[13] < 0.4)


def test_augment_says_which_views_it_mirrored():
    images, keys = images_and_keys(batch=40, size=4)
    numbers = photometric.numbers(keys, 2, 5)
    for preset in ("none", "digits"):
        for probability in (0.0, 0.5):
            _, flipped = augment_and_flips(preset, images, keys, probability, first_view=5)
            np.testing.assert_array_equal(flipped, photometric.flips(numbers, probability))
    assert not photometric.flips(numbers, 0.0).any()
    assert photometric.flips(numbers, 1.0).all()


def test_numbers_are_drawn_once():
    images, keys = images_and_keys(4)
    jaxpr = str(jax.make_jaxpr(lambda x, k: photometric.augment("mocov2", x, k, 0.5))(images, keys))
    assert jaxpr.count("random_bits") == 1


def test_values_of_a_seed_stay_the_same():
    """Recorded before `augment` returned its flips: a change would break the resume of old runs."""
    images = np.random.default_rng(0).integers(0, 256, (6, 3, 8, 8, 3), np.uint8)
    keys = jax.random.split(jax.random.key(5), 6)
    flipped = [[0, 1, 0], [0, 0, 0], [0, 1, 0], [0, 0, 0], [0, 1, 1], [1, 0, 0]]
    np.testing.assert_array_equal(augment_and_flips("none", images, keys, 0.3, first_view=2)[1], flipped)
    pixels = [
        [0.22162426, 0.29059526, 0.48007336],
        [0.53200287, 0.40135044, 0.25983879],
        [0.20695546, 0.49687335, 0.13472334],
        [0.26274538, 0.61568614, 0.64548850],
        [0.88235295, 0.04415840, 0.43142268],
        [0.77289724, 0.53725505, 0.30489850],
    ]
    out = augment("simclr", images, keys, 0.5, first_view=2)
    np.testing.assert_allclose(out[:, :, 3, 4, 1], pixels, atol=1e-6)
