import numpy as np
import pytest
from scipy.spatial.distance import pdist

from seed_jax.evals import hypersphere

X, Y = np.random.default_rng(0).standard_normal((2, 60, 5))


def unit(x):
    return x / np.linalg.norm(x, axis=1, keepdims=True)


def test_uniformity_is_over_all_pairs(monkeypatch):
    expected = np.log(np.exp(-2 * pdist(unit(X), "sqeuclidean")).mean())
    assert hypersphere.uniformity(X) == pytest.approx(expected)
    monkeypatch.setattr(hypersphere, "_ROWS", 7)
    assert hypersphere.uniformity(X) == pytest.approx(expected)


def test_a_collapsed_network_is_aligned_and_not_uniform():
    one = np.tile(X[:1], (20, 1))
    assert hypersphere.alignment(one, 3 * one) == pytest.approx(0)
    assert hypersphere.uniformity(one) == pytest.approx(0)
    assert hypersphere.uniformity(X) < -1


def test_alignment_is_the_mean_squared_distance():
    assert hypersphere.alignment(X, Y) == pytest.approx(
        np.mean([np.linalg.norm(a - b) ** 2 for a, b in zip(unit(X), unit(Y), strict=True)])
    )
