"""Views of SLA against torch's rot90 and lists of colours, in the released order."""

import jax.numpy as jnp
import numpy as np
import pytest
import torch

from seed_jax.data.transforms import transform
from seed_jax.errors import UserError

THREE = ["rgb", "gbr", "brg"]
SIX = ["rgb", "rbg", "grb", "gbr", "brg", "bgr"]


@pytest.mark.parametrize(
    ("rotations", "colours", "turns", "orders"),
    [
        (4, 1, (0, 1, 2, 3), ["rgb"]),
        (2, 1, (0, 2), ["rgb"]),
        (1, 6, (0,), SIX),
        (1, 3, (0,), THREE),
        (2, 3, (0, 2), THREE),
        (4, 3, (0, 1, 2, 3), THREE),
        (4, 6, (0, 1, 2, 3), SIX),
    ],
)
def test_the_released_views_in_the_released_order(rotations, colours, turns, orders):
    images = np.random.default_rng(0).random((2, 3, 3, 3), np.float32)
    x = torch.tensor(images).permute(0, 3, 1, 2)
    want = [
        torch.stack([torch.rot90(x, k, (2, 3))[:, "rgb".index(c)] for c in order], -1)
        for k in turns
        for order in orders
    ]
    got = transform(jnp.asarray(images), rotations, colours)
    np.testing.assert_array_equal(got, torch.stack(want, 1))
    np.testing.assert_array_equal(got[:, 0], images)
    assert len(np.unique(np.asarray(got[0]).reshape(len(want), -1), axis=0)) == len(want)


@pytest.mark.parametrize(
    ("shape", "settings", "words"),
    [
        ((1, 4, 4, 3), (3, 1), "method.rotations is 3: use one of 1, 2, 4"),
        ((1, 4, 4, 3), (4, 2), "method.colours is 2: use one of 1, 3, 6"),
        ((1, 4, 6, 3), (4, 1), "A quarter turn needs square images, and these have 4 x 6 pixels"),
        ((1, 4, 4, 1), (1, 3), "A permutation of colours works on RGB images"),
    ],
)
def test_images_that_cannot_be_transformed(shape, settings, words):
    with pytest.raises(UserError, match=words):
        transform(jnp.zeros(shape), *settings)


def test_half_turns_take_any_shape():
    assert transform(jnp.zeros((1, 4, 6, 3)), 2, 1).shape == (1, 2, 4, 6, 3)


def test_grey_images_turn():
    grey = jnp.arange(4.0).reshape(1, 2, 2, 1)
    turned = transform(grey, 4, 1)
    assert turned[0, :, 0, 0, 0].tolist() == [0, 1, 3, 2]
