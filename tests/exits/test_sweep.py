"""The sweep of thresholds equals a loop over images; at 0 and 1 all images leave first or last."""

import numpy as np
import pytest

from seed_jax.exits import confidence, sweep


def draw(count=50, exits=3, classes=4):
    numbers = np.random.default_rng(0)
    labels = numbers.integers(0, classes, count)
    logits = [(1 + i) * numbers.standard_normal((count, classes)) for i in range(exits)]
    return logits, labels


@pytest.mark.parametrize("threshold", [0.3, 0.6, 0.9])
def test_a_loop_over_images(threshold):
    logits, labels = draw()
    flops = [1.0, 5.0, 7.0]
    (policy,) = sweep(logits, labels, flops, [threshold])
    left, right, paid = [], [], 0.0
    for i, label in enumerate(labels):
        for number, rows in enumerate(logits):
            p = np.exp(rows[i]) / np.exp(rows[i]).sum()
            if p.max() > threshold or number == len(logits) - 1:
                left.append(number)
                right.append(p.argmax() == label)
                paid += flops[number]
                break
    assert policy.exits.tolist() == left and policy.correct.tolist() == right
    np.testing.assert_allclose(policy.flops, paid / len(labels))
    assert len(set(left)) > 1


def test_zero_takes_the_first_exit_and_one_the_deepest():
    logits, labels = draw()
    first, deepest = sweep(logits, labels, [1.0, 5.0, 7.0], [0.0, 1.0])
    assert (first.flops, deepest.flops) == (1.0, 7.0)
    np.testing.assert_array_equal(first.correct, logits[0].argmax(axis=1) == labels)
    np.testing.assert_array_equal(deepest.correct, logits[2].argmax(axis=1) == labels)
    costs = [policy.flops for policy in sweep(logits, labels, [1.0, 5.0, 7.0], np.linspace(0, 1, 20))]
    assert costs == sorted(costs)


def test_far_apart_logits_are_sure():
    np.testing.assert_array_equal(confidence(np.array([[1e4, 0.0], [-1e4, 1e4]])), 1)


def test_unequal_shapes_are_an_error():
    logits, labels = draw()
    with pytest.raises(AssertionError, match="2 costs for 3 exits"):
        sweep(logits, labels, [1.0, 2.0], [0.5])
