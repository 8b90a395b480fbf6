"""Every place of the contract that SEED, MoCo and supervised training do not use, by a toy method each."""

import dataclasses
import json
import shutil
from typing import ClassVar

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import tiny
from toys import Averaged, Timed, Toy, assembled, rows_of, steps

from seed_jax import config, models
from seed_jax.data.sources import Arrays
from seed_jax.errors import UserError
from seed_jax.methods.base import LossOut, Method
from seed_jax.methods.byot import BYOT
from seed_jax.methods.cs_kd import CSKD
from seed_jax.methods.ddgsd import DDGSD
from seed_jax.methods.frskd import FRSKD
from seed_jax.models.heads import Classifier, ProjectionHead
from seed_jax.models.network import Joined
from seed_jax.report import metrics
from seed_jax.train import loop, plan, teacher, workdir


def test_a_loss_knows_how_far_the_run_is_also_after_a_resume(toy, tmp_path):
    few = Arrays("few", np.zeros((40, 16, 16, 3), np.uint8), np.arange(40) % 10)  # two steps an epoch
    _, rows = steps(toy(Timed), 6, few)
    np.testing.assert_allclose([row["progress"] for row in rows], np.arange(6) / 6, rtol=1e-6)
    assert [row["epoch"] for row in rows] == [0, 0, 1, 1, 2, 2]
    raw = toy(Timed)
    loop.run(raw, tmp_path)
    (tmp_path / "checkpoints" / "6").rename(tmp_path / "gone")
    loop.run(raw, tmp_path)
    np.testing.assert_allclose([row["progress"] for row in rows_of(tmp_path)], np.arange(6) / 6, rtol=1e-6)


class Projected(Toy):
    """The classifier's columns are unit vectors at the start of each step."""

    def project(self, params, clock):
        kernel = params["classifier"]["fc"]["kernel"]
        unit = kernel / jnp.linalg.norm(kernel, axis=0, keepdims=True)
        return {**params, "classifier": {"fc": {**params["classifier"]["fc"], "kernel": unit}}}


def test_project_changes_the_parameters_before_the_gradient_and_the_update(toy):
    raw = toy(Projected, optim__momentum=0.0, optim__weight_decay=0.0, optim__schedule="constant")
    training, current, variables, batches, mesh = assembled(raw)
    batch, before = next(batches), jax.device_get(current.params)
    after, row = training.step(current, variables, batch)
    kernel = before["classifier"]["fc"]["kernel"]
    unit = kernel / np.linalg.norm(kernel, axis=0)
    moved = np.linalg.norm(jax.device_get(after.params)["classifier"]["fc"]["kernel"] - unit)
    assert 0 < moved <= 0.1 * row["grad_norm"] * (1 + 1e-5)  # lr 0.1
    assert np.linalg.norm(kernel - unit) > 1
    # The gradient is the one at the unit columns: a run that starts from them makes the same step.
    training, current, variables, _, mesh = assembled(raw)
    start = current.replace(params=Projected().project(current.params, None))
    again, same = training.step(start, variables, batch)
    np.testing.assert_allclose(same["grad_norm"], row["grad_norm"], rtol=1e-5)
    chex.assert_trees_all_close(again.params, after.params, rtol=1e-5, atol=1e-6)


def test_what_is_served_is_loaded_by_later_runs_and_probed(toy, tmp_path):
    raw = toy(Averaged, evals__names=("knn",), evals__bank_size=32, evals__batch_size=64)
    score = loop.run(raw, tmp_path / "first")
    assert 0 <= score <= 1
    loaded = workdir.load_run(tmp_path / "first")
    assert list(loaded.variables["params"]) == ["backbone"]
    assert "classifier" not in loaded.network.parts
    states, _ = steps(raw, 6)
    want = Averaged().served(None, states[-1].aux)
    chex.assert_trees_all_close(jax.device_get(loaded.variables), want, rtol=1e-4, atol=1e-6)
    trained = states[-1].params["backbone"]["conv1"]["kernel"]
    assert np.abs(loaded.variables["params"]["backbone"]["conv1"]["kernel"] - trained).max() > 1e-4
    images = jnp.zeros((2, 16, 16, 3))
    assert set(loaded.network.apply(loaded.variables, images, False)[0]) == {"pooled"}
    loop.run(toy(Averaged, student__init=str(tmp_path / "first")), tmp_path / "second")
    (tmp_path / "first" / "checkpoints" / "6").rename(tmp_path / "gone")
    loop.run(
        toy(Averaged, evals__names=("knn",), evals__bank_size=32, evals__batch_size=64), tmp_path / "first"
    )
    again = workdir.load_run(tmp_path / "first")
    chex.assert_trees_all_equal(again.variables, loaded.variables)
    loop.run(toy(Averaged, student__init=str(tmp_path / "first")), tmp_path / "second")


@dataclasses.dataclass(frozen=True)
class Matching(Method):
    """Compares the gradients of both networks' outputs with respect to the pixels."""

    needs_teacher: ClassVar = True

    def network(self, backbone, given):
        return Joined(backbone, {"head": ProjectionHead(dim=given.teacher["embedding"].shape[-1])})

    def loss(self, nets, params, model_state, aux, batch, clock, rng):
        x = batch.views[0][:, 0]

        def of_student(x):
            return nets.student.apply({"params": params, **model_state}, x, False)[0]["embedding"].sum()

        ours = jax.grad(of_student)(x)
        theirs = jax.grad(lambda x: nets.teacher(x)["embedding"].sum())(x)
        noted = {"teacher_gradient": jnp.abs(theirs).mean()}
        return jnp.square(ours - theirs).mean(), LossOut(model_state, aux, noted)


def test_a_loss_may_use_the_teachers_gradient_with_respect_to_pixels(toy):
    states, rows = steps(toy(Matching), 2)
    assert rows[0]["teacher_gradient"] > 1e-4
    assert rows[0]["grad_norm"] > 0


def test_the_teachers_pixel_gradient_equals_finite_differences_and_its_variables_get_none():
    raw = tiny.get_config("seed")
    loaded = teacher.load(config.resolve(raw).teacher, image_size=16, seed=0, precision="fp32")
    numbers = np.random.default_rng(0)
    x = jnp.asarray(numbers.random((2, 16, 16, 3)), jnp.float32)
    direction = jnp.asarray(numbers.standard_normal(x.shape), jnp.float32)
    weights = jnp.asarray(numbers.standard_normal((2, 8)), jnp.float32)

    def output(variables, x):
        asked = teacher.Frozen(loaded.network, variables)
        return (asked(x, (0,))["embedding"] * weights).sum()

    of_variables, of_pixels = jax.grad(output, argnums=(0, 1))(loaded.variables, x)
    step = 3e-4  # small enough that few ReLUs switch
    difference = (
        output(loaded.variables, x + step * direction) - output(loaded.variables, x - step * direction)
    ) / (2 * step)
    np.testing.assert_allclose((of_pixels * direction).sum(), difference, rtol=2e-2)
    assert float(jnp.abs(of_pixels).max()) > 1e-4
    assert all(not leaf.any() for leaf in jax.tree.leaves(of_variables))


@dataclasses.dataclass(frozen=True)
class Regression(Method):
    """Maps the student's pooled feature to the teacher's and knows which view it asks about."""

    needs_teacher: ClassVar = True

    def network(self, backbone, given):
        width = given.teacher["pooled"].shape[-1]
        head = ProjectionHead(dim=width, batch_norm=True, bn_group=given.bn_group, dtype=given.dtype)
        return Joined(backbone, {"projector": head})

    def loss(self, nets, params, model_state, aux, batch, clock, rng):
        x = batch.views[0][:, 0]
        features, model_state = nets.student.apply({"params": params, **model_state}, x, True, batch.keys)
        target = nets.teacher(x, views=(0,))["pooled"]
        return jnp.square(features["embedding"] - target).mean(), LossOut(model_state, aux, {})


def test_a_method_sees_all_widths_of_the_teacher_and_gives_its_parts_group_and_dtype(toy, tmp_path):
    raw = toy(Regression, train__precision="bf16", train__bn_group=4)
    training, *_ = assembled(raw)
    head = training.student.parts["projector"]
    assert (head.dim, head.bn_group, head.dtype) == (8, 4, jnp.bfloat16)
    loop.run(raw, tmp_path)
    loaded = workdir.load_run(tmp_path)
    head = loaded.network.parts["projector"]
    assert (head.dim, head.bn_group, head.dtype) == (8, 4, jnp.bfloat16)
    whole = workdir.load_run(tmp_path, precision="fp32").network
    assert (whole.parts["projector"].dtype, whole.backbone.module.dtype) == (jnp.float32, jnp.float32)
    manifest = json.loads((tmp_path / "manifest.json").read_text())
    assert manifest["teacher_features"]["pooled"] == {"shape": [16, 8], "dtype": "float32"}


def test_a_teacher_may_answer_from_a_cache_by_view():
    """The same loss with a teacher that computes and with one that looks the view up."""
    x = jnp.asarray(np.random.default_rng(0).random((4, 1, 16, 16, 3)), jnp.float32)
    raw = tiny.get_config("seed")
    c = config.resolve(raw)
    loaded = teacher.load(c.teacher, image_size=16, seed=0, precision="fp32")
    computed = teacher.Frozen(loaded.network, loaded.variables)
    cache = {0: computed(x[:, 0])}

    def cached(x, views=None):
        (view,) = views
        return cache[view]

    from seed_jax.methods.base import Batch, Clock, Given, Nets
    from seed_jax.train import student

    given = Given(4, 10, 16, 6, 6, loaded.features(4, 16))
    c = dataclasses.replace(c, train=dataclasses.replace(c.train, bn_group=0))
    network = student.network(c, given)
    variables = student.init_variables(network, 16, 0)
    params, rest = variables["params"], {"batch_stats": variables["batch_stats"]}
    aux = c.method.init_aux(jax.random.key(0), given, variables)
    seen = Batch((x,), jnp.zeros(4, jnp.int32), jax.random.split(jax.random.key(1), 4))
    clock = Clock(jnp.int32(0), 6, 6)
    values = [
        c.method.loss(Nets(network, asked), params, rest, aux, seen, clock, jax.random.key(2))[0]
        for asked in (computed, cached)
    ]
    np.testing.assert_array_equal(*values)


class TwoClassifiers(Toy):
    def network(self, backbone, given):
        exits = {name: Classifier(given.num_classes, out=f"{name}_logits") for name in ("exit1", "exit2")}
        return Joined(backbone, exits)

    def loss(self, nets, params, model_state, aux, batch, clock, rng):
        x = batch.views[0][:, 0]
        features, model_state = nets.student.apply({"params": params, **model_state}, x, True, batch.keys)
        losses = {
            name: optax.softmax_cross_entropy_with_integer_labels(features[f"{name}_logits"], batch.label)
            for name in ("exit1", "exit2")
        }
        return sum(x.mean() for x in losses.values()), LossOut(model_state, aux, losses)


def test_classifiers_side_by_side_are_each_trained_and_scored(toy, tmp_path):
    loop.run(toy(TwoClassifiers, evals__names=("top1",), evals__batch_size=64), tmp_path)
    last = [row for row in metrics.read(tmp_path) if row["step"] == 6]
    scored = {name for row in last for name in row if name.endswith("top1")}
    assert scored == {"exit1_top1", "exit2_top1"}
    assert {"exit1", "exit2"} <= set(rows_of(tmp_path)[-1])


class Located(Arrays):
    """Images with one bright column each, and its place as a target."""

    def __init__(self, count):
        self.columns = np.arange(count) % 16
        pixels = np.zeros((count, 16, 16, 3), np.uint8)
        pixels[np.arange(count), :, self.columns] = 255
        super().__init__("located", pixels, np.zeros(count, np.int64) + np.arange(count) % 2)

    def __getitem__(self, i):
        place = np.float32((self.columns[i] + 0.5) / 16)
        return super().__getitem__(i)._replace(targets={"column": place})


class Locate(Toy):
    """Finds the bright column in the view and compares it with the target, moved as the pixels were."""

    def loss(self, nets, params, model_state, aux, batch, clock, rng):
        value, out = super().loss(nets, params, model_state, aux, batch, clock, rng)
        left, width = batch.crops[0][:, 0, 0], batch.crops[0][:, 0, 2]
        moved = (batch.targets["column"] - left) / width
        moved = jnp.where(batch.flipped[0][:, 0], 1 - moved, moved)
        brightness = batch.views[0][:, 0].sum(axis=(1, 3))
        place = (brightness * (jnp.arange(16) + 0.5)[None]).sum(axis=1) / brightness.sum(axis=1) / 16
        inside = (moved > 0.1) & (moved < 0.9)
        wrong = jnp.where(inside, jnp.abs(place - moved), 0.0)
        noted = {"wrong": wrong, "inside": inside.astype(jnp.float32), "flips": batch.flipped[0][:, 0]}
        return value, dataclasses.replace(out, metrics=noted)


def test_targets_can_be_moved_with_the_pixels(toy):
    raw = toy(Locate, data__flip=0.5, data__photometric="none", data__crop_scale=(0.3, 1.0))
    _, rows = steps(raw, 6, Located(96))
    assert max(row["wrong"] for row in rows) < 0.02
    assert np.mean([row["inside"] for row in rows]) > 0.4
    assert 0.3 < np.mean([row["flips"] for row in rows]) < 0.7


class Unlabelled(Toy):
    needs_labels: ClassVar = True


def test_a_method_that_needs_labels_does_not_start_without(toy, tmp_path):
    np.savez(tmp_path / "x.npz", image=np.zeros((40, 16, 16, 3), np.uint8))
    raw = toy(Unlabelled, data__source="npz", data__dir=str(tmp_path / "x.npz"), data__train="all")
    with pytest.raises(UserError, match="toy needs labels, and data.source has none: use a labelled source"):
        loop.run(raw, tmp_path / "run")


class NeedsTokens(Regression):
    def network(self, backbone, given):
        return given.teacher["tokens"]


def test_a_teacher_without_what_the_method_needs_is_named(toy):
    with pytest.raises(UserError, match="teacher.weights: the method needs the teacher's 'tokens', and"):
        assembled(toy(NeedsTokens))


TOYS = [Timed, Projected, Averaged, Matching, Regression, TwoClassifiers, Locate]
OF_STAGES = {BYOT: {"method__form": "journal"}, FRSKD: {"method__rotations": 2}}


SHORT = [Timed, Averaged]
LONG = [method for method in [*TOYS, CSKD, DDGSD, BYOT, FRSKD] if method not in SHORT]


@pytest.mark.parametrize("method", SHORT + [pytest.param(method, marks=pytest.mark.long) for method in LONG])
def test_every_toy_is_planned_and_resumes_bitwise(toy, tmp_path, monkeypatch, method):
    settings = OF_STAGES.get(method, {})
    if settings:
        monkeypatch.setitem(models.MODELS, "staged", tiny.Staged)
        settings = {"student__model": "staged", **settings}
    raw = toy(method, train__ema=0.9, evals__names=("top1",), evals__batch_size=64, **settings)
    if method is Locate:
        monkeypatch.setattr(Locate, "loss", without_targets)
    assert plan.make(config.resolve(raw), devices=8).student_parameters > 0
    loop.run(raw, tmp_path / "whole")
    shutil.copytree(tmp_path / "whole", tmp_path / "cut")
    (tmp_path / "cut" / "checkpoints" / "6").rename(tmp_path / "gone")
    loop.run(raw, tmp_path / "cut")
    whole, cut = (workdir.load_run(tmp_path / name) for name in ("whole", "cut"))
    chex.assert_trees_all_equal(cut.variables, whole.variables)
    speeds = {"images_per_second", "data_wait"}
    lines = [
        [{k: v for k, v in row.items() if k not in speeds} for row in metrics.read(tmp_path / name)]
        for name in ("whole", "cut")
    ]
    assert lines[0] == lines[1]


def without_targets(self, nets, params, model_state, aux, batch, clock, rng):
    """`Locate` on images without targets: it still reads crops and flips."""
    value, out = Toy.loss(self, nets, params, model_state, aux, batch, clock, rng)
    noted = {"left": batch.crops[0][:, 0, 0], "flips": batch.flipped[0][:, 0]}
    return value, dataclasses.replace(out, metrics=noted)


class Bounded(Toy):
    smoke: ClassVar = {"weight": 0.5}


def test_smoke_takes_a_methods_own_bounds(toy):
    assert config.smoke(toy(Bounded, method__weight=2.0)).method.weight == 0.5
    assert config.smoke(toy(Bounded, method__weight=0.25)).method.weight == 0.25
