"""FRSKD and SLA in a run: what is trained, what is served, what is scored."""

import jax
import numpy as np
import pytest
from toys import rows_of

from seed_jax import config
from seed_jax.errors import UserError
from seed_jax.report import metrics
from seed_jax.train import loop, workdir


def settings(name, **method):
    raw = config.default(name)
    raw.data.source, raw.data.batch_size, raw.data.image_size = "digits", 16, 16
    raw.data.photometric, raw.data.flip = "digits", 0.0
    raw.student.model = "cifar_resnet8"
    raw.optim.lr, raw.optim.lr_batch = 0.1, 0
    raw.train.steps, raw.train.bn_group, raw.evals.names = 2, 8, ()
    raw.log.every_steps, raw.log.tensorboard = 1, False
    raw.method.update(method)
    return raw


def count(loaded):
    return sum(leaf.size for leaf in jax.tree.leaves(loaded.variables["params"]))


@pytest.mark.long
def test_the_self_teacher_is_trained_and_left_behind(tmp_path):
    method = {"rotations": 2, "detach": "code", "channels": 8, "beta": 0.0, "mix": "cutmix"}
    loop.run(settings("frskd", **method), tmp_path / "frskd")
    rows = rows_of(tmp_path / "frskd")
    assert all(np.isfinite(row[name]) for row in rows for name in ("ce", "teacher_ce", "kd", "sla"))
    assert not any("attention" in row for row in rows)
    loop.run(settings("supervised"), tmp_path / "plain")
    ours, plain = (workdir.load_run(tmp_path / name) for name in ("frskd", "plain"))
    assert count(ours) == count(plain)
    assert set(ours.network.parts) == {"classifier"}


def test_a_transformer_is_refused_before_compiling(tmp_path):
    raw = settings("frskd")
    raw.student.model = "vit_small"
    with pytest.raises(UserError, match="student.model: a self-teacher needs two stages"):
        loop.run(raw, tmp_path)


def test_sla_is_scored_by_one_image_and_by_all_views(tmp_path):
    raw = settings("sla", colours=3, rotations=2)
    raw.evals.names, raw.evals.batch_size = ("top1",), 64
    loop.run(raw, tmp_path)
    assert np.isfinite(rows_of(tmp_path)[-1]["joint_ce"])
    scored = {name for row in metrics.read(tmp_path) for name in row if name.endswith("top1")}
    assert scored == {"top1", "aggregated_top1"}
    loaded = workdir.load_run(tmp_path)
    images = jax.ShapeDtypeStruct((2, 16, 16, 3), np.float32)
    features, _ = jax.eval_shape(lambda v, x: loaded.network.apply(v, x, False), loaded.variables, images)
    assert (features["logits"].shape, features["aggregated_logits"].shape) == ((2, 10), (2, 10))


@pytest.mark.long
def test_sla_sd_serves_the_plain_network(tmp_path):
    loop.run(settings("sla", distil=True, mix="mixup"), tmp_path / "sd")
    loop.run(settings("supervised"), tmp_path / "plain")
    ours, plain = (workdir.load_run(tmp_path / name) for name in ("sd", "plain"))
    assert count(ours) == count(plain)
    assert set(ours.network.parts) == {"classifier"}
    assert all(
        np.isfinite(row[name]) for row in rows_of(tmp_path / "sd") for name in ("joint_ce", "ce", "kd")
    )
