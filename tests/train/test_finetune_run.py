"""Fine-tuning and a probe in runs: from a distilled student, with every augmentation, to what is loaded."""

import functools

import jax
import numpy as np
import pytest
import tiny

from seed_jax import config, models
from seed_jax.configs import finetune_fd
from seed_jax.models.fd_vit import FDVisionTransformer
from seed_jax.models.vit import VisionTransformer
from seed_jax.report import metrics
from seed_jax.train import loop, workdir

SIZES = {"patch": 4, "image_size": 16}


def on_digits(raw, model, **options):
    raw.data.source, raw.data.batch_size, raw.data.image_size = "digits", 16, 16
    raw.data.val, raw.data.test = "val", "test"
    raw.student.model, raw.student.options = model, options
    raw.train.epochs, raw.train.steps, raw.train.bn_group, raw.evals.names = 0.0, 2, 0, ()
    raw.log.every_steps, raw.log.tensorboard = 1, False
    return raw


@pytest.mark.long
def test_a_distilled_student_is_fine_tuned(monkeypatch, tmp_path):
    """As configs/finetune_fd.py, small: tables in each block, a fresh norm, and an EMA that is served."""
    monkeypatch.setitem(models.MODELS, "small_vit", functools.partial(VisionTransformer, 12, 4, 3, **SIZES))
    net = functools.partial(FDVisionTransformer, 8, 4, 2, **SIZES)
    monkeypatch.setitem(models.MODELS, "small_fd_vit", net)
    raw = on_digits(config.default("fd"), "small_fd_vit", drop_path=0.1)
    raw.teacher.weights, raw.teacher.model = "random", "small_vit"
    loop.run(raw, tmp_path / "fd")

    options = {"drop_path": 0.3, "pool": "mean", "positions": "layer", "truncated": False}
    raw = on_digits(finetune_fd.recipe(), "small_fd_vit", **options)
    raw.student.init, raw.train.ema, raw.optim.layer_decay = str(tmp_path / "fd"), 0.9, 0.65
    loop.run(raw, tmp_path / "tuned")
    assert all(np.isfinite(row["loss"]) for row in metrics.read(tmp_path / "tuned") if "loss" in row)
    start, end = (
        workdir.load_run(tmp_path / name).variables["params"]["backbone"] for name in ("fd", "tuned")
    )
    shared = start["rel_pos_bias"]["table"]
    for i in range(4):
        table = end[f"block{i}"]["attn"]["rel_pos_bias"]["table"]
        assert table.shape == shared.shape
    assert "fc_norm" in end and "norm" not in end


def test_a_normalised_probe_in_a_run_is_loaded_as_a_plain_classifier(monkeypatch, tmp_path):
    monkeypatch.setitem(models.MODELS, "tiny", tiny.Tiny)
    raw = on_digits(config.load("linear_mae"), "tiny")
    raw.optim.warmup_epochs = 0.0
    loop.run(raw, tmp_path)
    run = workdir.load_run(tmp_path)
    assert set(run.variables["params"]["classifier"]) == {"fc"}
    assert "classifier" not in run.variables.get("batch_stats", {})
    x = jax.random.uniform(jax.random.key(0), (4, 16, 16, 3))
    features, _ = run.network.apply(run.variables, x, False)
    fc = run.variables["params"]["classifier"]["fc"]
    want = np.float64(features["pooled"]) @ np.float64(fc["kernel"]) + np.float64(fc["bias"])
    np.testing.assert_allclose(features["logits"], want, rtol=1e-3, atol=1e-4)
