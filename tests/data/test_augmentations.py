"""Augmentations by name: what each may do to a batch, and who shares a draw."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from seed_jax.data import mixing, policies
from seed_jax.data.augmentations import AUGMENTATIONS, augment, of_views
from seed_jax.data.views import ViewSpec
from seed_jax.errors import UserError

KEY = jax.random.key(0)
IMAGES = np.random.default_rng(0).uniform(0.1, 1, (6, 16, 16, 3)).astype(np.float32)
EACH = jax.random.split(jax.random.key(1), len(IMAGES))


@pytest.mark.parametrize("name", AUGMENTATIONS)
@pytest.mark.parametrize("keys", [None, EACH], ids=["batch", "image"])
def test_every_one_keeps_shape_and_range_and_follows_its_keys(name, keys):
    run = jax.jit(lambda images, key, keys: augment(name, images, key, keys))
    once, again = run(IMAGES, KEY, keys), run(IMAGES, KEY, keys)
    assert once.shape == IMAGES.shape and once.dtype == jnp.float32
    assert once.min() >= 0 and once.max() <= 1
    np.testing.assert_array_equal(once, again)


def test_identity():
    np.testing.assert_array_equal(augment("identity", IMAGES, KEY), IMAGES)


def test_a_flip_is_that_of_all_images_or_of_each():
    def mirrored(key, keys=None):
        got = np.asarray(augment("flip", IMAGES, key, keys))
        return [bool((x == image[:, ::-1]).all()) for x, image in zip(got, IMAGES, strict=True)]

    assert {tuple(mirrored(jax.random.key(n))) for n in range(8)} == {(True,) * 6, (False,) * 6}
    assert len({*mirrored(KEY, EACH)}) == 2


def test_crop_and_flip_is_a_window_of_the_padded_image():
    """Every result is one of the 5 x 5 windows of the image padded by 2, or its mirror image."""
    padded = np.pad(IMAGES, ((0, 0), (2, 2), (2, 2), (0, 0)))
    places = []
    for image, result in zip(padded, np.asarray(augment("crop_flip", IMAGES, KEY, EACH)), strict=True):
        windows = {
            (top, left, flip): image[top : top + 16, left : left + 16][:, :: -1 if flip else 1]
            for top in range(5)
            for left in range(5)
            for flip in (False, True)
        }
        (place,) = [place for place, window in windows.items() if (window == result).all()]
        places.append(place)
    assert len({*places}) > 1
    shared = np.asarray(augment("crop_flip", IMAGES, KEY))
    assert len({tuple(np.argwhere(x.sum(-1) == 0).ravel()) for x in shared}) == 1


@pytest.mark.parametrize("name", ["flip", "crop_flip", "autoaugment_cifar10"])
def test_as_released_the_result_has_whole_levels(name):
    levels = 255 * np.asarray(augment(name, IMAGES, KEY, released=True))
    np.testing.assert_allclose(levels, levels.round(), atol=1e-3)


def test_the_named_functions_are_called():
    np.testing.assert_array_equal(augment("cutmix", IMAGES, KEY), mixing.cutmix(IMAGES, KEY).images)
    np.testing.assert_array_equal(augment("mixup", IMAGES, KEY, EACH), mixing.mixup(IMAGES, KEY, EACH).images)
    want = policies.auto_augment(IMAGES, EACH, "imagenet")
    np.testing.assert_array_equal(augment("autoaugment_imagenet", IMAGES, KEY, EACH), want)
    hole = np.asarray(augment("cutout", IMAGES, KEY, fill=jnp.array([0.0, 0.01, 0.02])))
    assert (hole[np.abs(hole - IMAGES).max(-1) > 0] == np.float32([0.0, 0.01, 0.02])).all()


def test_bad_input():
    with pytest.raises(UserError, match="augmentation.*'cutmx'.*cutmix"):
        augment("cutmx", IMAGES, KEY)
    with pytest.raises(UserError, match="the batch has 1"):
        augment("mixup", IMAGES[:1], KEY)


def view(**fields):
    return ViewSpec(count=2, size=16, **fields)


def test_views_have_a_policy_and_are_erased_with_noise():
    """Each view draws for itself; erased pixels are mean + std N(0, 1), others untouched."""
    x = jnp.broadcast_to(jnp.full(3, 2.0), (200, 2, 16, 16, 3))
    keys = jax.random.split(jax.random.key(3), 200)
    mean, std = (0.5, 0.4, 0.3), (0.2, 0.25, 0.3)
    out = np.asarray(of_views(view(erase=0.25), x, keys, mean, std))
    erased = (out != 2).all(-1)
    share = erased.mean((2, 3))
    assert 0.17 < (share > 0).mean() < 0.33
    assert share.max() < 0.37 and share[share > 0].min() > 0.01
    assert ((share[:, 0] > 0) != (share[:, 1] > 0)).any()
    np.testing.assert_allclose(out[erased].mean(0), mean, atol=0.02)
    np.testing.assert_allclose(out[erased].std(0), std, atol=0.02)
    views = np.stack([IMAGES, IMAGES], axis=1)
    out = np.asarray(of_views(view(policy="rand_augment"), views, EACH, mean, std))
    assert (out[:, 0] != out[:, 1]).any()
    again = np.asarray(of_views(view(policy="rand_augment"), views[:, 1:], EACH, mean, std, first_view=1))
    np.testing.assert_array_equal(again[:, 0], out[:, 1])
