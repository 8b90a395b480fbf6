"""Directions of a landscape as PyTorch's rows, and its points one by one."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from seed_jax.analysis import filter_normalised_direction, landscape

NUMBERS = np.random.default_rng(0)
PARAMS = {
    "conv": {"kernel": NUMBERS.standard_normal((3, 3, 4, 6), np.float32), "bias": np.ones(6, np.float32)},
    "fc": {"kernel": NUMBERS.standard_normal((6, 5), np.float32)},
    "norm": {"scale": np.ones(6, np.float32)},
    "cls_token": NUMBERS.standard_normal((1, 1, 6), np.float32),
    "pos_embed": NUMBERS.standard_normal((1, 9, 6), np.float32),
    "table": NUMBERS.standard_normal((12, 3), np.float32),
}


def torch_rows(params):
    """`[rows, weights of a row]` of each tensor as PyTorch stores it."""
    return {
        "conv": params["conv"]["kernel"].transpose(3, 2, 0, 1).reshape(6, -1),
        "fc": params["fc"]["kernel"].T,
        "cls_token": params["cls_token"].reshape(1, -1),
        "pos_embed": params["pos_embed"].reshape(1, -1),
        "table": params["table"],
    }


def test_each_filter_is_as_long_as_the_weights():
    direction = jax.device_get(filter_normalised_direction(jax.random.key(1), PARAMS))
    for name, rows in torch_rows(PARAMS).items():
        got = np.linalg.norm(torch_rows(direction)[name], axis=1)
        np.testing.assert_allclose(got, np.linalg.norm(rows, axis=1), rtol=1e-5, err_msg=name)
    assert not direction["conv"]["bias"].any() and not direction["norm"]["scale"].any()


def test_directions_are_random_by_key_and_path():
    one, same, other = (filter_normalised_direction(jax.random.key(seed), PARAMS) for seed in (1, 1, 2))
    np.testing.assert_array_equal(one["table"], same["table"])
    rows = [np.asarray(x["conv"]["kernel"]).reshape(-1, 6).T for x in (one, other)]
    cosines = (rows[0] * rows[1]).sum(axis=1) / np.prod([np.linalg.norm(x, axis=1) for x in rows], axis=0)
    assert np.abs(cosines).max() < 0.7
    alone = filter_normalised_direction(jax.random.key(1), {"table": PARAMS["table"]})
    np.testing.assert_array_equal(alone["table"], one["table"])


def test_a_filter_of_0_has_no_direction():
    direction = filter_normalised_direction(jax.random.key(0), {"kernel": jnp.zeros((4, 2))})
    np.testing.assert_array_equal(direction["kernel"], 0)


def test_points_are_evaluated_as_one_by_one():
    directions = [filter_normalised_direction(jax.random.key(seed), PARAMS) for seed in (1, 2)]
    points = np.array([[0, 0], [0.5, -1], [-1, 0.25]], np.float32)
    traced = []

    def evaluate(params, factor):
        traced.append(0)
        return {
            "sum": sum(jnp.tanh(x).sum() for x in jax.tree.leaves(params)),
            "fc": factor * params["fc"]["kernel"],
        }

    got = landscape(evaluate, PARAMS, directions, points, [np.float32(2)])
    assert len(traced) == 1
    for i, (a, b) in enumerate(points):
        params = jax.tree.map(lambda p, d, e, a=a, b=b: p + a * d + b * e, PARAMS, *directions)
        want = evaluate(params, 2)
        np.testing.assert_allclose(got["sum"][i], want["sum"], rtol=1e-5)
        np.testing.assert_allclose(got["fc"][i], want["fc"], rtol=1e-5, atol=1e-6)


def test_points_of_another_plane_are_refused():
    with pytest.raises(AssertionError, match="points"):
        landscape(lambda params: 0.0, {"x": jnp.ones(2)}, [{"x": jnp.ones(2)}], np.zeros((3, 2)))
