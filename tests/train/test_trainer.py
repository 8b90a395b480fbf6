"""What the trainer offers to every method: metrics, micro-batches, averages, short batches, layer rates."""

import dataclasses

import chex
import jax
import numpy as np
import pytest
import tiny
from toys import Averaged, Timed, Toy, assembled, rows_of, steps

from seed_jax import config, parallel
from seed_jax.data.pipeline import train_batches
from seed_jax.data.sources import Arrays
from seed_jax.errors import UserError
from seed_jax.train import loop, workdir


def test_the_step_writes_the_loss(toy):
    states, rows = steps(toy(Toy), 1)
    assert set(rows[0]) == {"loss", "lr", "grad_norm", "param_norm", "bad_images"}
    (twice,) = steps(toy(Toy, method__weight=2.0), 1)[1]
    np.testing.assert_allclose(twice["loss"], 2 * rows[0]["loss"], rtol=1e-6)


def test_the_trainer_can_average_the_weights(toy, tmp_path):
    raw = toy(Toy, train__ema=0.75)
    loop.run(raw, tmp_path)
    states, _ = steps(raw, 6)
    want = {"params": states[0].params, **states[0].model_state}
    for after in states[1:]:
        now = {"params": after.params, **after.model_state}
        want = jax.tree.map(lambda mean, x: 0.75 * mean + 0.25 * x, want, now)
    chex.assert_trees_all_close(states[-1].ema, want, rtol=1e-5, atol=1e-6)
    loaded = workdir.load_run(tmp_path)
    chex.assert_trees_all_close(jax.device_get(loaded.variables), want, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("devices", [1, 4])
def test_accumulated_gradients_are_those_of_the_whole_batch(toy, devices):
    whole, rows = steps(toy(Toy, train__bn_group=4), 3)
    parts, part_rows = steps(toy(Toy, train__bn_group=4, train__accumulate=4), 3, devices=devices)
    chex.assert_trees_all_close(part_rows, rows, rtol=1e-4, atol=1e-5)
    chex.assert_trees_all_close(parts[-1], whole[-1], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("variant", "overrides", "words"),
    [
        ("seed", {"train.accumulate": 2, "train.bn_group": 1}, "seed needs the whole batch .*carries state"),
        ("seed", {"data.last": "keep"}, "data.last is 'keep', but a slot of the queue takes a full batch"),
        ("moco", {"data.last": "keep"}, "data.last is 'keep', but a slot of the queue takes a full batch"),
        ("supervised", {"data.last": "keep"}, "the last batch of an epoch has 1 images.*data.last=drop"),
        ("supervised", {"train.accumulate": 4}, "multiple of 32, for 8 devices, BatchNorm groups of 8, 4 mi"),
        ("supervised", {"train.accumulate": 2, "train.bn_group": 0}, "at once .train.bn_group is 0"),
    ],
)
def test_batches_that_cannot_be_divided_are_refused(tmp_path, variant, overrides, words):
    raw = tiny.get_config(variant)
    raw.update_from_flattened_dict(overrides)
    with pytest.raises(UserError, match=words):
        loop.run(raw, tmp_path)


class Coupled(Toy):
    def whole_batch(self):
        return "it compares samples"


def test_a_method_says_that_micro_batches_would_change_its_loss(toy):
    with pytest.raises(UserError, match="toy needs the whole batch at once .it compares samples."):
        assembled(toy(Coupled, train__accumulate=2))
    with pytest.raises(UserError, match="toy needs the whole batch at once .it carries state"):
        assembled(toy(Averaged, train__accumulate=2))


@pytest.mark.parametrize("accumulate", [1, 2])
def test_the_last_batch_of_an_epoch_can_be_kept(toy, accumulate):
    """40 images at batch 16: the third batch of each epoch has 8, and every image is seen once."""
    pixels = np.random.default_rng(0).integers(0, 256, (40, 16, 16, 3), np.uint8)
    few = Arrays("few", pixels, np.arange(40) % 10)
    raw = toy(Timed, data__last="keep", train__bn_group=4, train__accumulate=accumulate)
    training, current, variables, _, mesh = assembled(raw, few)
    host = train_batches(few, training.views, 16, 0, last="keep")
    epochs = []
    for _ in range(6):
        batch = next(host)
        current, row = training.step(current, variables, parallel.to_devices(mesh, batch))
        assert np.isfinite(row["loss"])
        epochs.append((int(row["epoch"]), len(batch["label"])))
    assert epochs == [(0, 16), (0, 16), (0, 8), (1, 16), (1, 16), (1, 8)]


class TakesAName(Toy):
    def loss(self, nets, params, model_state, aux, batch, clock, rng):
        value, out = super().loss(nets, params, model_state, aux, batch, clock, rng)
        return value, dataclasses.replace(out, metrics={"lr": value})


def test_a_metric_may_not_have_the_name_of_one_of_the_steps(toy):
    with pytest.raises(ValueError, match="The metrics .'lr'. are the step's own"):
        steps(toy(TakesAName), 1)


def test_layer_decay_slows_the_early_layers():
    """One update of three blocks without momentum: layer i moves 0.5 ** (4 - i) of what it would."""
    raw = config.default("supervised")
    raw.data.source, raw.data.batch_size, raw.data.image_size = "digits", 16, 16
    raw.student.model = "cifar_resnet8"
    raw.train.steps, raw.train.bn_group, raw.evals.names = 3, 0, ()
    raw.optim.momentum, raw.optim.weight_decay, raw.optim.schedule = 0.0, 0.0, "constant"
    plain, _ = steps(raw, 1)
    raw.optim.layer_decay = 0.5
    decayed, _ = steps(raw, 1)

    def moved(states, *path):
        before, after = states[0].params, states[1].params
        for key in path:
            before, after = before[key], after[key]
        return after - before

    for path, layer in (
        (("backbone", "conv1", "kernel"), 0),
        (("backbone", "layer1_0", "conv1", "kernel"), 1),
        (("backbone", "layer3_0", "conv2", "kernel"), 3),
        (("classifier", "fc", "kernel"), 4),
    ):
        want = moved(plain, *path) * 0.5 ** (4 - layer)
        np.testing.assert_allclose(moved(decayed, *path), want, rtol=1e-2, atol=1e-7)


def test_profile_traces_some_steps(toy, tmp_path):
    loop.run(toy(Toy), tmp_path, profile=2)
    traces = list((tmp_path / "profile").rglob("*.xplane.pb"))
    assert len(traces) == 1 and traces[0].stat().st_size > 1000
    assert rows_of(tmp_path)[-1]["step"] == 6
