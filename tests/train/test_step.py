"""The train step: one compiled program, a teacher that stays as it is, the same on 1 and 8 devices."""

import functools

import chex
import jax
import numpy as np
import pytest
import tiny

from seed_jax import config, parallel
from seed_jax.data.pipeline import train_batches
from seed_jax.data.sources import open_source
from seed_jax.train import build, teacher


@functools.cache
class Setting:
    """A run on so many devices, assembled as the loop does it; compiled once for all tests."""

    def __init__(self, variant, devices=1, **overrides):
        raw = tiny.get_config(variant)
        raw.update_from_flattened_dict({key.replace("__", "."): value for key, value in overrides.items()})
        c = config.resolve(raw)
        loaded = None
        if c.method.needs_teacher:
            loaded = teacher.load(c.teacher, image_size=16, seed=0, precision="fp32")
        mesh = self.mesh = parallel.make_mesh(jax.devices()[:devices])
        given = build.make_given(c, build.lengths(c, len(source())), 10, loaded)
        training = build.assemble(c, mesh, given, loaded and loaded.network)
        self.views, self.shardings, self.step = training.views, training.shardings, training.step
        self.start = jax.device_get(training.fresh(None))
        self.teacher = jax.device_put(loaded.variables if loaded else {}, parallel.replicated(mesh))

    def run(self, steps):
        """The state after so many steps from the start, and the metrics of each."""
        current, rows = jax.device_put(self.start, self.shardings), []
        batches = train_batches(source(), self.views, 16, 0)
        with jax.set_mesh(self.mesh):
            for _ in range(steps):
                batch = parallel.to_devices(self.mesh, next(batches))
                current, metrics = self.step(current, self.teacher, batch)
                rows.append(jax.device_get(metrics))
        return current, rows


@functools.cache
def source():
    return open_source("digits", "train")


def changed(before, after):
    return jax.tree.map(lambda a, b: not np.array_equal(a, b), before, jax.device_get(after))


def test_teacher_is_bitwise_unchanged_and_no_part_of_the_state():
    s = Setting("seed", devices=8)
    before = jax.tree.map(np.array, s.teacher)
    current, _ = s.run(4)
    chex.assert_trees_all_equal(jax.device_get(s.teacher), before)
    assert not buffers(s.teacher) & buffers(current)


def buffers(tree):
    return {
        shard.data.unsafe_buffer_pointer()
        for leaf in jax.tree.leaves(tree)
        for shard in leaf.addressable_shards
    }


@pytest.mark.parametrize("variant", ["seed", "moco"])
def test_compiled_once_with_the_same_types_and_shardings_in_and_out(variant):
    s = Setting(variant, devices=8)
    current, _ = s.run(3)
    assert int(current.step) == 3
    assert s.step._cache_size() == 1
    chex.assert_trees_all_equal_shapes_and_dtypes(current, s.start)
    jax.tree.map(
        lambda x, sharding: chex.assert_equal(x.sharding.is_equivalent_to(sharding, x.ndim), True),
        current,
        s.shardings,
    )


@pytest.mark.parametrize(
    ("variant", "method"),
    [
        ("seed", {}),
        ("seed", {"method__patches": 3, "method__patch_size": 12}),  # views of two sizes
        ("moco", {}),
        ("dino", {"method__local_views": 0}),
        pytest.param("simclr", {}, marks=pytest.mark.long),
        ("swav", {}),
        pytest.param("mocov3", {}, marks=pytest.mark.long),
        pytest.param("simsiam", {}, marks=pytest.mark.long),
        pytest.param("simreg", {}, marks=pytest.mark.long),
        pytest.param("compress", {}, marks=pytest.mark.long),
        pytest.param("seed_moco", {}, marks=pytest.mark.long),
        pytest.param("disco", {}, marks=pytest.mark.long),
        pytest.param("online_clustering", {}, marks=pytest.mark.long),
    ],
)
def test_one_and_eight_devices_agree(variant, method):
    """Five steps: parameters, statistics, optimizer, queue, average and metrics."""
    one, rows = Setting(variant, **method).run(5)
    eight, sharded_rows = Setting(variant, devices=8, **method).run(5)
    chex.assert_trees_all_close(sharded_rows, rows, rtol=1e-4, atol=1e-5)
    chex.assert_trees_all_close(jax.device_get(eight), jax.device_get(one), rtol=1e-5, atol=1e-5)


def test_every_parameter_moves_and_the_metrics_are_scalars():
    s = Setting("moco")
    current, rows = s.run(3)
    assert set(rows[0]) == {"loss", "positive_cosine", "lr", "grad_norm", "param_norm", "bad_images"}
    assert all(np.shape(value) == () for row in rows for value in row.values())
    cosine = 0.1 * 0.5 * (1 + np.cos(np.pi * np.arange(3) / 6))
    np.testing.assert_allclose([row["lr"] for row in rows], cosine, rtol=1e-6)
    moved = changed(s.start.params, current.params)
    assert all(jax.tree.leaves(moved)), moved


def test_the_prototypes_of_dino_wait_and_then_move():
    """For two steps, with their optimizer slots; everything else moves at once, and the centre with it."""
    s = Setting("dino", method__local_views=0)
    two, rows = s.run(2)
    prototypes = s.start.params["head"]["prototypes"]
    np.testing.assert_array_equal(two.params["head"]["prototypes"], prototypes)
    assert all(jax.tree.leaves(changed(s.start.params["backbone"], two.params["backbone"])))
    assert changed(s.start.aux["center"], two.aux["center"])
    three, _ = s.run(3)
    assert changed(prototypes, three.params["head"]["prototypes"])
    own = {"teacher_entropy", "batch_entropy", "tau_teacher", "momentum"}
    assert set(rows[0]) == own | {"loss", "lr", "grad_norm", "param_norm", "bad_images"}


def test_linear_probe_changes_the_classifier_alone():
    s = Setting("supervised", method__freeze="backbone")
    current, _ = s.run(4)
    chex.assert_trees_all_equal(jax.device_get(current.params["backbone"]), s.start.params["backbone"])
    chex.assert_trees_all_equal(jax.device_get(current.model_state), s.start.model_state)
    assert all(jax.tree.leaves(changed(s.start.params["classifier"], current.params["classifier"])))
    slots = {leaf.shape for leaf in jax.tree.leaves(current.opt_state)}
    assert slots == {(), (8, 10), (10,)}


def test_without_freezing_the_backbone_and_its_statistics_move():
    s = Setting("supervised")
    current, _ = s.run(2)
    assert all(jax.tree.leaves(changed(s.start.params, current.params)))
    assert all(jax.tree.leaves(changed(s.start.model_state, current.model_state)))
