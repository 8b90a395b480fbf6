"""Methods that teach themselves: 8 devices compute what one does."""

import numpy as np
import pytest
from tiny import Staged
from toys import steps

from seed_jax import models
from seed_jax.methods.byot import BYOT
from seed_jax.methods.cs_kd import CSKD
from seed_jax.methods.ddgsd import DDGSD
from seed_jax.methods.frskd import FRSKD
from seed_jax.methods.sad import SAD
from seed_jax.methods.sla import SLA

LONG = pytest.mark.long


@pytest.mark.parametrize(
    ("method", "settings", "terms"),
    [
        (CSKD, {"weight": 2.0}, ("ce", "kd")),
        (DDGSD, {"weight": 2.0}, ("ce", "kd")),
        pytest.param(BYOT, {"form": "journal"}, ("ce", "exit1_ce", "exit1_kl", "exit1_feature"), marks=LONG),
        pytest.param(
            FRSKD, {"channels": 8, "mix": "cutmix"}, ("ce", "teacher_ce", "kd", "attention"), marks=LONG
        ),
        pytest.param(
            SLA, {"distil": True, "rotations": 2, "mix": "mixup"}, ("ce", "joint_ce", "kd"), marks=LONG
        ),
        (SAD, {"start": 0.0, "weight": 1e3}, ("ce", "stage1_from_stage2")),
    ],
)
def test_the_same_on_8_devices(toy, monkeypatch, method, settings, terms):
    monkeypatch.setitem(models.MODELS, "staged", Staged)
    fields = {f"method__{key}": value for key, value in settings.items()}
    raw = toy(method, data__flip=0.5, student__model="staged", **fields)
    _, rows = steps(raw, 2)
    _, same = steps(raw, 2, devices=8)
    for name in ("loss", "grad_norm", *terms):
        for row, other in zip(rows, same, strict=True):
            assert row[name] > 0
            np.testing.assert_allclose(other[name], row[name], rtol=1e-4, atol=1e-6)
