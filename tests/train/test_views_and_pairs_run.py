"""CS-KD and DDGSD in a run: pairs and views are there, and 8 devices compute what one does."""

import numpy as np
import pytest
from toys import steps

from seed_jax.methods.cs_kd import CSKD
from seed_jax.methods.ddgsd import DDGSD


@pytest.mark.parametrize("method", [CSKD, DDGSD])
def test_the_same_on_8_devices(toy, method):
    raw = toy(method, data__flip=0.5, method__weight=2.0)
    _, rows = steps(raw, 2)
    _, same = steps(raw, 2, devices=8)
    assert all(row["kd"] > 0 for row in rows)
    for name in ("loss", "kd", "ce", "grad_norm"):
        for row, other in zip(rows, same, strict=True):
            np.testing.assert_allclose(other[name], row[name], rtol=1e-4, atol=1e-6)
