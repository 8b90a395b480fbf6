"""The benchmarks run, in small: what they time is what training does."""

import numpy as np
import pytest

from experiments.benchmarks import input as input_benchmark
from experiments.benchmarks import step
from seed_jax.data.pipeline import train_batches
from seed_jax.data.sources import Arrays


@pytest.mark.long
def test_the_benchmark_of_a_step(capsys):
    small = "--teacher resnet18 --student resnet18 --size 32 --batch 8 --queue 64 --repeats 1"
    assert step.main(small.split()) == 0
    said = capsys.readouterr().out
    for part in ("step", "teacher forward", "student forward + backward", "loss and its gradient"):
        assert f"| {part} |" in said
    assert "resnet18 -> resnet18, 32 px, batch 8, K = 64" in said


def test_the_benchmark_of_input_reads_what_training_reads():
    pixels = np.random.default_rng(0).integers(0, 256, (40, 48, 64, 3), np.uint8)
    source = Arrays("noise", pixels, None)
    batch = input_benchmark.Batches(source)(0)
    trained = next(train_batches(source, input_benchmark.MOCO, input_benchmark.BATCH, 0))
    np.testing.assert_array_equal(batch["views"][0], trained["views"][0])
