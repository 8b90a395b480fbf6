"""Cells: trained in order, once, alone and by two processes, through failures, kills and changes."""

import contextlib
import dataclasses
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import toy_comparison

from seed_jax.compare import Comparison, Trained, Untrained, cells, collect, run
from seed_jax.compare.__main__ import main
from seed_jax.errors import UserError
from seed_jax.evals import final
from seed_jax.report import metrics
from seed_jax.train import damage, loop, workdir

FILE = Path(toy_comparison.__file__)


def finish(comparison, out):
    made = cells.make(comparison, out)
    cells.refuse_changed(comparison, made)
    return made, run.run(comparison, made)


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    out = tmp_path_factory.mktemp("toys")
    comparison = toy_comparison.get_comparison()
    made, failed = finish(comparison, out)
    assert not failed
    return comparison, made, out


def facts(made):
    return {str(cell): (cell.folder / cells.FACTS).read_text() for cell in made}


def test_scores_are_those_of_the_evaluation(finished):
    comparison, made, _ = finished
    result = collect.of_cells(comparison, made, {})
    assert [row.name for row in result.rows] == [row.name for row in comparison.rows]
    row = result.row("SEED")
    for seed, place in zip(row.seeds, row.workdirs, strict=True):
        want = final.evaluate(place)
        assert want["parameters"] == row.parameters
        np.testing.assert_allclose(row.scores["knn"][seed], want["knn"])
        np.testing.assert_allclose(row.scores["linear"][seed], want["linear"])
    assert (row.steps, row.images) == (6, 96)
    assert row.cost.teacher_images == 96
    assert row.cost.flops > result.row("MoCo").cost.flops * 0.5 > 0
    assert row.settings["optim.lr"] == 0.1
    assert result.row("pixels").seeds == ()
    assert len(result.row("untrained").scores["knn"]) == 2


def test_the_untrained_student_is_the_run_at_step_0(finished):
    comparison, made, _ = finished
    cell = next(cell for cell in made if cell.row == "MoCo" and cell.seed == 1)
    raw = cells.config(comparison, cell)
    on_val = run.score_untrained("start", _validation(raw))
    first = next(row for row in metrics.read(cell.folder) if "knn" in row)
    assert first["step"] == 0
    np.testing.assert_allclose(np.mean(on_val.values["knn"]), first["knn"])


def test_teacher_and_raw_pixels_are_scored_as_the_run_scores_them_at_step_0(finished):
    comparison, made, _ = finished
    cell = next(cell for cell in made if cell.row == "SEED")
    raw = _validation(cells.config(comparison, cell))
    first = next(row for row in metrics.read(cell.folder) if "teacher_knn" in row)
    for weights, feature in (("teacher", "pooled"), ("pixels", "pooled"), ("pixels", "embedding")):
        raw.evals.feature = feature
        scores = run.score_untrained(weights, raw)
        np.testing.assert_allclose(np.mean(scores.values["knn"]), first[f"{weights}_knn"])


def test_without_a_teacher_there_is_none_to_score():
    with pytest.raises(UserError, match="moco has no teacher"):
        run.score_untrained("teacher", toy_comparison.config("moco"))


def _validation(raw):
    raw.data.test = raw.data.val
    return raw


def test_differences_are_paired_by_seed_and_image(finished):
    comparison, made, _ = finished
    result = collect.of_cells(comparison, made, {})
    for name in ("SEED", "untrained", "pixels"):
        row, base = result.row(name).scores["knn"], result.row("MoCo").scores["knn"]
        difference = result.difference(name, "knn")
        np.testing.assert_allclose(difference.points, np.mean(np.subtract(row, base)))
        assert difference.low <= difference.points <= difference.high
        assert (difference.seeds, difference.images) == (2, 352)
    assert result.difference("MoCo", "knn") is None


def test_finished_cells_are_not_run_again(finished, monkeypatch):
    comparison, made, out = finished
    monkeypatch.setattr(loop, "run", lambda *_, **__: pytest.fail("a finished cell was trained again"))
    before = facts(made)
    assert finish(comparison, out)[1] == {}
    assert facts(made) == before


def test_a_changed_cell_names_its_keys_and_is_not_run_again(finished):
    comparison, made, out = finished
    before = facts(made)
    rows = tuple(
        dataclasses.replace(row, overrides={"optim.lr": 0.07}) if row.name == "teacher" else row
        for row in comparison.rows
    )
    changed = dataclasses.replace(comparison, rows=rows)
    with pytest.raises(UserError, match=r"teacher, seed 0: optim.lr was 0.05 and is 0.07.*--again 'teacher'"):
        finish(changed, out)
    assert facts(made) == before


@pytest.mark.long
def test_again_runs_a_row_and_what_needs_it_and_leaves_the_others(tmp_path, capsys):
    arguments = [str(FILE), "--quick", "--out", str(tmp_path)]
    assert main(arguments) == 0
    comparison = toy_comparison.get_comparison(quick=True)
    made = {cell.row: cell for cell in cells.make(comparison, tmp_path)}
    before = facts(made.values())
    assert main([*arguments, "--again", "teacher"]) == 0
    after = facts(made.values())
    assert {name for name in before if before[name] != after[name]} == {"teacher, seed 0", "SEED, seed 0"}
    assert (tmp_path / "seed" / "seed0.old1" / "metrics.jsonl").exists()
    capsys.readouterr()
    made["teacher"].set_aside()
    assert main(arguments) == 1
    assert "SEED, seed 0: the row 'teacher' is to be run again: " in capsys.readouterr().err


@pytest.mark.long
def test_a_wrong_cell_stops_what_needs_it_and_nothing_else(tmp_path, monkeypatch, capsys):
    comparison = toy_comparison.get_comparison(quick=True)
    broken = dataclasses.replace(
        comparison,
        rows=(
            *(
                dataclasses.replace(row, overrides={"optim.lr": 1e38}) if row.name == "teacher" else row
                for row in comparison.rows
            ),
            Untrained("nowhere", "no/such/file.npz", like="MoCo"),
            Trained("crash", toy_comparison.config("moco")),
        ),
    )
    train = loop.run

    def run_or_crash(raw, directory, **options):
        if Path(directory).parent.name == "crash":
            raise RuntimeError("the device is on fire")
        return train(raw, directory, **options)

    monkeypatch.setattr(loop, "run", run_or_crash)
    made, failed = finish(broken, tmp_path)
    said = capsys.readouterr().out
    assert all(said.count(f"compare: {cell} failed: ") == 1 for cell in failed)
    why = {cell.row: sentence for cell, sentence in failed.items()}
    assert set(why) == {"teacher", "SEED", "nowhere", "crash"}
    assert "not finite" in why["teacher"]
    assert why["SEED"] == "it needs teacher, seed 0, which failed"
    assert "no/such/file.npz" in why["nowhere"]
    assert why["crash"].startswith("RuntimeError: the device is on fire")
    assert "on fire" in (tmp_path / "crash" / "seed0" / "error.txt").read_text()
    result = collect.of_cells(broken, made, failed)
    assert set(result.row("MoCo").scores) >= {"knn", "linear"}
    assert result.row("crash").scores == {}
    assert "on fire" in result.row("crash").failed[0]
    monkeypatch.setattr(loop, "run", train)  # mended: the next call tries again
    assert "crash" not in {cell.row for cell in finish(broken, tmp_path)[1]}


def start(out, *arguments):
    return subprocess.Popen(
        [sys.executable, "-m", "seed_jax.compare", FILE, "--out", out, *arguments],
        cwd=FILE.parent.parent.parent,
        env={**os.environ, "JAX_NUM_CPU_DEVICES": "8"},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


@pytest.mark.long
def test_two_processes_share_and_a_killed_one_loses_nothing(finished, tmp_path):
    """Two are started; one of them is killed; both together train each cell once, as one process did."""
    reference = {str(cell): cell for cell in finished[1]}
    killed, other = (start(tmp_path, "--quick") for _ in range(2))
    made = cells.make(toy_comparison.get_comparison(quick=True), tmp_path)
    deadline = time.time() + 900
    while not any(damage.saved_steps(cell.folder / "checkpoints") for cell in made):
        assert time.time() < deadline and None in (killed.poll(), other.poll())
        time.sleep(0.05)
    killed.send_signal(signal.SIGKILL)
    before, _ = killed.communicate()
    output, _ = other.communicate(timeout=900)
    assert other.returncode == 0, output
    assert (tmp_path / "report.html").exists()
    begun = re.findall(r"compare: cell \d+ of \d+: (.*)", before + output)
    assert len(begun) <= len(made) + 1  # the cell in which the kill came was begun again
    times = {"ended", "wall", "seconds"}
    for cell in made:
        same = reference[str(cell)]
        assert str(cell) in begun
        assert cell.scores() == same.scores()
        found, want = ({k: v for k, v in c.facts().items() if k not in times} for c in (cell, same))
        assert found == want


@pytest.mark.parametrize("file", [cells.LOCK, ".lock"], ids=["compare", "main.py"])
def test_a_cell_of_another_process_is_waited_for(tmp_path, monkeypatch, capsys, file):
    """While the cell is locked the call sleeps; the other process finishes it meanwhile."""
    comparison = dataclasses.replace(toy_comparison.get_comparison(quick=True), baseline="pixels")
    comparison = dataclasses.replace(comparison, rows=comparison.rows[1:2] + comparison.rows[4:])
    made = cells.make(comparison, tmp_path)
    finish(comparison, tmp_path)
    moco = next(cell for cell in made if cell.row == "MoCo")
    done = (moco.folder / cells.FACTS).read_text()
    (moco.folder / cells.FACTS).unlink()
    lock = contextlib.ExitStack()
    lock.enter_context(workdir.hold(moco.folder, file))
    capsys.readouterr()

    def sleep(seconds):
        (moco.folder / cells.FACTS).write_text(done)
        lock.close()

    monkeypatch.setattr(run.time, "sleep", sleep)
    monkeypatch.setattr(loop, "run", lambda *_, **__: pytest.fail("it was trained twice"))
    assert run.run(comparison, made) == {}
    assert "compare: cell" not in capsys.readouterr().out


def test_runs_that_exist(finished, tmp_path):
    _, made, out = finished
    runs = [cell.folder for cell in made if cell.row in ("MoCo", "SEED")]
    result = collect.of_workdirs(runs, "")
    names = {row.name: row for row in result.rows}
    assert set(names) == {str(out / "moco"), str(out / "seed")}
    assert names[str(out / "moco")].seeds == (0, 1)
    assert result.difference(next(n for n in names if n != result.baseline), "knn").seeds == 2
    with pytest.raises(UserError, match="Unknown row in --baseline"):
        collect.of_workdirs(runs, "elsewhere")


def test_rows_on_other_data_are_refused_before_any_is_trained():
    rows = [
        Trained("here", toy_comparison.config("moco")),
        Trained("nowhere", toy_comparison.config("moco"), {"data.source": "npz", "data.dir": "/no/such.npz"}),
        Trained("there", toy_comparison.config("moco"), {"data.source": "scattered"}),
    ]
    cells.refuse_other_images(Comparison("Toys", tuple(rows[:2]), "here", (0,)))
    with pytest.raises(UserError, match="'here' and 'there' would be scored on other images: give all rows"):
        cells.refuse_other_images(Comparison("Toys", tuple(rows), "here", (0,)))


def test_runs_on_other_data_are_refused_and_named(finished, tmp_path):
    _, made, _ = finished
    one = next(cell.folder for cell in made if cell.row == "MoCo")
    raw = toy_comparison.config("moco")
    raw.data.source, raw.data.image_size = "scattered", 16
    loop.run(raw, tmp_path / "scattered")
    with pytest.raises(UserError, match=f"{one} and {tmp_path}/scattered were scored on other images"):
        collect.of_workdirs([one, tmp_path / "scattered"], "")
