"""Feature distillation in a run: the same on 8 devices, a teacher that never drops, and what is served."""

import functools
import json

import jax
import numpy as np
import pytest
from toys import steps

from seed_jax import config, models
from seed_jax.analysis.runs import open_run
from seed_jax.errors import UserError
from seed_jax.models.fd_vit import FDVisionTransformer
from seed_jax.models.vit import VisionTransformer
from seed_jax.train import loop, workdir


@pytest.fixture
def settings(monkeypatch):
    sizes = {"patch": 4, "image_size": 16}
    monkeypatch.setitem(models.MODELS, "small_vit", functools.partial(VisionTransformer, 12, 2, 3, **sizes))
    student = functools.partial(FDVisionTransformer, 8, 2, 2, **sizes)
    monkeypatch.setitem(models.MODELS, "small_fd_vit", student)

    def make(**teacher):
        raw = config.default("fd")
        raw.data.source, raw.data.batch_size, raw.data.image_size = "digits", 16, 16
        raw.data.photometric, raw.student.model = "digits", "small_fd_vit"
        raw.student.options = {"drop_path": 0.5}
        raw.teacher.weights, raw.teacher.model, raw.teacher.options = "random", "small_vit", teacher
        raw.train.steps, raw.train.bn_group, raw.evals.names = 2, 0, ()
        raw.log.every_steps, raw.log.tensorboard = 1, False
        return raw

    return make


@pytest.mark.long
def test_the_same_on_8_devices_and_with_a_teacher_whose_blocks_could_drop(settings):
    _, rows = steps(settings(), 2)
    for other in (steps(settings(), 2, devices=8), steps(settings(drop_path=0.9), 2)):
        for name in ("loss", "fd", "cosine", "grad_norm"):
            got, want = ([row[name] for row in each] for each in (other[1], rows))
            np.testing.assert_allclose(got, want, rtol=1e-4, atol=1e-6)


def test_the_projector_is_left_behind_also_of_a_run_before_prefixes_were_recorded(settings, tmp_path):
    """Such a run took 17 tokens for one and a square of 4, and 21 for five and that square."""
    loop.run(settings(), tmp_path)
    path = tmp_path / "manifest.json"
    manifest = json.loads(path.read_text())
    assert manifest.pop("teacher_prefix") == 1
    path.write_text(json.dumps(manifest))
    assert open_run(tmp_path).given.teacher_prefix == 1
    loaded = workdir.load_run(tmp_path)
    assert set(loaded.variables["params"]) == {"backbone"}
    images = jax.ShapeDtypeStruct((1, 16, 16, 3), np.float32)
    features, _ = jax.eval_shape(lambda v, x: loaded.network.apply(v, x, False), loaded.variables, images)
    assert features["tokens"].shape == (1, 17, 8)
    manifest["teacher_features"]["tokens"]["shape"][1] = 21
    assert workdir.given_of(loaded.config, manifest).teacher_prefix == 5


def test_parity_refuses_a_teacher_without_a_final_norm_before_anything_trains(settings, tmp_path):
    raw = settings(pool="mean")
    raw.method.parity = True
    with pytest.raises(UserError, match="the teacher has pool='mean'"):
        loop.run(raw, tmp_path / "run")
