"""Every experiment's `--quick` form: the file loads, its configs resolve, and its first cell runs."""

import dataclasses
from pathlib import Path

import numpy as np
import pytest
import tiny

from seed_jax import config, models
from seed_jax.compare import Trained, cells, collect, run, spec

EXPERIMENTS = sorted(Path(__file__).parents[2].glob("experiments/*/compare.py"))


def comparisons(quick):
    return [pytest.param(spec.load(path, quick), id=path.parent.name) for path in EXPERIMENTS]


def test_there_are_experiments():
    assert {"quickstart", "lite0"} <= {path.parent.name for path in EXPERIMENTS}


@pytest.mark.parametrize("comparison", comparisons(quick=False))
def test_the_full_form_resolves(comparison):
    assert len(comparison.seeds) >= 3
    for row in comparison.rows:
        if isinstance(row, Trained):
            config.resolve(row.raw(0))


@pytest.mark.parametrize("comparison", comparisons(quick=True))
def test_the_first_cell_of_the_quick_form_runs(comparison, tmp_path, monkeypatch):
    """With networks that compile in seconds."""
    monkeypatch.setitem(models.MODELS, "tiny", tiny.Tiny)
    rows = tuple(_tiny(row) if isinstance(row, Trained) else row for row in comparison.rows)
    comparison = dataclasses.replace(comparison, rows=rows)
    made = cells.make(comparison, tmp_path)
    first = next(cell for cell in made if isinstance(comparison.row(cell.row), Trained))
    assert run.run(comparison, (*first.needs, first)) == {}
    row = collect.of_cells(comparison, (first,), {}).row(first.row)
    assert np.isfinite(row.scores["knn"][0])
    assert row.steps == 4


def _tiny(row):
    raw = row.raw(0)
    raw.student.model, raw.student.options = "tiny", {}
    if raw.teacher.weights == "random":
        raw.teacher.model, raw.teacher.options = "tiny", {}
    return dataclasses.replace(row, config=raw, overrides={})


def test_each_experiment_says_what_it_claims():
    for path in EXPERIMENTS:
        readme = path.with_name("README.md").read_text()
        assert f"compare experiments/{path.parent.name}" in readme
