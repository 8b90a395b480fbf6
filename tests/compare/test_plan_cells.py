"""What cells keep of their past, what `--again` takes, and the plan of a comparison; little is trained."""

import dataclasses
import json
import shutil
import time
from types import SimpleNamespace

import jax
import numpy as np
import pytest
import tiny
import toy_comparison
from PIL import Image

from seed_jax import config
from seed_jax.compare import Comparison, Trained, Untrained, cells, plan, run
from seed_jax.compare.__main__ import main
from seed_jax.train import workdir


def folder(path, first):
    """Two classes of ten small images in each split."""
    draw = np.random.default_rng(first)
    for split in ("train", "val", "test"):
        for name in ("a", "b"):
            (path / split / name).mkdir(parents=True)
            for i in range(10):
                size = (16, 16 + first, 3)
                Image.fromarray(draw.integers(0, 256, size, np.uint8)).save(path / split / name / f"{i}.png")
    return path


def comparison(**overrides):
    rows = (
        Trained("MoCo", toy_comparison.config("moco"), overrides),
        Untrained("before", "start", like="MoCo"),
        Untrained("pixels", "pixels", like="MoCo"),
    )
    return Comparison("Toys", rows, baseline="MoCo", seeds=(0, 1))


def finish(of, cell, **facts):
    """Finish a cell without running it."""
    raw, row = cells.config(of, cell), of.row(cell.row)
    workdir.claim(cell.folder, raw)
    facts = {"needs": {}, "data": cells.fingerprints(raw)} | facts
    cell.finish(time.time(), {}, **facts, **({} if isinstance(row, Trained) else {"weights": row.weights}))


@pytest.fixture
def finished(tmp_path):
    of = comparison()
    made = cells.make(of, tmp_path)
    for cell in made:
        finish(of, cell)
    return of, made


def changed(of, made):
    return {str(cell): why for cell in made if (why := cells.changes(of, cell))}


def test_each_row_notices_the_settings_that_matter_to_it(finished):
    of, made = finished
    assert changed(of, made) == {}
    assert {*changed(comparison(**{"optim.lr": 0.3}), made)} == {"MoCo, seed 0", "MoCo, seed 1"}
    why = changed(comparison(**{"evals.k": 7, "log.every_steps": 2}), made)
    assert {*why} == {*map(str, made)}
    assert {*why.values()} == {"evals.k was 10 and is 7"}
    rows = (*of.rows[:2], Untrained("pixels", "start", like="MoCo"))
    why = changed(dataclasses.replace(of, rows=rows), made)
    assert why == {"pixels": "weights was 'pixels' and is 'start'"}
    assert changed(dataclasses.replace(of, seeds=(1, 0)), made) == {}


def test_data_elsewhere_must_have_the_same_images(tmp_path):
    here, other = folder(tmp_path / "here", 1), folder(tmp_path / "other", 2)
    moved = shutil.copytree(here, tmp_path / "moved")

    def of(place):
        return comparison(**{"data.source": "imagefolder", "data.dir": str(place)})

    made = cells.make(of(here), tmp_path / "out")
    for cell in made:
        finish(of(here), cell)
    assert changed(of(moved), made) == {}
    why = changed(of(other), made)
    assert {*why} == {*map(str, made)}
    assert all(f"is '{other}', which has other images" in reason for reason in why.values())


def test_again_takes_what_needs_a_row_through_others(tmp_path):
    config = toy_comparison.config("seed")
    rows = (
        Trained("third", config, teacher="second"),
        Trained("second", config, start="first"),
        Trained("first", config),
        Untrained("teacher of third", "teacher", like="third"),
        Untrained("alone", "pixels", like="third"),
    )
    made = cells.make(Comparison("t", rows, baseline="first", seeds=(0,)), tmp_path)
    found = {name: {cell.row for cell in cells.again(made, [name])} for name in ("first", "third", "alone")}
    assert found["first"] == {"first", "second", "third", "teacher of third"}
    assert found["third"] == {"third"}
    assert found["alone"] == {"alone"}


def test_wall_adds_up_over_attempts(tmp_path):
    cell = cells.make(comparison(), tmp_path)[0]
    now = time.time()
    cell.stop(now - 100)
    cell.fail(now - 10, "the disk is full")
    assert cell.failure(now) == "the disk is full" and not cell.finished()
    cell.finish(now - 1, {})
    assert cell.finished()
    assert 111 <= cell.facts()["wall"] < 121


def test_a_random_teacher_has_a_cell_for_each_seed():
    rows = (Trained("SEED", tiny.get_config("seed")), Untrained("its teacher", "teacher", like="SEED"))
    assert Comparison("t", rows, baseline="SEED").each_seed("its teacher")


@pytest.mark.parametrize(
    ("steps_per_epoch", "images"),
    [(3, 2 * 40 + 16), (2, 7 * 16)],
    ids=["the last batch of 8 is kept", "the last batch is dropped"],
)
def test_images_seen(steps_per_epoch, images):
    manifest = {"steps_per_epoch": steps_per_epoch, "data": {"images": 40}}
    assert run.images_seen(7, 16, manifest) == images


def test_the_plan_of_finished_cells_is_what_they_took(tmp_path):
    of = comparison()
    made = cells.make(of, tmp_path)
    finish(of, made[0], steps=6, seconds=12.0)
    facts = made[0].facts() | {"wall": 42.0}
    (made[0].folder / cells.FACTS).write_text(json.dumps(facts))
    table, seconds = plan.table(of, made)
    assert table.cells()[0] == ["MoCo", "2", "1", "6", "2 s", "0.7"]
    assert seconds == pytest.approx(42.0)


def test_the_plan_times_a_row_and_logs_nowhere(tmp_path):
    of = comparison(**{"log.wandb": "a project of a package that is not installed"})
    of = dataclasses.replace(of, seeds=(0,))
    made = cells.make(of, tmp_path)
    table, seconds = plan.table(of, made)
    assert [line[:4] for line in table.cells()][0] == ["MoCo", "1", "1", "6"]
    assert seconds > 0
    assert not any(tmp_path.iterdir())


def test_the_plan_gives_a_random_teacher_a_classifier(monkeypatch):
    """Also a teacher whose own method needs no labels; one of unlabelled data has none."""
    seen = []

    def noted(raw, place, name):
        seen.append(raw.teacher.options.to_dict())
        raise InterruptedError

    monkeypatch.setattr(plan.loop, "run", noted)
    student, other = config.default("kd"), config.default("moco")
    for raw in (student, other):
        raw.data.source = "digits"
        raw.student.model = "cifar_resnet8"
    rows = (Trained("teacher", other), Trained("taught", student, teacher="teacher"))
    of = Comparison("Toys", rows, baseline="taught", seeds=(0,))
    for classes, want in ((10, {"num_classes": 10}), (0, {})):
        monkeypatch.setattr(plan, "_train_split", lambda raw, n=classes: SimpleNamespace(num_classes=n))
        with pytest.raises(InterruptedError):
            plan._trial(of, of.row("taught"))
        assert seen[-1] == want


def test_several_processes_of_one_run_are_refused(monkeypatch, capsys):
    monkeypatch.setattr(jax, "process_count", lambda: 2)
    assert main([toy_comparison.__file__]) == 1
    assert "start it without JAX_COORDINATOR_ADDRESS" in capsys.readouterr().err


def test_seeds_are_run_alone_and_the_page_has_all(tmp_path, monkeypatch):
    seen = {}
    monkeypatch.setattr(run, "run", lambda of, made: seen.update(run={c.seed for c in made}) or {})
    monkeypatch.setattr("seed_jax.compare.collect.of_cells", lambda of, made, _: {c.seed for c in made})
    monkeypatch.setattr(
        "seed_jax.compare.__main__._show", lambda result, out, arguments: seen.update(page=result)
    )
    assert main([toy_comparison.__file__, "--seeds", "1", "5", "--out", str(tmp_path)]) == 0
    assert seen == {"run": {1, 5, None}, "page": {0, 1, 5, None}}


def test_a_missing_file_is_a_mistake_only_of_rows_that_read_it(tmp_path):
    seed = toy_comparison.config("seed")
    seed.teacher.weights = "nowhere"
    rows = (
        Trained("teacher", toy_comparison.config("moco")),
        Trained("taught", seed, teacher="teacher"),
        *(Untrained(f"untrained {w}", w, like="taught") for w in ("start", "teacher", "pixels")),
        Trained("untaught", seed),
        Untrained("other weights", "nowhere.pth", like="taught"),
    )
    of = Comparison("Toys", rows, baseline="taught", seeds=(0,))
    found = {cell.row: why for cell in cells.make(of, tmp_path) if (why := cells.mistake(of, cell))}
    assert found.keys() == {"untaught", "other weights"}
    assert found["untaught"].startswith("teacher.weights: there is no file or workdir 'nowhere'")
    assert found["other weights"].startswith("There is no file or workdir 'nowhere.pth'")
