import jax
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from seed_jax import parallel
from seed_jax.errors import UserError
from seed_jax.evals.knn import correct

MESHES = {n: parallel.make_mesh(jax.devices()[:n]) for n in (1, 8)}


def clusters(rng, n, classes=4, width=6, noise=1.5):
    centres = np.random.default_rng(9).normal(size=(classes, width))
    labels = rng.integers(classes, size=n)
    return (centres[labels] + noise * rng.normal(size=(n, width))).astype(np.float32), labels


def brute_force(bank, bank_labels, queries, query_labels, k):
    """Which queries are right by the definition, one query at a time in float64."""
    bank, queries = bank.astype(np.float64), queries.astype(np.float64)
    bank /= np.linalg.norm(bank, axis=1, keepdims=True)
    queries /= np.linalg.norm(queries, axis=1, keepdims=True)
    right = []
    for query, truth in zip(queries, query_labels, strict=True):
        similarity = bank @ query
        nearest = np.argsort(-similarity, kind="stable")[:k]
        votes = {}  # in order of the first neighbour, so that max() gives ties to the nearest
        for i in nearest:
            votes[bank_labels[i]] = votes.get(bank_labels[i], 0) + 1
        right.append(max(votes, key=votes.get) == truth)
    return right


@settings(max_examples=20, deadline=None)
@given(
    n=st.integers(5, 40),
    m=st.integers(1, 30),
    chunks=st.tuples(st.sampled_from([4, 7, 64]), st.sampled_from([3, 8, 64])),
    k=st.sampled_from([1, 5]),
    devices=st.sampled_from([1, 8]),
    seed=st.integers(0, 99),
)
def test_agrees_with_the_definition(n, m, chunks, k, devices, seed):
    rng = np.random.default_rng(seed)
    bank, queries = clusters(rng, n), clusters(rng, m)
    right = correct(*bank, *queries, mesh=MESHES[devices], k=k, query_chunk=chunks[0], bank_chunk=chunks[1])
    assert right.tolist() == brute_force(*bank, *queries, k)


def test_agrees_with_scikit_learn():
    from sklearn.neighbors import KNeighborsClassifier

    rng = np.random.default_rng(1)
    (bank, labels), (queries, truth) = clusters(rng, 300), clusters(rng, 101)
    model = KNeighborsClassifier(1, metric="cosine", algorithm="brute").fit(bank, labels)
    right = correct(bank, labels, queries, truth, mesh=MESHES[8], k=1, bank_chunk=77, query_chunk=32)
    np.testing.assert_array_equal(right, model.predict(queries) == truth)


def test_a_tie_goes_to_the_nearest():
    bank = np.array([[1, 0], [0.9, 0.1], [0.5, 0.5], [0.4, 0.6]], np.float32)
    right = {k: correct(bank, [2, 1, 1, 2], bank[:1], [2], mesh=MESHES[1], k=k)[0] for k in (2, 3, 4)}
    assert right == {2: True, 3: False, 4: True}


def test_of_equal_examples_the_earlier_counts_across_chunks():
    bank = np.ones((6, 3), np.float32)
    assert correct(bank, [5, 4, 3, 2, 1, 0], bank[:1], [5], mesh=MESHES[1], k=1, bank_chunk=2).all()


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"k": 9}, "k is 9: it must be between 1 and the 3 examples of the bank"),
        ({"k": 0}, "k is 0"),
        ({"bank_labels": [0, 1, -1]}, "without a label"),
        ({"queries": np.full((2, 3), np.nan)}, "not finite"),
        ({"queries": np.zeros((0, 3)), "query_labels": []}, "empty"),
    ],
)
def test_mistakes_are_named(change, named):
    arguments = {
        "bank": np.eye(3),
        "bank_labels": [0, 1, 2],
        "queries": np.eye(3)[:2],
        "query_labels": [0, 1],
    }
    arguments = arguments | {"k": 1} | change
    with pytest.raises(UserError, match=named):
        correct(**arguments, mesh=MESHES[1])


def test_the_weighted_vote_agrees_with_scikit_learn():
    from sklearn.neighbors import KNeighborsClassifier

    rng = np.random.default_rng(2)
    (bank, labels), (queries, truth) = clusters(rng, 300), clusters(rng, 101)
    model = KNeighborsClassifier(
        20, metric="cosine", algorithm="brute", weights=lambda distance: np.exp((1 - distance) / 0.07)
    ).fit(bank, labels)
    right = correct(bank, labels, queries, truth, mesh=MESHES[1], k=20, temperature=0.07)
    np.testing.assert_array_equal(right, model.predict(queries) == truth)
    majority = correct(bank, labels, queries, truth, mesh=MESHES[1], k=20)
    assert (majority != right).any()
    # At a temperature near 0 the nearest decides; at a high one all votes weigh the same.
    nearest = correct(bank, labels, queries, truth, mesh=MESHES[1], k=1)
    coldest = correct(bank, labels, queries, truth, mesh=MESHES[1], k=20, temperature=1e-5)
    np.testing.assert_array_equal(coldest, nearest)
