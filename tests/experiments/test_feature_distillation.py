"""experiments/feature_distillation: every pre-trained network can start the one that is fine-tuned."""

import jax
import jax.numpy as jnp
import pytest

from experiments.feature_distillation import compare
from seed_jax import models


@pytest.mark.parametrize("name", compare.NETWORKS)
def test_a_fine_tuning_starts_from_the_pre_trained_network(name):
    model, before, after = compare.NETWORKS[name]
    images = jax.ShapeDtypeStruct((2, compare.SIDE, compare.SIDE, 3), jnp.float32)
    first, second = (
        models.create(model, **compare.SIZE, **options, **pool)
        for options, pool in ((before, {}), (after, {"pool": "mean"}))
    )
    shapes, want = (jax.eval_shape(n.init, jax.random.key(0), images)["params"] for n in (first, second))
    adapted = jax.eval_shape(lambda params: second.module.adapt(params, first.module), shapes)
    assert jax.tree.map(jnp.shape, adapted) == jax.tree.map(jnp.shape, want)


@pytest.mark.parametrize("row", compare.ROWS[1:], ids=lambda row: row.name)
def test_a_row_differs_from_fd_in_one_section(row):
    fd, other = (compare.distilled(one, quick=False).to_dict() for one in (compare.ROWS[0], row))
    changed = {name for name in fd if fd[name] != other[name]}
    longer = {"train", "evals"} if row.epochs != compare.ROWS[0].epochs else set()
    assert changed == {"method" if row.method else "student"} | longer
