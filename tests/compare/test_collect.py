"""Runs that exist become rows: which runs belong together, what they are called, which scores are kept."""

import json
import types
from pathlib import Path

import numpy as np
import pytest
import toy_comparison

from seed_jax.compare import Comparison, Trained, cells, collect, page, run
from seed_jax.errors import UserError
from seed_jax.train import checkpoint, workdir

VERSIONS = {"jax": "1.0", "flax": "1.0", "optax": "1.0", "numpy": "1.0"}


@pytest.fixture
def place(tmp_path, monkeypatch):
    """The current folder. A run in it is its config and manifest; each is scored as its list `measured` says.

    `measured` has the runs in the order in which they were scored.
    """
    monkeypatch.chdir(tmp_path)
    measured = []

    def score(directory):
        measured.append(str(directory))
        return scores(np.arange(40) % 2)

    monkeypatch.setattr(run, "score_workdir", score)
    monkeypatch.setattr(run, "costs", lambda directory: {"steps": 6, "images": 96})
    monkeypatch.setattr(checkpoint, "step_of", lambda directory: 6)
    return types.SimpleNamespace(path=tmp_path, measured=measured)


def scores(right, **more):
    values = {"knn": np.asarray(right).tolist(), "linear": np.asarray(right).tolist()}
    last = {"values": values, "parameters": 5, "step": 6, "split": "test", "images": "abc", **more}
    return {"last": last, "best": None}


def make(
    place, name, seed, *, lr=0.1, started="2026-01-01", teacher=None, weights="random", versions=VERSIONS
):
    raw = toy_comparison.config("seed")
    raw.train.seed, raw.optim.lr, raw.teacher.weights = seed, lr, weights
    directory = place.path / name
    directory.mkdir(parents=True, exist_ok=True)
    (directory / "config.json").unlink(missing_ok=True)
    workdir.claim(directory, raw)
    manifest = {
        "started": started,
        "versions": versions,
        "commit": "c0ffee",
        "devices": "1 x cpu",
        "data": {},
    }
    (directory / "manifest.json").write_text(json.dumps(manifest | {"teacher": teacher, "init": None}))


def rows(*names, baseline=""):
    result = collect.of_workdirs([*map(Path, names)], baseline)
    return {row.name: row.seeds for row in result.rows}


def test_every_row_has_a_name_of_its_own(place):
    for name, lr in (("a", 0.1), ("b", 0.2)):
        for seed in (0, 1):
            make(place, f"runs/{name}{seed}", seed, lr=lr)
    assert rows("runs/a0", "runs/a1", "runs/b0", "runs/b1") == {
        "runs/a0 + runs/a1": (0, 1),
        "runs/b0 + runs/b1": (0, 1),
    }
    absolute = str(place.path / "runs/b1")
    assert rows("runs/a0", "runs/b0", absolute) == {"runs/a0": (0,), f"runs/b0 + {absolute}": (0, 1)}


def test_seeds_of_one_folder_have_its_name_unless_two_rows_would(place):
    for seed in (0, 1, 2, 3):
        make(place, f"a/seed{seed}", seed, lr=0.1 if seed < 2 else 0.2)
    assert rows("a/seed0", "a/seed1") == {"a": (0, 1)}
    assert rows("a/seed0", "a/seed1", "a/seed2", "a/seed3") == {
        "a/seed0 + a/seed1": (0, 1),
        "a/seed2 + a/seed3": (2, 3),
    }


def test_a_run_named_twice_is_refused(place):
    make(place, "a", 0)
    with pytest.raises(UserError, match="The run x/../a is named twice"):
        rows("a", "x/../a")


def test_a_folder_without_a_manifest_is_no_run(place):
    make(place, "a", 0)
    (place.path / "a" / "manifest.json").unlink()
    with pytest.raises(UserError, match="a is not the workdir of a run: it has no config.json and manifest"):
        rows("a")


@pytest.mark.parametrize("order", [(0, 1, 2, 3), (0, 3, 2, 1), (2, 1, 0, 3)])
def test_runs_of_other_teachers_are_other_rows_in_any_order(place, order):
    for seed in (0, 1):
        make(place, f"good{seed}", seed, teacher={"file": "good.npz", "sha256": "1" * 64})
        make(place, f"bad{seed}", seed, teacher={"file": "bad.npz", "sha256": "2" * 64})
    names = ["good0", "good1", "bad0", "bad1"]
    found = rows(*(names[i] for i in order))
    assert {frozenset(name.split(" + ")) for name in found} == {
        frozenset({"good0", "good1"}),
        frozenset({"bad0", "bad1"}),
    }


def test_a_teacher_of_the_same_seed_is_one_row_and_another_recipe_is_not(place):
    for seed in (0, 1):
        for name, lr in (("teacher", 0.1), ("other", 0.3)):
            make(place, f"{name}/seed{seed}", seed, lr=lr)
            facts = {"source": f"{name}/seed{seed}", "step": 6}
            make(place, f"of-{name}/seed{seed}", seed, teacher=facts, weights=facts["source"])
    students = [f"of-{name}/seed{seed}" for seed in (0, 1) for name in ("teacher", "other")]
    assert rows(*students) == {"of-teacher": (0, 1), "of-other": (0, 1)}
    result = collect.of_workdirs([*map(Path, students)], "")
    assert page.settings_table(result).cells() == [["teacher.weights", "teacher", "other"]]
    assert [row.needs for row in result.rows] == [(), ()]


def test_the_teacher_among_the_runs_is_known_and_costs_are_without_its_training(place):
    make(place, "teacher", 0)
    facts = {"source": str(place.path / "teacher"), "step": 6}
    make(place, "student", 0, teacher=facts, weights=facts["source"])
    result = collect.of_workdirs([Path("student"), Path("teacher")], "")
    assert {row.name: row.needs for row in result.rows} == {"student": ("teacher",), "teacher": ()}
    assert result.notes == ("Costs of 'student' are without the training of 'teacher'.",)
    for i, lr in enumerate((0.3, 0.4)):
        make(place, f"student{i}", 0, lr=lr, teacher=facts, weights=facts["source"])
    result = collect.of_workdirs([Path(name) for name in ("student", "student0", "student1", "teacher")], "")
    assert "Costs of 3 rows are without the training of 'teacher'." in result.notes


def test_two_seeds_have_a_note_and_three_have_none(place):
    for seed in (0, 1, 2):
        for name, lr in (("a", 0.1), ("b", 0.2)):
            make(place, f"{name}/seed{seed}", seed, lr=lr)
    six = [Path(f"{name}/seed{seed}") for seed in (0, 1, 2) for name in "ab"]
    assert collect.of_workdirs(six[:4], "").notes == (collect.TWO_SEEDS,)
    assert collect.of_workdirs(six, "").notes == ()


def test_scores_are_measured_again_when_the_folder_has_another_run(place):
    make(place, "a", 0)
    make(place, "b", 1)
    rows("a", "b")
    rows("a", "b")
    assert place.measured == ["a", "b"]
    make(place, "a", 0, lr=0.2)
    make(place, "b", 1, started="2026-01-02")
    rows("a", "b")
    assert place.measured == ["a", "b", "a", "b"]


def test_a_finished_cell_keeps_its_scores(place):
    make(place, "a/seed0", 0)
    cell = cells.Cell("a", 0, place.path / "a/seed0", ())
    cell.finish(0.0, scores(np.ones(40)))
    before = cell.identity()
    rows("a/seed0")
    assert (place.measured, cell.identity()) == ([], before)


def test_provenance_is_that_of_the_runs(place):
    make(place, "a", 0)
    make(place, "b", 0, lr=0.2, versions={**VERSIONS, "jax": "1.1"})
    facts = collect.of_workdirs([Path("a"), Path("b")], "").provenance
    assert (facts["versions"], facts["commit"]) == (
        "flax 1.0, jax 1.0, jax 1.1, numpy 1.0, optax 1.0",
        "c0ffee",
    )


def cells_of(place, values, **more):
    """The cells of two rows, `a` and `b`, with the scores that are given, and the comparison."""
    evals = more.pop("evals", ("knn",))
    comparison = Comparison(
        "t", tuple(Trained(name, toy_comparison.config("moco")) for name in "ab"), "a", (0,), evals
    )
    made = cells.make(comparison, place.path / "out")
    for cell in made:
        make(place, cell.folder.relative_to(place.path), 0)
        found = scores(np.arange(40) % 2, **more)
        found["last"]["values"] |= values[cell.row]
        cell.finish(0.0, found, steps=6, images=96)
    return comparison, made


def test_one_number_of_one_seed_shows_no_difference_and_says_why(place, tmp_path):
    comparison, made = cells_of(place, {"a": {"knn": 0.5}, "b": {"knn": 0.501}})
    result = collect.of_cells(comparison, made, {})
    assert result.difference("b", "knn") is None
    (note,) = result.notes
    assert note.startswith("b: knn is one number for one seed, so no difference from a can be shown")
    assert note in page.write(result, tmp_path / "page").read_text()
    assert "train.seed" not in result.row("a").settings


def test_a_note_about_the_split_is_said_once(place):
    comparison, made = cells_of(place, {"a": {}, "b": {}}, note="One split stands for both.")
    assert collect.of_cells(comparison, made, {}).notes == ("One split stands for both.",)


def test_a_score_that_no_row_has_is_refused_unless_a_row_failed(place):
    comparison, made = cells_of(place, {"a": {"rank": 70.0}, "b": {}}, evals=("knn", "top5"))
    with pytest.raises(UserError, match="Unknown score in evals 'top5': it is one of knn, linear"):
        collect.of_cells(comparison, made, {})
    result = collect.of_cells(comparison, made, {made[1]: "the disk is full"})
    assert set(result.row("a").scores) == {"knn", "linear"}  # a rank is no share


def test_cells_that_failed_before_are_named_with_what_needs_them(place):
    """The call ran seed 0 alone, and its teacher failed; seed 1 failed earlier."""
    config = toy_comparison.config("moco")
    trained = (
        Trained("alone", config),
        Trained("teacher", config),
        Trained("SEED", config, teacher="teacher"),
    )
    comparison = Comparison("t", trained, "alone", (0, 1), ("knn",))
    made = cells.make(comparison, place.path / "out")
    cell = {(cell.row, cell.seed): cell for cell in made}
    for seed in (0, 1):
        make(place, cell["alone", seed].folder.relative_to(place.path), seed)
        cell["alone", seed].finish(0.0, scores(np.arange(40) % 2), steps=6, images=96)
        cell["teacher", seed].folder.mkdir(parents=True)
        cell["teacher", seed].fail(0.0, f"broken {seed}")
    this_call = {cell["teacher", 0]: "broken 0", cell["SEED", 0]: "it needs teacher, seed 0, which failed"}
    result = collect.of_cells(comparison, made, this_call)
    assert result.row("alone").failed == ()
    assert result.row("teacher").failed == ("seed 0: broken 0", "seed 1: broken 1")
    assert result.row("SEED").failed == (
        "seed 0: it needs teacher, seed 0, which failed",
        "seed 1: it needs teacher, seed 1, which failed",
    )
    assert result.row("teacher").parameters is None
    assert result.row("SEED").needs == ("teacher",)
