import numpy as np
import pytest

from seed_jax.errors import UserError
from seed_jax.evals import few_shot

RNG = np.random.default_rng(0)


def clusters(n, noise=1.0, classes=8, width=6):
    centres = np.random.default_rng(3).standard_normal((classes, width))
    labels = np.arange(n) % classes
    return centres[labels] + noise * RNG.standard_normal((n, width)), labels


def test_with_all_images_of_each_class_it_is_scikit_learns_nearest_centroid():
    from sklearn.neighbors import NearestCentroid
    from sklearn.preprocessing import normalize

    (bank, labels), (queries, truth) = clusters(160), clusters(200)
    right = few_shot.per_class(bank, 3 * labels, queries, 3 * truth, count=20, draws=1)  # labels with gaps
    reference = NearestCentroid().fit(normalize(bank), labels).predict(normalize(queries))
    np.testing.assert_array_equal(right, reference == truth)
    assert 0.4 < right.mean() < 1


def test_a_task_is_its_definition():
    x, labels = clusters(320)
    right = few_shot.episodes(x, labels, shots=2, count=20, seed=5)
    rng = np.random.default_rng(5)
    rows = [np.flatnonzero(labels == label) for label in range(8)]
    unit = x.astype(np.float32).astype(np.float64)
    unit /= np.linalg.norm(unit, axis=1, keepdims=True)
    for accuracy in right:
        ways = rng.choice(8, 5, replace=False)
        drawn = [rng.choice(rows[way], 17, replace=False) for way in ways]
        means = [sum(unit[i] for i in own[:2]) / 2 for own in drawn]
        hits = [
            min(range(5), key=lambda c: np.linalg.norm(unit[i] - means[c])) == n
            for n, own in enumerate(drawn)
            for i in own[2:]
        ]
        assert accuracy == pytest.approx(np.mean(hits))


def test_more_shots_help_and_noise_is_chance():
    x, labels = clusters(320)
    one, five = (few_shot.episodes(x, labels, shots=shots, count=200).mean() for shots in (1, 5))
    assert 0.3 < one < five < 1
    noise = RNG.standard_normal((320, 6))
    assert few_shot.episodes(noise, labels, shots=1, count=400).mean() == pytest.approx(0.2, abs=0.015)


def test_too_few_images_are_named():
    x, labels = clusters(80)
    with pytest.raises(UserError, match=r"5 classes with 5 \+ 15 test images each, and 0 have"):
        few_shot.episodes(x, labels, shots=5)
    with pytest.raises(UserError, match="has 10 images to learn from, fewer than the 11"):
        few_shot.per_class(x, labels, x, labels, count=11)
