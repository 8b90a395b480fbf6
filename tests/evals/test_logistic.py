import numpy as np
import pytest

from seed_jax.evals import logistic

RNG = np.random.default_rng(0)


def clusters(n, noise=2.0, classes=4, width=12):
    centres = np.random.default_rng(3).standard_normal((classes, width))
    labels = RNG.integers(classes, size=n)
    return (centres[labels] + noise * RNG.standard_normal((n, width))).astype(np.float32), labels


@pytest.mark.parametrize("penalty", [1.0, 0.01])
def test_is_scikit_learns_minimum(penalty):
    from sklearn.linear_model import LogisticRegression

    x, labels = clusters(150)
    found = logistic.solve(x, labels, 4, penalty)
    reference = LogisticRegression(C=1 / (len(x) * penalty), tol=1e-8, max_iter=2000).fit(x, labels)
    np.testing.assert_allclose(found[:-1], reference.coef_.T, atol=3e-3)
    bias = found[-1] - found[-1].mean()  # free up to a constant
    np.testing.assert_allclose(bias, reference.intercept_ - reference.intercept_.mean(), atol=3e-3)


def test_the_penalty_is_chosen_by_the_metric_and_the_last_fit_has_both_sets():
    train, validation = clusters(60), clusters(40)
    asked = []

    def metric(right, labels):
        asked.append((right, labels))
        return float(len(asked) == 2)

    found = logistic.fit(train, validation, num_classes=4, penalties=(1.0, 0.1, 0.01), metric=metric)
    assert found.penalty == 0.1
    assert all(np.array_equal(labels, validation[1]) for _, labels in asked)
    x, labels = (np.concatenate(parts) for parts in zip(train, validation, strict=True))
    mean, std = x.mean(axis=0), x.std(axis=0)
    whole = logistic.solve((x - mean) / std, labels, 4, 0.1)
    np.testing.assert_allclose(found.logits(x), (x - mean) / std @ whole[:-1] + whole[-1], atol=5e-3)


def test_of_equally_good_penalties_the_strongest_is_taken():
    train, validation = clusters(60), clusters(40)
    found = logistic.fit(
        train, validation, num_classes=4, penalties=(1.0, 0.1), metric=lambda right, labels: 0.5
    )
    assert found.penalty == 1.0
