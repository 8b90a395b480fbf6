"""Attention transfer in a run: every form is trained, the same on 1 and 8 devices."""

import numpy as np
import pytest
from tiny import Staged
from toys import rows_of, steps

from seed_jax import config, models
from seed_jax.methods.attention_transfer import AttentionTransfer
from seed_jax.train import loop, workdir


def settings(**method):
    raw = config.default("attention_transfer")
    raw.data.source, raw.data.batch_size, raw.data.image_size = "digits", 16, 16
    raw.data.photometric, raw.data.flip = "digits", 0.0
    raw.student.model = raw.teacher.model = "cifar_resnet8"
    raw.teacher.weights, raw.teacher.dim, raw.teacher.options = "random", 8, {"num_classes": 10}
    raw.train.steps, raw.train.bn_group, raw.evals.names = 2, 8, ()
    raw.log.every_steps, raw.log.tensorboard = 1, False
    raw.optim.lr, raw.optim.lr_batch = 0.1, 0
    with raw.ignore_type():
        raw.method.update(method)
    return raw


def test_all_terms_are_trained_and_the_plain_network_is_left(tmp_path, monkeypatch):
    monkeypatch.setitem(models.MODELS, "staged", Staged)
    raw = settings(alpha=0.5, gradient=1.0, symmetry=1.0)
    raw.student.model, raw.student.options = "staged", {"stages": 3}
    raw.teacher.model, raw.teacher.options = "staged", {"stages": 3, "num_classes": 10}
    loop.run(raw, tmp_path)
    rows = rows_of(tmp_path)
    terms = {"ce", "kd", "attention_stage1", "attention_stage2", "attention_stage3", "gradient", "symmetry"}
    assert all(np.isfinite(row[name]) and row[name] > 0 for row in rows for name in terms)
    loaded = workdir.load_run(tmp_path)
    assert set(loaded.variables["params"]) == {"backbone", "classifier"}


def test_symmetry_alone_needs_no_teacher_and_takes_micro_batches(toy):
    fields = {"method__beta": 0.0, "method__symmetry": 1.0, "teacher__weights": ""}
    _, (row,) = steps(toy(AttentionTransfer, **fields), 1)
    assert row["symmetry"] > 0 and row["grad_norm"] > 0
    _, (halves,) = steps(toy(AttentionTransfer, **fields, train__accumulate=2), 1)
    for name in ("loss", "symmetry", "grad_norm"):
        np.testing.assert_allclose(halves[name], row[name], rtol=1e-5)


@pytest.mark.long
def test_gradients_by_pixels_are_the_same_on_8_devices():
    raw = settings(beta=0.0, gradient=10.0, symmetry=10.0)
    (_, one), (row,) = steps(raw, 1)
    (_, eight), (same,) = steps(raw, 1, devices=8)
    for name in ("loss", "gradient", "symmetry", "grad_norm"):
        np.testing.assert_allclose(same[name], row[name], rtol=1e-5)
    weights = (state.params["backbone"]["conv1"]["kernel"] for state in (eight, one))
    np.testing.assert_allclose(*weights, rtol=1e-4, atol=1e-6)


@pytest.mark.long
def test_the_maps_of_a_wrn_before_the_last_relu():
    raw = settings(stages=("preact1", "preact3"), form="norm", beta=1.0)
    raw.student.model = "wrn_16_1"
    _, (row,) = steps(raw, 1)
    maps = {name for name in row if name.startswith("attention")}
    assert maps == {"attention_preact1", "attention_preact3"}
