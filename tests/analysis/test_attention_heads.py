"""What is measured of attention, against loops in float64 and hand calculations."""

import jax.numpy as jnp
import numpy as np
import pytest

from seed_jax.analysis import attention_distance, attention_nmi, diagonal_mass, head_cosine, mean_attention

GRID = (2, 3)


@pytest.fixture
def attention():
    """Of two images, three heads, six patches after two prefix tokens."""
    logits = 2 * np.random.default_rng(0).standard_normal((2, 3, 8, 8))
    return (np.exp(logits) / np.exp(logits).sum(axis=-1, keepdims=True)).astype(np.float32)


def rows64(attention):
    rows = np.float64(attention)[:, :, 2:, 2:]
    return rows / rows.sum(axis=-1, keepdims=True)


def place(i):
    return np.array(divmod(i, GRID[1]))


def test_distance(attention):
    want = np.zeros(3)
    for image in rows64(attention):
        for head, rows in enumerate(image):
            for q in range(6):
                for k in range(6):
                    want[head] += rows[q, k] * 16 * np.linalg.norm(place(q) - place(k)) / 12
    got = attention_distance(attention, grid=GRID, patch_size=16, prefix_tokens=2)
    np.testing.assert_allclose(got, want, rtol=1e-5)


def test_cosine(attention):
    rows = rows64(attention)
    want = [
        np.mean(
            [
                a @ b / np.linalg.norm(a) / np.linalg.norm(b)
                for other in range(3)
                if other != head
                for a, b in zip(rows[:, head].reshape(-1, 6), rows[:, other].reshape(-1, 6), strict=True)
            ]
        )
        for head in range(3)
    ]
    np.testing.assert_allclose(head_cosine(attention, prefix_tokens=2), want, rtol=1e-5)


def test_information(attention):
    want = np.zeros(3)
    for image in rows64(attention):
        for head, rows in enumerate(image):
            joint = rows / 6
            key = joint.sum(axis=0)
            information = (joint * np.log(joint / (key / 6))).sum()
            want[head] += information / np.sqrt(np.log(6) * -(key * np.log(key)).sum()) / 2
    np.testing.assert_allclose(attention_nmi(attention, prefix_tokens=2), want, rtol=1e-4)


def test_mass_near_the_query(attention):
    rows = rows64(attention)
    for radius in (0, 1):
        near = [[np.abs(place(q) - place(k)).max() <= radius for k in range(6)] for q in range(6)]
        want = (rows * np.array(near)).sum(axis=-1).mean(axis=(0, 2))
        got = diagonal_mass(attention, grid=GRID, radius=radius, prefix_tokens=2)
        np.testing.assert_allclose(got, want, rtol=1e-5)
    np.testing.assert_allclose(diagonal_mass(attention, grid=GRID, radius=2, prefix_tokens=2), 1, rtol=1e-6)


def test_the_mean_map(attention):
    attention[0, 1, 3] = np.eye(8)[0]  # patch 1 of one head looks at the prefix alone
    rows = rows64(np.where(np.arange(8)[:, None] == 3, 1, attention))  # a stand-in that is not counted
    want = rows.mean(axis=(0, 1))
    each = rows64(attention[:, [0, 2]])[:, :, 1].sum(axis=(0, 1)) + rows64(attention[1:, 1:2])[0, 0, 1]
    want[1] = each / 5
    np.testing.assert_allclose(mean_attention(attention, prefix_tokens=2), want, rtol=1e-5)


def test_columns_have_no_information_and_permutations_have_all():
    column = jnp.zeros((1, 1, 5, 5)).at[:, :, :, 2].set(1.0)
    assert float(attention_nmi(column, prefix_tokens=0)[0]) == 0
    order = jnp.eye(5)[jnp.array([3, 1, 4, 0, 2])][None, None]
    np.testing.assert_allclose(attention_nmi(order, prefix_tokens=0), 1, rtol=1e-6)


def test_a_query_that_looks_at_the_prefix_alone_is_left_out(attention):
    some, patches = attention.copy(), np.arange(2, 8)
    some[0, 1, 4] = np.eye(8)[0]
    rows = rows64(attention)
    distances = np.linalg.norm([[place(q) - place(k) for k in range(6)] for q in range(6)], axis=-1)
    each = (rows[:, 1] * distances).sum(axis=-1).ravel()
    want = np.delete(each, 2).mean()  # token 4 is patch 2 of the first image
    got = attention_distance(some, grid=GRID, patch_size=1, prefix_tokens=2)
    np.testing.assert_allclose(got[1], want, rtol=1e-5)
    some[:, 1, patches] = np.eye(8)[0]
    for measured in (
        attention_distance(some, grid=GRID, patch_size=1, prefix_tokens=2),
        attention_nmi(some, prefix_tokens=2),
        head_cosine(some, prefix_tokens=2),
    ):
        assert np.isnan(measured[1]) and np.isfinite([measured[0], measured[2]]).all()


def test_nan_stays_nan(attention):
    attention[0, 1] = np.nan
    assert np.isnan(attention_distance(attention, grid=GRID, patch_size=1, prefix_tokens=2)[1])
    assert np.isnan(attention_nmi(attention, prefix_tokens=2)[1])
    assert np.isnan(head_cosine(attention, prefix_tokens=2)).all()


def test_mistakes(attention):
    with pytest.raises(AssertionError, match="grid is 3 x 3, and attention has 6 patches and 2 before them"):
        attention_distance(attention, grid=(3, 3), patch_size=16, prefix_tokens=2)
    with pytest.raises(AssertionError, match="one head"):
        head_cosine(attention[:, :1])
    with pytest.raises(AssertionError, match="8 tokens, of which 8 are before the patches"):
        attention_nmi(attention, prefix_tokens=8)
    with pytest.raises(AssertionError, match="it must be"):
        attention_nmi(attention[:, :, :3])
