"""Every experiment's `--quick` form: the file loads, its configs resolve, and its first taught row runs."""

import dataclasses
from pathlib import Path

import numpy as np
import pytest
import tiny

from seed_jax import config, models
from seed_jax.compare import Trained, cells, collect, run, spec

FOLDER = Path(__file__).parents[2] / "experiments"
EXPERIMENTS = {
    path.parent.relative_to(FOLDER).as_posix(): path for path in sorted(FOLDER.rglob("compare.py"))
}


SOON = ("quickstart", "feature_distillation")  # the others' quick forms are run by `-m long`


def comparisons(quick):
    """All of them; of quick forms not those on Fashion-MNIST, which are the ones beside them on digits."""
    names = [name for name in EXPERIMENTS if not (quick and name.endswith("/fashion"))]
    later = [() if name in SOON or not quick else pytest.mark.long for name in names]
    return [
        pytest.param(spec.load(EXPERIMENTS[name], quick), id=name, marks=marks)
        for name, marks in zip(names, later, strict=True)
    ]


def test_there_are_experiments():
    assert {"quickstart", "lite0", "small_data/tiles", "small_data/clothes"} <= {*EXPERIMENTS}


@pytest.mark.parametrize("comparison", comparisons(quick=False))
def test_the_full_form_resolves(comparison):
    assert len(comparison.seeds) >= 3
    for row in comparison.rows:
        if isinstance(row, Trained):
            config.resolve(row.raw(0))


@pytest.mark.parametrize(
    "file", ["seed_strategies/rates.py", "seed_teachers/rates.py", "seed_teachers/centred.py"]
)
def test_trials_resolve_and_use_no_test_image(file):
    for quick in (False, True):
        comparison = spec.load(FOLDER / file, quick)
        for row in (row for row in comparison.rows if isinstance(row, Trained)):
            raw = row.raw(comparison.seeds[0])
            assert raw.data.test == raw.data.val
            config.resolve(raw)


@pytest.mark.parametrize("comparison", comparisons(quick=True))
def test_the_first_taught_row_of_the_quick_form_runs(comparison, tmp_path, monkeypatch):
    """And its teacher, or else the first row; with tiny networks."""
    monkeypatch.setitem(models.MODELS, "tiny", tiny.Staged)
    rows = tuple(_tiny(row) if isinstance(row, Trained) else row for row in comparison.rows)
    every = [score for score in comparison.evals if score in ("knn", "linear")]
    evals = every[:1] or comparison.evals[:1]  # no other row may have the rest
    comparison = dataclasses.replace(comparison, rows=rows, evals=evals)
    made = cells.make(comparison, tmp_path)
    trained = [cell for cell in made if isinstance(comparison.row(cell.row), Trained)]
    first = next((cell for cell in trained if cell.needs), trained[0])
    assert run.run(comparison, (*first.needs, first)) == {}
    row = collect.of_cells(comparison, (first,), {}).row(first.row)
    assert np.isfinite(row.scores[comparison.evals[0]][0])
    assert row.steps == 4


def _tiny(row):
    raw = row.raw(0)
    raw.student.model, raw.student.options = "tiny", {}
    if raw.teacher.weights == "random":
        raw.teacher.model, raw.teacher.options = "tiny", {}
    return dataclasses.replace(row, config=raw, overrides={})


@pytest.mark.parametrize("name", EXPERIMENTS)
def test_each_experiment_has_a_page_with_its_command(name):
    folder = FOLDER / name
    readme = next(path for path in (folder, folder.parent) if (path / "README.md").exists()) / "README.md"
    assert f"compare experiments/{name}" in readme.read_text()
