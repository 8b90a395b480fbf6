"""The covariances of Good-DA-in-KD against NumPy and against their definition, entry by entry."""

import numpy as np
import pytest

from seed_jax.analysis import probability_covariance, risk_covariance


def test_probabilities_against_numpy():
    p = np.random.default_rng(0).dirichlet(np.ones(5), 8).astype(np.float32)
    found = probability_covariance(p)
    p = p.astype(np.float64)
    for name, rowvar in (("samples", True), ("classes", False)):
        for key, matrix in (
            (name, np.cov(p, rowvar=rowvar)),
            (f"{name}_correlation", np.corrcoef(p, rowvar=rowvar)),
        ):
            np.testing.assert_allclose(
                found[key], (matrix.mean(), np.abs(matrix).mean()), rtol=1e-9, atol=1e-15
            )


def test_a_constant_class_has_no_correlation():
    p = np.array([[0.5, 0.2, 0.3], [0.5, 0.4, 0.1], [0.5, 0.1, 0.4]])
    found = probability_covariance(p)
    assert all(np.isfinite(mean) for pair in found.values() for mean in pair)


def test_the_risk_is_summed_over_pairs_of_positions():
    losses = np.random.default_rng(0).gamma(2.0, size=(7, 6))
    scaled = losses / losses.max(axis=0)
    covariance = np.cov(scaled, rowvar=False)
    want = sum(covariance[i, j] for i in range(6) for j in range(i)) / 36
    np.testing.assert_allclose(risk_covariance(losses), want, rtol=1e-9)


def test_equal_sequences_have_more_covariance_than_independent_ones():
    random = np.random.default_rng(0)
    shared = random.gamma(2.0, size=(50, 1))
    alone = random.gamma(2.0, size=(50, 20))
    assert risk_covariance(shared * np.ones((1, 20))) > 5 * abs(risk_covariance(alone))


@pytest.mark.parametrize("of", [probability_covariance, risk_covariance])
def test_arrays_of_another_kind_are_refused(of):
    with pytest.raises(AssertionError):
        of(np.ones(4))
    with pytest.raises(AssertionError):
        of(np.ones((4, 4), int))
