"""FitNet and CRD in a run: what they add is trained, saved for a resume, and not served."""

import functools
import json

import numpy as np
import pytest
from toys import rows_of

from seed_jax import config, models
from seed_jax.errors import UserError
from seed_jax.models.resnet import BasicBlock, ResNet
from seed_jax.train import loop, workdir


def settings(**method):
    raw = config.load("cifar100_kd:smoke")
    raw.data.image_size, raw.data.last, raw.evals.names = 16, "drop", ()
    raw.train.steps, raw.log.every_steps, raw.log.tensorboard = 2, 1, False
    raw.method.augment, raw.method.queue_size = "", 32
    raw.teacher.model, raw.teacher.options = "cifar_resnet8", {"num_classes": 10}
    with raw.ignore_type():
        raw.method.update(method)
    return raw


def test_helpers_are_trained_and_left_behind(tmp_path):
    raw = settings(losses={"fitnet": 100.0, "crd": 0.8, "kd": 1.0}, dim=8)
    loop.run(raw, tmp_path)
    rows = rows_of(tmp_path)
    assert all(np.isfinite(row[name]) for row in rows for name in ("fitnet", "crd", "kd"))
    assert rows[0]["crd"] == 0  # there are no negatives yet
    assert rows[1]["crd"] > 0
    loaded = workdir.load_run(tmp_path)
    assert set(loaded.variables["params"]) == {"backbone", "classifier"}
    assert set(loaded.network.parts) == {"classifier"}
    assert json.loads((tmp_path / "config.json").read_text())["method"]["dim"] == 8


def test_maps_of_other_sides_are_named(tmp_path, monkeypatch):
    shallow = functools.partial(ResNet, BasicBlock, (1, 1), width=0.125)
    monkeypatch.setitem(models.MODELS, "resnet18", shallow)
    raw = settings(losses={"fitnet": 100.0})
    raw.teacher.model = "resnet18"
    with pytest.raises(UserError, match="The student's stage2 has a side of 8 and the teacher's one of 2"):
        loop.run(raw, tmp_path)
