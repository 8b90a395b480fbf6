"""FRSKD in a run: the self-teacher is trained, the plain network is served."""

import jax
import numpy as np
import pytest
from toys import rows_of

from seed_jax import config
from seed_jax.errors import UserError
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


@pytest.mark.parametrize("method", [{}, {"detach": "code", "channels": 8, "beta": 0.0, "mix": "cutmix"}])
def test_the_self_teacher_is_trained_and_left_behind(tmp_path, method):
    loop.run(settings("frskd", **method), tmp_path / "frskd")
    rows = rows_of(tmp_path / "frskd")
    assert all(np.isfinite(row[name]) for row in rows for name in ("ce", "teacher_ce", "kd", "attention"))
    loop.run(settings("supervised"), tmp_path / "plain")
    ours, plain = (workdir.load_run(tmp_path / name) for name in ("frskd", "plain"))
    assert count(ours) == count(plain)
    assert set(ours.network.parts) == {"classifier"}


def test_a_transformer_is_refused_before_compiling(tmp_path):
    raw = settings("frskd")
    raw.student.model = "vit_small"
    with pytest.raises(UserError, match="student.model: a self-teacher needs two stages"):
        loop.run(raw, tmp_path)
