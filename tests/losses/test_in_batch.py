"""Losses that compare the images of a batch, against float64, the released codes and hand calculation."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from numeric import assert_equals_float64, assert_released, assert_same_on_8_devices, draw, wave

from seed_jax import parallel
from seed_jax.losses import batch_info_nce, nt_xent


def unit(x):
    return x / np.linalg.norm(x, axis=-1, keepdims=True)


def on_views(x):
    """`nt_xent` of rows that are not yet of length 1."""
    return nt_xent(x / jnp.linalg.norm(x, axis=-1, keepdims=True), temperature=0.5)


def on_pairs(query, key):
    """`batch_info_nce` of rows that are not yet of length 1."""
    query, key = (x / jnp.linalg.norm(x, axis=1, keepdims=True) for x in (query, key))
    return batch_info_nce(query, key, temperature=0.2)


def direct_nt_xent(x):
    """Eq. 1 of SimCLR, pair by pair, over all views in one list; summed over both views of each image."""
    z = unit(x).transpose(1, 0, 2).reshape(-1, x.shape[-1])
    size = len(x)
    losses = np.zeros(2 * size)
    for i in range(2 * size):
        others = [np.exp(z[i] @ z[k] / 0.5) for k in range(2 * size) if k != i]
        losses[i] = -np.log(np.exp(z[i] @ z[(i + size) % (2 * size)] / 0.5) / sum(others))
    return losses[:size] + losses[size:]


def test_nt_xent_equals_the_formula():
    assert_equals_float64(on_views, direct_nt_xent, draw(6, 2, 5))


def test_nt_xent_of_one_image_is_0():
    """The other view is then the only candidate."""
    np.testing.assert_allclose(nt_xent(jnp.eye(2, 4)[None]), [0], atol=1e-6)


def test_nt_xent_is_that_of_the_released_code():
    """objective.py of google-research/simclr, whose loss is a sum over both views and a mean over images."""
    x = np.stack([wave(4, 5, 0.0), wave(4, 5, 1.0)], axis=1)
    first_image = [
        [-0.0123953, 0.0347939, -0.01035747, -0.05152859, 0.00805033],
        [0.08249562, -0.07505838, 0.01629217, -0.02436593, -0.0008879],
    ]
    assert_released(on_views, x, 2.663183729086413, np.array(first_image))


def test_batch_info_nce_equals_the_formula():
    key = draw(5, 4, seed=1)

    def direct(query):
        logits = unit(query) @ unit(np.float64(key)).T / 0.2
        return np.log(np.exp(logits).sum(axis=1)) - np.diag(logits)

    assert_equals_float64(lambda query: on_pairs(query, key), direct, draw(5, 4))


def test_batch_info_nce_is_that_of_the_released_code():
    """contrastive_loss of moco-v3, moco/builder.py, divided by its factor 2 T."""
    key = jnp.asarray(wave(4, 5, 1.0), jnp.float32)
    first_row = np.array([-0.00079358, 0.00318644, 0.00146938, -0.00782468, -0.0048777])
    assert_released(lambda query: on_pairs(query, key), wave(4, 5, 0.0), 0.5055437972847137, first_row)


def test_keys_of_the_batch_get_no_gradient():
    query, key = jnp.asarray(draw(4, 3)), jnp.asarray(draw(4, 3, seed=1))
    of_query, of_key = jax.grad(lambda *args: on_pairs(*args).sum(), argnums=(0, 1))(query, key)
    assert jnp.abs(of_query).max() > 1e-3 and not of_key.any()


def test_the_same_on_8_devices():
    assert_same_on_8_devices(on_views, draw(16, 2, 8))
    assert_same_on_8_devices(on_pairs, draw(16, 8), draw(16, 8, seed=1))


def largest_on_a_device(loss, *shapes):
    """The most numbers that an array of the compiled gradient has on one of 8 devices."""
    mesh = parallel.make_mesh()
    place = parallel.batch_sharding(mesh)
    args = [jax.ShapeDtypeStruct(shape, jnp.float32, sharding=place) for shape in shapes]
    with jax.set_mesh(mesh):
        step = jax.jit(jax.value_and_grad(lambda *args: loss(*args).mean()))
        text = step.lower(*args).compile().as_text()
    sizes = [np.prod([int(n) for n in match.split(",")]) for match in re.findall(r"f32\[([\d,]+)\]", text)]
    return max(sizes)


def test_a_device_holds_the_rows_of_its_own_images():
    assert largest_on_a_device(on_views, (64, 2, 4)) == 2 * 8 * 2 * 64
    assert largest_on_a_device(on_pairs, (64, 4), (64, 4)) == 8 * 64


def test_wrong_arguments_are_named():
    for z in (np.zeros((4, 8)), np.zeros((4, 3, 8)), np.zeros((4, 2, 8), int)):
        with pytest.raises(AssertionError, match=r"\[z\]"):
            nt_xent(z)
    with pytest.raises(AssertionError, match="temperature is 0.0: it must be above 0"):
        nt_xent(np.zeros((4, 2, 8)), temperature=0.0)
    for query, key, name in (
        (np.zeros((4, 2, 8)), np.zeros((4, 8)), "query"),
        (np.zeros((4, 8)), np.zeros((3, 8)), "key"),
        (np.zeros((4, 8)), np.zeros((4, 8), int), "key"),
    ):
        with pytest.raises(AssertionError, match=rf"\[{name}\b"):
            batch_info_nce(query, key)
    with pytest.raises(AssertionError, match="temperature is -1.0: it must be above 0"):
        batch_info_nce(np.zeros((4, 8)), np.zeros((4, 8)), temperature=-1.0)
