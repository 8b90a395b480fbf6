"""The benchmark of mixing runs, in small; what it compares does the same work."""

import contextlib
import json
import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments.benchmarks import mixing as benchmark
from seed_jax.methods.base import Batch, Nets
from seed_jax.methods.kd import KD

BATCH = 6
NUMBERS = np.random.default_rng(0)
X = jnp.asarray(NUMBERS.random((BATCH, 8, 8, 3)), jnp.float32)
WEIGHTS = jnp.asarray(NUMBERS.standard_normal((8 * 8 * 3, 5)), jnp.float32)


def augmented(method):
    """x' and the teacher's logits of it, and how many images the teacher has been shown in each pass."""
    shown = []

    def teacher(x, views=None):
        shown.append(len(x))
        return {"logits": x.reshape(len(x), -1) @ WEIGHTS}

    keys = jax.random.split(jax.random.key(0), BATCH)
    batch = Batch(
        views=(X[:, None],), label=jnp.zeros(BATCH, int), keys=keys, targets={}, crops=(), flipped=()
    )
    nets = Nets(types.SimpleNamespace(mean=(0.5, 0.5, 0.5)), teacher)
    again, features, *_ = method._augmented(X, nets, None, {}, batch, jax.random.key(1))
    return again, features["logits"], shown


def test_a_second_pass_gives_the_logits_of_the_pool():
    picked, logits, shown = augmented(KD(augment="cutmix_pick"))
    picked_again, logits_again, shown_again = augmented(benchmark.AsksAgain(augment="cutmix_pick"))
    np.testing.assert_array_equal(picked, picked_again)
    np.testing.assert_allclose(logits, logits_again, rtol=1e-5)
    assert (shown, shown_again) == ([2 * BATCH], [2 * BATCH, BATCH])


def test_the_bases_show_the_networks_as_many_images_as_what_they_are_compared_with():
    named = {case.name: case for case in benchmark.cases(["mixup", "cutmix_pick"])}
    for name in ("mixup", "cutmix_pick"):
        again, logits, shown = augmented(named[name].method)
        of_base, base_logits, shown_of_base = augmented(named[named[name].base].method)
        assert shown == shown_of_base
        assert (again.shape, logits.shape) == (of_base.shape, base_logits.shape)
        np.testing.assert_allclose(base_logits, (1 - X).reshape(BATCH, -1) @ WEIGHTS, rtol=1e-5)


def test_instructions_inside_of_fusions_and_branches_are_counted():
    def count(function):
        return benchmark.instructions(jax.jit(function).lower(jnp.float32(1)).compile())

    one = count(lambda x: jnp.sin(x) + 1)
    both = count(lambda x: jax.lax.cond(x > 0, lambda x: jnp.sin(x) + 1, lambda x: jnp.cos(x) * 2, x))
    assert 3 <= one < both - 3


@pytest.mark.long
def test_it_runs(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(benchmark, "DRAWS", ("batch",))
    monkeypatch.setattr(benchmark, "uncached", contextlib.nullcontext)  # seconds to compile do not matter
    small = "--teacher cifar_resnet8 --student cifar_resnet8 --size 16 --batch 4 --rounds 1 --only mixup"
    assert benchmark.main([*small.split(), "--out", str(tmp_path)]) == 0
    said = (tmp_path / "table.md").read_text()
    assert said in capsys.readouterr().out
    assert "cifar_resnet8 -> cifar_resnet8, 16 px, batch 4" in said and "of the cores" in said
    found = json.loads((tmp_path / "results.json").read_text())
    base, mixup = found["steps"]
    assert (base["name"], base["base"]) == ("base", None)
    assert (mixup["name"], mixup["base"]) == ("mixup", "base")
    np.testing.assert_allclose(mixup["over_base_percent"], 100 * (mixup["ms"] / base["ms"] - 1))  # one round
    assert [(entry["name"], entry["batch"]) for entry in found["alone"]] == [("mixup", 4)]
    assert min(entry["ms"] for entry in found["alone"]) > 0


def test_the_page_says_what_reuse_saves_and_what_costs_too_much():
    def step(name, base, ms, over):
        of_cpu = {"cpu_ms": ms, "cpu_over_base_percent": over}
        compiled = {"compile_s": 1.0, "compile_cpu_s": 2.0, "instructions": 9}
        of_wall = {"ms": ms, "over_base_percent": over}
        return {"name": name, "draw": "batch", "base": base, **of_wall, **of_cpu, **compiled}

    steps = [
        step(benchmark.ONE_BATCH, None, 100.0, None),
        step("mixup", benchmark.ONE_BATCH, 104.0, 4.0),
        step("cutmix", benchmark.ONE_BATCH, 106.0, 6.0),
        step("cutmix_pick", benchmark.POOL, 150.0, 2.0),
        step(benchmark.ASKED_AGAIN, benchmark.POOL, 200.0, 36.0),
    ]
    facts = {"described": "a -> b", "processor": "a CPU", "load_before": "idle", "others": 0.01, "seconds": 1}
    said = benchmark.page({**facts, "steps": steps, "alone": []})
    assert "More than 5 % over the base: cutmix (draw batch)." in said
    assert "reuse saves 25.0 % of the step" in said
