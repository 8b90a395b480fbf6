"""T.stddev against its value for a teacher whose outputs are known."""

import numpy as np
import pytest

from seed_jax.analysis import (
    ChunkMeans,
    released_t_stddev,
    stddev_of_means,
    t_stddev,
    t_stddev_difference,
    t_stddev_interval,
)
from seed_jax.errors import UserError


@pytest.mark.parametrize(
    ("classes", "copies", "want"),
    [(100, 2, 5.562e-3), (200, 2, 3.943e-3), (100, 1, 3.933e-3), (200, 1, 2.788e-3)],
)
def test_one_hot_teachers(classes, copies, want):
    """sqrt((1/C)(1 - 1/C) / n) for n independent rows of 640: half of them if every row comes twice."""
    labels = np.random.default_rng(0).integers(0, classes, 640 * 1000 // copies)
    rows = np.repeat(np.eye(classes, dtype=np.float32)[labels], copies, axis=0)
    np.testing.assert_allclose(t_stddev(rows), want, rtol=1e-2)


def test_rows_are_taken_in_order_and_the_rest_is_left_out():
    rows = np.random.default_rng(0).dirichlet(np.ones(3), 25)
    means = np.stack([rows[n : n + 10].mean(axis=0) for n in (0, 10)])
    want = (np.abs(means[0] - means[1]) / np.sqrt(2)).mean()
    np.testing.assert_allclose(t_stddev(rows, chunk=10), want, rtol=1e-12)


def test_too_few_rows():
    with pytest.raises(UserError, match="at least two chunks of 640 rows, and there are 1000 rows"):
        t_stddev(np.ones((1000, 2)))


@pytest.mark.parametrize("wrong", [np.ones(4), np.ones((4, 2, 1)), np.ones((4, 2), np.int32)])
def test_arrays_of_another_kind_are_refused(wrong):
    with pytest.raises(AssertionError, match=r"\[probabilities\]"):
        t_stddev(wrong, chunk=2)
    with pytest.raises(AssertionError, match=r"\[chunk\]"):
        t_stddev(np.ones((4, 2)), chunk=0)


def test_a_stream_has_the_chunks_of_all_its_rows():
    rows = np.random.default_rng(0).dirichlet(np.ones(3), 47).astype(np.float32)
    stream = ChunkMeans(chunk=10)
    for part in np.split(rows, [3, 4, 30, 30, 45]):
        stream.add(part)
    want = rows[:40].astype(np.float64).reshape(4, 10, 3).mean(axis=1)
    np.testing.assert_allclose(stream.means, want, rtol=1e-12)
    assert stddev_of_means(stream.means) == t_stddev(rows, chunk=10)


def test_the_released_chunks_are_shorter_at_the_end_of_an_epoch():
    """Epochs of 3 steps with 4, 4 and 2 images, twice each; a chunk is two steps, over the ends of epochs."""
    random = np.random.default_rng(0)
    steps = [random.dirichlet(np.ones(3), size) for _ in range(4) for size in (4, 4, 2)]
    batches = [batch for step in steps for batch in (step, step[::-1])]
    chunks = [np.concatenate(steps[i : i + 2]).mean(axis=0) for i in range(0, 12, 2)]
    assert {len(steps[i]) + len(steps[i + 1]) for i in range(0, 12, 2)} == {8, 6}
    want = np.std(chunks, axis=0, ddof=1).mean()
    np.testing.assert_allclose(released_t_stddev(batches, per_chunk=4), want, rtol=1e-12)
    with pytest.raises(UserError, match="at least two chunks of 10 batches, and there are 3 batches"):
        released_t_stddev(batches[:3])


@pytest.mark.parametrize("classes", [1, 10, 100])
def test_the_interval_covers_the_truth_as_often_as_it_says(classes):
    """Chunks of classes with standard deviations 1 to 4: their mean is 2.5."""
    random, deviations = np.random.default_rng(0), np.linspace(1, 4, classes) if classes > 1 else 2.5
    hits = []
    for _ in range(200):
        means = 7 + deviations * random.standard_normal((30, classes))
        low, high = t_stddev_interval(means)
        hits.append(0 < low <= 2.5 <= high)
    assert 0.9 <= np.mean(hits) <= 0.99


def test_two_augmentations_are_compared_chunk_by_chunk():
    """What both share cancels: the paired interval is far narrower than those of the two."""
    random = np.random.default_rng(0)
    means = random.standard_normal((40, 5))
    others = means + 0.05 * random.standard_normal((40, 5))
    difference, low, high = t_stddev_difference(1.1 * means, others)
    assert difference == stddev_of_means(1.1 * means) - stddev_of_means(others)
    assert 0 < low < difference < high
    alone = t_stddev_interval(means)
    assert high - low < 0.3 * (alone[1] - alone[0])


def test_intervals_need_two_chunks_of_both():
    means = np.ones((3, 2))
    with pytest.raises(ValueError, match="two chunks, and there are 1"):
        t_stddev_interval(means[:1])
    with pytest.raises(ValueError, match="there are 3 and 2 chunks"):
        t_stddev_difference(means, means[:2])
