"""K-means against scikit-learn and against Lloyd's algorithm in float64."""

import jax
import numpy as np
import pytest
from sklearn.cluster import KMeans

from seed_jax import parallel
from seed_jax.analysis.kmeans import kmeans
from seed_jax.errors import UserError

MESHES = {n: parallel.make_mesh(jax.devices()[:n]) for n in (1, 8)}


def blobs(n=203, classes=6, width=5, noise=0.6, seed=0):
    numbers = np.random.default_rng(seed)
    centres = 3 * numbers.standard_normal((classes, width))
    x = centres[numbers.integers(classes, size=n)] + noise * numbers.standard_normal((n, width))
    return x.astype(np.float32)


@pytest.mark.parametrize("devices", [1, 8])
def test_equals_scikit_learn_from_the_same_start(devices):
    x = blobs()
    start = x[:6]
    theirs = KMeans(6, init=start, n_init=1, tol=0, algorithm="lloyd").fit(x)
    ours = kmeans(x, 6, mesh=MESHES[devices], centres=start, block=16)
    assert ours.moved == 0
    np.testing.assert_allclose(ours.centres, theirs.cluster_centers_, atol=1e-4)
    np.testing.assert_array_equal(ours.assigned, theirs.labels_)


def test_an_iteration_is_lloyds_and_the_rows_belong_to_the_centres():
    x = blobs(noise=2.0)
    centres = x[:9].astype(np.float64)
    for iterations in range(3):
        found = kmeans(x, 9, mesh=MESHES[8], centres=x[:9], iterations=iterations, block=8)
        np.testing.assert_allclose(found.centres, centres, atol=1e-5)
        assigned = ((x[:, None] - centres[None]) ** 2).sum(axis=2).argmin(axis=1)
        np.testing.assert_array_equal(found.assigned, assigned)
        centres = np.stack([x[assigned == k].astype(np.float64).mean(axis=0) for k in range(9)])


def test_a_centre_without_rows_moves_to_the_row_farthest_from_its_own():
    x = np.array([[0.0, 0.0], [0.0, 1.0], [5.0, 0.0], [0.0, 0.5]], np.float32)
    start = np.array([[0.0, 0.0], [90.0, 90.0]], np.float32)
    found = kmeans(x, 2, mesh=MESHES[8], centres=start)
    np.testing.assert_allclose(found.centres, [[0.0, 0.5], [5.0, 0.0]], atol=1e-6)
    theirs = KMeans(2, init=start, n_init=1, tol=0, algorithm="lloyd").fit(x)
    np.testing.assert_allclose(found.centres, theirs.cluster_centers_, atol=1e-6)


def test_rows_on_centres_stay_there_although_distances_are_rounded():
    """Means of seven equal rows are rounded, and so are the distances to them."""
    for seed in range(10):
        x = np.random.default_rng(seed).standard_normal((8, 32)).astype(np.float32)
        x = (x / np.linalg.norm(x, axis=1, keepdims=True)).repeat(7, axis=0)
        found = kmeans(x, 10, mesh=MESHES[1])
        assert (found.moved, len(set(found.assigned))) == (0, 8)


def test_equal_rows_leave_centres_empty_and_end():
    found = kmeans(np.ones((5, 3)), 3, mesh=MESHES[1])
    np.testing.assert_array_equal(found.centres, np.ones((3, 3)))
    assert (found.moved, set(found.assigned)) == (0, {0})


def test_seeds_are_distinct_rows_keyed_by_the_seed_on_any_number_of_devices():
    x = blobs()
    drawn = {
        (devices, seed): kmeans(x, 6, mesh=MESHES[devices], seed=seed, iterations=0, block=16)
        for devices in (1, 8)
        for seed in (0, 1)
    }
    for seed in (0, 1):
        np.testing.assert_array_equal(drawn[1, seed].centres, drawn[8, seed].centres)
        np.testing.assert_array_equal(drawn[1, seed].assigned, drawn[8, seed].assigned)
        rows = {tuple(row) for row in x.tolist()}
        centres = {tuple(centre) for centre in drawn[1, seed].centres.tolist()}
        assert len(centres) == 6 and centres <= rows
    assert not np.array_equal(drawn[1, 0].centres, drawn[1, 1].centres)


def test_seeds_are_drawn_by_their_squared_distance():
    """One row is three times as far from the many as another: nine times as likely, once one of the many is
    a seed."""
    x = np.zeros((40, 1), np.float32)
    x[7], x[8] = 1.0, -3.0
    second = [
        tuple(sorted(kmeans(x, 2, mesh=MESHES[1], seed=seed, iterations=0).centres[:, 0]))
        for seed in range(100)
    ]
    counts = {pair: second.count(pair) for pair in ((0.0, 1.0), (-3.0, 0.0))}
    assert 0.8 < counts[-3.0, 0.0] / sum(counts.values()) < 0.98


@pytest.mark.parametrize("clusters", [0, 6])
def test_as_many_clusters_as_rows_at_most(clusters):
    with pytest.raises(UserError, match=f"There are 5 embeddings: use 1 to 5 clusters, not {clusters}."):
        kmeans(blobs(5), clusters, mesh=MESHES[1])
