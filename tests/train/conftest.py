"""The config of a run of a toy method."""

import pytest
import tiny

from seed_jax import config, models
from seed_jax.methods import METHODS


@pytest.fixture
def toy(monkeypatch):
    """`toy(method_class, **overrides)`: the config of a run of that method, six steps at batch 16."""

    def toy(method, **overrides):
        monkeypatch.setitem(models.MODELS, "tiny", tiny.Tiny)
        monkeypatch.setitem(METHODS, "toy", method)
        raw = tiny.get_config("supervised")
        raw.method = config.default("toy").method
        if method.needs_teacher:
            raw.teacher.weights, raw.teacher.dim = "random", 8
        raw.update_from_flattened_dict({key.replace("__", "."): value for key, value in overrides.items()})
        return raw

    return toy
