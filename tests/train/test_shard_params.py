"""Parameters divided among the devices: the same run, a share on each, and exact checkpoints."""

import dataclasses
import functools
from typing import Any

import chex
import jax
import numpy as np
import pytest
from toys import assembled

from seed_jax import config, models, parallel
from seed_jax.evals.features import Extractor
from seed_jax.models.fd_vit import FDVisionTransformer
from seed_jax.models.vit import VisionTransformer
from seed_jax.train import loop
from seed_jax.train.build import Training
from seed_jax.train.checkpoint import Checkpoints
from seed_jax.train.state import TrainState

STEPS, CLIP = 3, 0.01


@dataclasses.dataclass(frozen=True)
class Run:
    """A run after its last step."""

    training: Training
    mesh: jax.sharding.Mesh
    state: TrainState
    teacher: Any
    rows: list


def settings(divided):
    """Gradients are clipped by their global norm, and there is a moving average."""
    raw = config.default("fd")
    raw.data.source, raw.data.batch_size, raw.data.image_size = "digits", 16, 16
    raw.data.photometric, raw.student.model, raw.teacher.model = "digits", "small_fd_vit", "small_vit"
    raw.teacher.weights = "random"
    raw.optim.lr, raw.optim.lr_batch, raw.optim.clip_norm = 1.0, 0, CLIP
    raw.train.steps, raw.train.bn_group, raw.train.ema, raw.evals.names = STEPS, 0, 0.5, ()
    raw.log.every_steps, raw.log.tensorboard = 1, False
    raw.train.shard_params = divided
    return raw


def advance(raw, devices):
    training, current, teacher, batches, mesh = assembled(raw, devices=devices)
    rows = []
    with jax.set_mesh(mesh):
        for _ in range(STEPS):
            current, row = training.step(current, teacher, next(batches))
            rows.append(jax.device_get(row))
    return Run(training, mesh, current, teacher, rows)


@pytest.fixture(scope="module", autouse=True)
def small():
    """Networks with arrays that 8 does not divide, too; those of 64 numbers and more are divided."""
    sizes = {"patch": 4, "image_size": 16}
    with pytest.MonkeyPatch.context() as patch:
        student = functools.partial(FDVisionTransformer, 8, 4, 2, **sizes)
        patch.setitem(models.MODELS, "small_fd_vit", student)
        patch.setitem(models.MODELS, "small_vit", functools.partial(VisionTransformer, 12, 4, 3, **sizes))
        patch.setattr(parallel, "WHOLE", 64)
        yield


@pytest.fixture(scope="module")
def whole():
    return advance(settings(False), 1)


@pytest.fixture(scope="module")
def divided():
    return advance(settings(True), 8)


def test_the_same_as_in_full_on_one_device(whole, divided):
    """Parameters, optimizer, average and metrics; the norm that clips is that of the whole gradient."""
    assert all(row["grad_norm"] > 2 * CLIP for row in whole.rows)
    chex.assert_trees_all_close(divided.rows, whole.rows, rtol=1e-5, atol=1e-6)
    chex.assert_trees_all_close(
        jax.device_get(divided.state), jax.device_get(whole.state), rtol=1e-5, atol=1e-6
    )


def test_each_device_has_an_eighth(divided):
    """Of each array of 64 numbers or more with an axis that 8 divides, of the teacher's too."""
    kinds = (divided.state.params, divided.state.opt_state, divided.state.ema, divided.teacher)
    for tree in kinds:
        shares = set()
        for leaf in jax.tree.leaves(tree):
            large = leaf.size >= 64 and any(size % 8 == 0 for size in leaf.shape)
            held = {shard.data.nbytes for shard in leaf.addressable_shards}
            assert held == {leaf.nbytes // 8 if large else leaf.nbytes}
            assert len({str(shard.index) for shard in leaf.addressable_shards}) == (8 if large else 1)
            shares.add(large)
        assert shares == {True, False}


def test_a_checkpoint_is_restored_exactly_in_full_on_one_device_and_back(whole, divided, tmp_path):
    saved, checkpoints = divided.state, Checkpoints(tmp_path, keep=1)
    checkpoints.save(saved, STEPS, None)
    checkpoints.wait()
    for run in (whole, divided):
        restored = checkpoints.restore(run.training.abstract)
        chex.assert_trees_all_equal(jax.device_get(restored), jax.device_get(saved))
        wanted = jax.tree.leaves(run.training.shardings)
        for leaf, sharding in zip(jax.tree.leaves(restored), wanted, strict=True):
            assert leaf.sharding.is_equivalent_to(sharding, leaf.ndim)
    checkpoints.close()


def test_features_of_divided_parameters(divided):
    variables = {"params": divided.state.params, **divided.state.model_state}
    features = Extractor(divided.training.student, divided.mesh)
    image = np.random.default_rng(0).integers(0, 256, (8, 16, 16, 3), np.uint8)
    batch = {"image": image, "label": np.zeros(8, int), "id": np.arange(8), "mask": np.ones(8, bool)}
    got, want = (features(v, [batch])[0]["pooled"] for v in (variables, jax.device_get(variables)))
    np.testing.assert_allclose(got, want, rtol=1e-5, atol=1e-6)


@pytest.mark.long
def test_a_run_may_go_on_in_full(tmp_path, capsys):
    """The key may differ from that of the run that is resumed."""
    loop.run(settings(True), tmp_path)
    loop.run(settings(False), tmp_path)
    assert f"resuming from step {STEPS} of {STEPS}" in capsys.readouterr().out
