"""The plan of a run against numbers worked out by hand for the tiny network."""

import os
import re
import subprocess
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import pytest
import tiny

from seed_jax import config, models, parallel
from seed_jax.errors import UserError
from seed_jax.report.plan import Memory, Plan, text
from seed_jax.train import plan

ROOT = Path(__file__).parents[2]
MIB = 2**20


def squeezed(table):
    """Cells with one space on each side."""
    return re.sub(" +", " ", table)


@pytest.fixture(autouse=True)
def tiny_model(monkeypatch):
    monkeypatch.setitem(models.MODELS, "tiny", tiny.Tiny)


def planned(variant="seed", devices=8, images=None, **overrides):
    raw = tiny.get_config(variant)
    raw.update_from_flattened_dict({key.replace("__", "."): value for key, value in overrides.items()})
    return plan.make(config.resolve(raw), devices=devices, images=images)


def memory(p):
    return {row.name: (row.total, row.per_device) for row in p.memory}


# Convolutions 3x3x3x8 and 3x3x8x8, scale and bias of two batch norms, a head of 8x8 and 8xD with biases.
BACKBONE = 216 + 576 + 2 * 16
STATISTICS = 2 * 16


def test_parameters_optimizer_and_queue_of_seed():
    p = planned()
    student = BACKBONE + 8 * 8 + 8 + 8 * 8 + 8
    assert p.student_parameters == p.teacher_parameters == student
    rows = memory(p)
    assert rows["student: parameters"] == (8 * 4 * student, 4 * student)
    assert rows["student: gradients"] == rows["student: parameters"]
    assert rows["student: running statistics"] == (8 * 4 * STATISTICS, 4 * STATISTICS)
    folded = student - STATISTICS // 2  # of each batch norm the bias alone is left
    assert rows["teacher: variables"] == (8 * 4 * folded, 4 * folded)
    momentum_and_count = 4 * student + 4
    assert rows["optimizer (sgd)"] == (8 * momentum_and_count, momentum_and_count)
    slots, next_and_filled = 4 * 64 * 8, 8
    assert rows["queues (1)"] == (slots + next_and_filled, (slots + next_and_filled) // 8)
    pixels = 16 * 16 * 16 * 3
    assert rows["views, uint8 and float32"] == (5 * pixels, 5 * pixels // 8)
    assert "moving averages" not in rows
    assert p.device_bytes == sum(per_device for _, per_device in rows.values())


def test_divided_parameters(monkeypatch):
    """Of the kernels, of 64 numbers and more, each of 8 devices has an eighth, of vectors all."""
    monkeypatch.setattr(parallel, "WHOLE", 64)
    p = planned(train__shard_params=True)
    rows = memory(p)
    kernels, vectors = 216 + 576 + 8 * 8 + 8 * 8, 2 * 16 + 8 + 8
    each = 4 * (kernels // 8 + vectors)
    assert rows["student: parameters"] == (8 * each, each)
    assert rows["optimizer (sgd)"][1] == each + 4
    folded = 4 * (kernels // 8 + vectors - STATISTICS // 2)
    assert rows["teacher: variables"] == (8 * folded, folded)
    full = 4 * (kernels + vectors)
    assert rows["student: gradients"] == (8 * full, full)
    assert rows["gathered: student and teacher"][1] == 2 * full - 4 * STATISTICS // 2
    assert any("train.shard_params" in note for note in p.notes)
    assert "gathered: student and teacher" not in memory(planned(devices=1, train__shard_params=True))


def test_small_patches_have_two_queues_and_more_pixels():
    rows = memory(planned(method__patches=3, method__patch_size=12))
    assert rows["queues (2)"][0] == 2 * (4 * 64 * 8 + 8)
    assert rows["views, uint8 and float32"][0] == 5 * 16 * 3 * (16 * 16 + 3 * 12 * 12)


def test_the_moving_average_of_moco_is_a_second_network():
    p = planned("moco")
    rows = memory(p)
    student = BACKBONE + 8 * 8 + 8 + 8 * 128 + 128
    assert p.student_parameters == student
    assert rows["moving averages"][1] == 4 * (student + STATISTICS)
    assert rows["queues (1)"][0] == 4 * 64 * 128 + 8
    assert p.teacher_parameters == 0
    assert p.teacher_flops == 0


def test_steps_and_shares():
    p = planned(images=1000, devices=4)
    assert (p.images, p.steps_per_epoch, p.steps, p.batch_size // p.devices) == (1000, 62, 6, 4)
    p = planned(images=1000, train__steps=0, train__epochs=2.5)
    assert p.steps == 155
    assert planned(images=1000, train__steps=0, train__examples=33).steps == 3


def test_flops_are_those_of_the_convolutions():
    """Forward: two convolutions, stride 2 on 16 pixels, the head; XLA leaves out what meets the padding."""
    p = planned()
    products = 8 * 8 * 27 * 8 + 4 * 4 * 72 * 8 + 8 * 8 + 8 * 8
    assert 0.8 * 2 * products < p.teacher_flops < 1.4 * 2 * products
    assert 1.5 * p.teacher_flops < p.student_flops < 4 * p.teacher_flops


def test_resnet50_has_the_published_flops():
    """8.2 GFLOP forward at 224 pixels (4.1 multiply-adds, He et al. 2016, as torchvision counts them)."""
    network = models.create("resnet50")
    variables = jax.eval_shape(network.init, jax.random.key(0), jnp.zeros((2, 224, 224, 3)))
    x = jax.ShapeDtypeStruct((1, 224, 224, 3), jnp.float32)
    flops = plan.flops(lambda v, x: network.apply(v, x, False)[0]["pooled"], variables, x)
    assert 7.8e9 < flops < 8.3e9


def test_activations_are_what_autodiff_keeps():
    """At least each convolution's input and output, at most some copies of them."""
    rows = memory(planned())
    whole = 4 * 16 * (16 * 16 * 3 + 2 * 8 * 8 * 8 + 2 * 4 * 4 * 8)
    assert 0.5 * whole < rows["activations kept for the backward pass"][0] < 3 * whole


def test_text_tells_time_at_a_speed_and_at_forty_percent():
    p = planned(images=1600, train__steps=36_000)
    shown = squeezed(text(p, images_per_second=160, tflops=1e-6))
    assert "| at 160 images/s | 1.0 h |" in shown
    seconds = 36_000 * p.step_flops / (0.4 * 1e6 * 8)
    assert f"an assumption | {seconds / 3600:,.1f} h |" in shown
    assert "at 10,000 images/s" in text(p)


@pytest.mark.parametrize(
    ("images", "steps", "run_flop", "time"),
    [
        (64, 4, "256.00 MFLOP", "< 0.1 s"),
        (128_000, 8_000, "512.00 GFLOP", "2.1 min"),
        (1_280_000_000, 10**9, "64.00 PFLOP", "185.2 days"),
    ],
)
def test_text_chooses_units_in_which_no_number_is_0(images, steps, run_flop, time):
    rows = (Memory("a", 2048, 500, ""), Memory("b", 3 * 2**30, 5 * 2**20, ""))
    p = Plan(images, 16, 8, 10, steps, 1, 0, 0.0, 4e6, 0.0, rows, ())
    shown = squeezed(text(p, images_per_second=1000))
    assert f"| FLOP, whole run | {run_flop} |" in shown
    assert f"| at 1,000 images/s | {time} |" in shown
    assert "| FLOP per step | 64.00 MFLOP |" in shown
    assert "| FLOP per image, teacher forward | 0 FLOP |" in shown
    assert "| a | 2.0 KiB | 500 B |" in shown and "| b | 3.0 GiB | 5.0 MiB |" in shown
    assert "| sum | 3.0 GiB | 5.0 MiB |" in shown


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"devices": 3}, "data.batch_size is 16 and must be a multiple of 24, for 3 devices"),
        ({"images": 15}, "only 15 images"),
        ({"data__source": "folder"}, "data.dir.*--images=N"),
        ({"method__queue_size": 72}, "method.queue_size is 72"),
    ],
)
def test_what_would_stop_the_run_stops_the_plan(settings, words):
    with pytest.raises(UserError, match=words):
        planned(**settings)


def test_data_and_teacher_that_are_not_here_are_assumed_and_said():
    p = planned(data__source="folder", images=500, teacher__weights="nowhere.pth")
    assert p.images == 500
    assert [words for words in ("500 images", "assumed to be tiny") if words not in " ".join(p.notes)] == []


def test_no_accelerator_is_touched_and_nothing_is_written(tmp_path):
    """With a platform that is not here: it would raise as soon as it were asked for."""
    result = subprocess.run(
        [sys.executable, "main.py", "--config=tests/tiny.py:seed", "--plan", "--devices=4"],
        cwd=ROOT,
        env={**os.environ, "JAX_PLATFORMS": "cuda"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode == 0, result.stderr
    assert "| batch, each of 4 devices | 4 |" in squeezed(result.stdout)
