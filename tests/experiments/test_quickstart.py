"""The quick start and the evaluation command, shortened, as a user starts them."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from experiments.quickstart.__main__ import RUNS, UNTRAINED

ROOT = Path(__file__).parent.parent.parent


def python(*arguments):
    return subprocess.run(
        [sys.executable, "-m", *map(str, arguments)],
        cwd=ROOT,
        env={**os.environ, "JAX_NUM_CPU_DEVICES": "1"},
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    out = tmp_path_factory.mktemp("quickstart")
    return out, python("experiments.quickstart", "--variant", "smoke", "--out", out)


def test_table_and_report_show_the_same_numbers(finished):
    out, process = finished
    assert process.returncode == 0, process.stderr[-2000:]
    results = json.loads((out / "results.json").read_text())["results"][0]
    assert set(results) == {*RUNS, UNTRAINED}
    page = (out / "report.html").read_text()
    for name, scores in results.items():
        assert 0 <= scores["knn"] <= 100
        cells = [name, f"{scores['parameters']:,}", f"{scores['knn']:.1f}", f"{scores['linear']:.1f}"]
        assert f"| {' | '.join(cells)} |" in process.stdout
        assert all(cell in page for cell in cells)
    assert 'src="http' not in page
    assert results["student, SEED"]["parameters"] == results[UNTRAINED]["parameters"]


def test_a_finished_quick_start_is_shown_again(finished):
    out, first = finished
    before = (out / "results.json").read_text()
    again = python("experiments.quickstart", "--variant", "smoke", "--out", out)
    assert again.returncode == 0
    assert "holds a finished quick start" in again.stdout
    table = [line for line in first.stdout.splitlines() if line.startswith("| ")]
    assert [line for line in again.stdout.splitlines() if line.startswith("| ")] == table
    assert (out / "results.json").read_text() == before
    assert "prefers-color-scheme" in (out / "knn.svg").read_text()


def test_evaluation_command(finished):
    out, _ = finished
    workdir = out / "seed0" / "digits_teacher"
    process = python("seed_jax.evals", workdir)
    assert process.returncode == 0, process.stderr[-2000:]
    scores = json.loads((out / "results.json").read_text())["results"][0]["teacher (MoCo-v2)"]
    assert (
        f"| {workdir} | {scores['parameters']:,} | {scores['knn']:.1f} | {scores['linear']:.1f} |"
        in process.stdout
    )
