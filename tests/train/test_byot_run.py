"""BYOT in a run: each exit is trained, saved and scored, and the adapters are left behind."""

import numpy as np
from tiny import Staged
from toys import rows_of

from seed_jax import config, models
from seed_jax.report import metrics
from seed_jax.train import loop, workdir


def settings(**method):
    raw = config.default("byot")
    raw.data.source, raw.data.batch_size, raw.data.image_size = "digits", 16, 16
    raw.data.photometric, raw.data.flip = "digits", 0.0
    raw.student.model, raw.student.options = "staged", {"stages": 3}
    raw.train.steps, raw.train.bn_group = 2, 8
    raw.log.every_steps, raw.log.tensorboard = 1, False
    raw.evals.names, raw.evals.batch_size = ("top1",), 64
    raw.method.update(method)
    return raw


def test_exits_are_trained_scored_and_served(tmp_path, monkeypatch):
    monkeypatch.setitem(models.MODELS, "staged", Staged)
    loop.run(settings(form="journal"), tmp_path)
    rows = rows_of(tmp_path)
    assert all(
        np.isfinite(row[f"exit{i}_{of}"]) for row in rows for i in (1, 2) for of in ("ce", "kl", "feature")
    )
    last = [row for row in metrics.read(tmp_path) if row["step"] == 2]
    scored = {name for row in last for name in row if name.endswith("top1")}
    assert scored == {"top1", "exit1_top1", "exit2_top1", "ensemble_top1"}
    loaded = workdir.load_run(tmp_path)
    assert set(loaded.variables["params"]) == {"backbone", "classifier", "exit1", "exit2"}
    assert set(loaded.network.parts) == {"exit1", "exit2", "classifier", "ensemble"}
