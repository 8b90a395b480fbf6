"""The benchmark for accelerators, on a CPU: its tiny form with networks that compile in seconds."""

import json
import threading

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny

from experiments.benchmarks import accelerator, agreement, journal, parts
from seed_jax import models, parallel
from seed_jax.losses import readout
from seed_jax.methods.moco import MoCo
from seed_jax.methods.seed import Seed


def results(folder):
    return json.loads((folder / "results.json").read_text())


@pytest.mark.long
def test_the_tiny_form(tmp_path, monkeypatch, capsys):
    devices, computed = iter(jax.devices()), agreement.computed
    # Two devices, of which the second is not the default one, as the CPU beside an accelerator.
    monkeypatch.setattr(agreement, "computed", lambda begun, _: computed(begun, next(devices)))
    for name in ("resnet18", "mobilenetv3_small", "vit_small"):
        monkeypatch.setitem(models.MODELS, name, tiny.Tiny)
    assert accelerator.main(["--tiny", "--minutes", "60", "--out", str(tmp_path)]) == 0
    found = results(tmp_path)
    sections = found["sections"]
    assert {name: section["status"] for name, section in sections.items()} == dict.fromkeys(
        ("ceiling", "agreement", "seed", "vit", "moco", "largest"), "done"
    )
    assert found["form"] == "tiny" and found["machine"]["platform"] == "cpu"
    assert sections["ceiling"]["products"].keys() == {"bf16", "fp32", "fp32, highest"}
    assert "compared with itself" in sections["agreement"]["note"]
    assert {name: check["error"] for name, check in sections["agreement"]["checks"].items()} == dict.fromkeys(
        ("forward", "loss", "20 steps"), 0
    )
    common = {"step", "photometrics (mocov2)", "student forward + backward", "loss and its gradient"}
    assert sections["seed"]["parts"].keys() == sections["vit"]["parts"].keys() == common | {"teacher forward"}
    assert sections["moco"]["parts"].keys() == common | {"key encoder forward"}
    for name in ("seed", "vit", "moco"):
        for part in sections[name]["parts"].values():
            assert part["ms"] > 0 and part["compile_s"] > 0
            assert part["tflops"] is None or part["of_ceiling"] > 0
        assert sections[name]["program_bytes"] > 0 and sections[name]["peak_bytes"] is None
    assert sections["seed"]["aims"].keys() == {"loss_share", "teacher_of_ceiling"}
    assert 0 < sections["seed"]["long_loss"]["share"] < 1
    assert sections["largest"]["tried"].keys() == {"32"}
    said, page = capsys.readouterr().out, (tmp_path / "results.md").read_text()
    assert "s left] vit: done" in said and page in said
    assert "| teacher forward |" in page and "Batch 32 fits" in page
    assert jax.config.jax_enable_compilation_cache


def test_without_time_every_section_is_skipped(tmp_path):
    assert accelerator.main(["--minutes", "0", "--out", str(tmp_path)]) == 0
    for section in results(tmp_path)["sections"].values():
        assert section["status"] == "skipped" and "0 s were left" in section["reason"]
    assert "| largest | skipped |" in (tmp_path / "results.md").read_text()


def sections(monkeypatch, **made):
    monkeypatch.setattr(
        accelerator, "SECTIONS", {name: accelerator.Section(run, 0) for name, run in made.items()}
    )


def test_a_failed_section_does_not_stop_the_others(tmp_path, monkeypatch):
    def broken(bench):
        bench.set(note="half")
        raise ValueError("no such thing\nand more")

    sections(monkeypatch, first=broken, second=lambda bench: bench.set(note="whole"))
    assert accelerator.main(["--out", str(tmp_path)]) == 1
    found = results(tmp_path)["sections"]
    assert found["first"]["status"] == "failed" and found["first"]["note"] == "half"
    assert found["first"]["reason"] == "ValueError: no such thing"
    assert found["second"]["status"] == "done" and found["second"]["note"] == "whole"


def test_a_value_out_of_its_tolerance_is_the_exit_code(tmp_path, monkeypatch):
    check = {"error": 0.5, "tolerance": 0.1, "passed": False}
    sections(monkeypatch, only=lambda bench: bench.set(checks={"forward": check}))
    assert accelerator.main(["--out", str(tmp_path)]) == 1
    assert "| forward | 5.0e-01 | 1e-01 | NO |" in (tmp_path / "results.md").read_text()


def test_a_section_is_cut_when_the_time_is_over(tmp_path, monkeypatch):
    ended, seen = threading.Event(), []

    def leave(code):
        seen.extend([code, results(tmp_path)["sections"]["slow"]])
        ended.set()

    def slow(bench):
        bench.set(note="half")
        assert ended.wait(60)

    monkeypatch.setattr(journal.os, "_exit", leave)
    sections(monkeypatch, slow=slow)
    accelerator.main(["--minutes", "0.01", "--out", str(tmp_path)])
    assert seen == [0, {"status": "cut", "note": "half", "reason": "the time was over"}]


def test_the_batch_is_doubled_until_the_memory_is_full(tmp_path, monkeypatch):
    def attempt(bench, raw):
        if raw.data.batch_size > 1024:
            raise jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: Out of memory\nwhile allocating")
        return {"ms": 1.0, "images_per_s": 1.0, "compile_s": 1.0, "program_bytes": 1, "peak_bytes": None}

    monkeypatch.setattr(accelerator, "_try", attempt)
    sections(monkeypatch, largest=accelerator._largest)
    assert accelerator.main(["--out", str(tmp_path)]) == 0
    found = results(tmp_path)["sections"]["largest"]
    assert [*found["tried"]] == ["512", "1024"]
    assert (
        found["stopped"].startswith("Batch 2048 does not fit: ") and "RESOURCE_EXHAUSTED" in found["stopped"]
    )


def test_errors_of_the_agreement_by_hand(monkeypatch):
    here = np.array([1.0, 2.0]), np.array([2.0, 4.0]), np.array([1.0, 1.02])
    cpu = np.array([1.0, 2.00005]), np.array([2.0, 4.0]), np.array([1.0, 1.0])
    answers = iter([here, cpu])
    monkeypatch.setattr(agreement, "start", lambda size: None)
    monkeypatch.setattr(agreement, "computed", lambda begun, device: next(answers))
    found = agreement.compare(1024)
    assert [check["error"] for check in found.values()] == pytest.approx([5e-5, 0, 0.02])
    assert [check["passed"] for check in found.values()] == [True, True, False]


@pytest.mark.parametrize("method", [Seed(), MoCo()], ids=["seed", "moco"])
def test_flops_of_the_loss_are_those_of_its_one_block(method):
    """XLA counts a loop once; here the loop has one turn."""
    counted = []

    def count(name, flops, function, *arguments):
        counted.extend([flops, parts.flops(function, *arguments)])

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(parts, "_part", count)
        parts.loss(method, parallel.make_mesh(jax.devices()[:1]), 64, 128, readout.BLOCK)
    by_hand, by_xla = counted
    assert by_hand == pytest.approx(by_xla, rel=0.1)


def test_flops_of_a_product():
    a, b = (jax.ShapeDtypeStruct(shape, jnp.bfloat16) for shape in ((8, 32), (32, 16)))
    assert parts.flops(jnp.matmul, a, b) == 2 * 8 * 32 * 16
