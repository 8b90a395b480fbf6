"""Run the cells of a comparison in dependency order; several processes may share the work."""

import dataclasses
import time
import traceback
from collections.abc import Collection
from pathlib import Path

import jax
import numpy as np

from seed_jax import config as config_lib
from seed_jax import parallel
from seed_jax.compare import cells as cells_lib
from seed_jax.compare.cells import Cell
from seed_jax.compare.spec import Comparison, Trained
from seed_jax.data import files
from seed_jax.data.sources import open_source
from seed_jax.errors import UserError
from seed_jax.evals import final, pixels
from seed_jax.report import metrics
from seed_jax.train import build, checkpoint, loop, plan, state, student, teacher, workdir
from seed_jax.train.monitor import say
from seed_jax.train.stop import Stopped
from seed_jax.weights import pretrained

WAIT = 5.0  # seconds between looks at cells that other processes run


def run(comparison: Comparison, cells: tuple[Cell, ...]) -> dict[Cell, str]:
    """Run the unfinished cells; return the reason of each that failed.

    A cell whose config has a mistake fails before the first one runs. A cell that another process runs is
    waited for. A cell that fails does not stop the others. A later call runs it again, and resumes its
    training. Finished cells are left as they are (`cells.refuse_changed`).

    Raises:
      Stopped: a signal came during training; the state is saved.
    """
    started, failed, waiting = time.time(), {}, False
    progress = Progress(comparison, cells)
    for cell in cells:
        if not cell.finished() and (why := cells_lib.mistake(comparison, cell)):
            cell.fail(time.time(), why)
    while left := [cell for cell in cells if not (cell.finished() or cell in failed)]:
        progressed = False
        for cell in left:
            why, attempted = _reason(cell, failed, started), False
            if not why and all(needed.finished() for needed in cell.needs):
                attempted = _attempt(comparison, cell, progress)
                why = _reason(cell, failed, started)
            if why:
                failed[cell] = why
                say(f"compare: {cell} failed: {why}")
            if attempted:
                progress.end(failed)
            progressed |= attempted or bool(why)
        if not progressed:
            if not waiting:
                say("compare: another process is running the remaining cells; waiting for it")
            waiting = True
            time.sleep(WAIT)
    return failed


def _reason(cell: Cell, failed: dict[Cell, str], started: float) -> str:
    """Why a cell cannot be finished in this call; '' if it can."""
    for needed in cell.needs:
        if needed in failed:
            return f"it needs {needed}, which failed"
    return cell.failure(started)


def _attempt(comparison: Comparison, cell: Cell, progress: "Progress") -> bool:
    """Run a cell unless another process does; return whether it was run."""
    try:
        with workdir.hold(cell.folder, cells_lib.LOCK):
            if cell.finished():
                return True
            with workdir.hold(cell.folder):
                pass  # no other command trains in it
            progress.begin(cell)
            began = time.time()
            try:
                _train_and_score(comparison, cell, began, progress.alike(cell))
            except Stopped:
                cell.stop(began)
                raise
            except workdir.InUse:
                raise
            except UserError as error:
                cell.fail(began, str(error))
            except Exception as error:  # a broken cell must not stop the others, whatever broke it
                (cell.folder / "error.txt").write_text(traceback.format_exc())
                where = f"{cell.folder}/error.txt has more"
                cell.fail(began, f"{type(error).__name__}: {_first_line(error)} ({where})")
    except workdir.InUse:
        return False
    return True


def _train_and_score(comparison: Comparison, cell: Cell, began: float, alike: dict) -> None:
    row = comparison.row(cell.row)
    needs = {needed.row: needed.identity() for needed in cell.needs}
    raw = cells_lib.config(comparison, cell)
    if isinstance(row, Trained):
        loop.run(raw, cell.folder, name=str(cell))
        say(f"{cell}: scoring on the test split")
        facts = costs(cell.folder, alike)
        scores = score_workdir(cell.folder)
    else:
        workdir.claim(cell.folder, raw)
        facts = {"weights": row.weights}
        scores = {"last": _plain(score_untrained(row.weights, raw)), "best": None}
    cell.finish(began, scores, needs=needs, data=cells_lib.fingerprints(raw), **facts)


def score_workdir(directory: Path) -> dict:
    """Scores at the last checkpoint, and at the one with the best score on the validation split."""
    last = final.score_run(directory)
    best = None
    if metrics.last_score(metrics.read(directory)) is not None:
        same = checkpoint.step_of(directory, best=True) == last.step
        best = last if same else final.score_run(directory, best=True)
    return {"last": _plain(last), "best": best and _plain(best)}


def score_untrained(weights: str, raw) -> final.Scores:
    """Scores of a network that is not trained; `Untrained.weights` says which network."""
    resolved = config_lib.resolve(raw)
    if weights == "start":
        return _score_start(resolved)
    if weights == "pixels":
        return _score_pixels(resolved)
    if weights == "teacher":
        if not resolved.method.needs_teacher:
            raise UserError(f"The method {resolved.method_name} has no teacher: use weights='start'.")
        t = resolved.train
        size = resolved.data.image_size
        loaded = teacher.load(resolved.teacher, image_size=size, seed=t.seed, precision=t.precision)
    else:
        loaded = pretrained.load(weights)
    return final.score_network(loaded.network, loaded.variables, resolved)


def _score_pixels(resolved: config_lib.Config) -> final.Scores:
    d = resolved.data.settled()
    splits = (d.bank or d.train, d.val, d.test)
    bank, val, test = (len(open_source(d.source, split, dir=d.dir or None)) for split in splits)
    raw, of_raw = pixels.scored(resolved, bank, max(val, test))
    return final.score_network(raw, pixels.VARIABLES, of_raw)


def _score_start(resolved: config_lib.Config) -> final.Scores:
    mesh = parallel.make_mesh()
    with jax.set_mesh(mesh):
        p = build.prepare(resolved, mesh, "start")
        t = p.training
        current = t.fresh(p.backbone)
        network, _ = student.served(p.config.method, t.student, p.given)
        return final.score_network(network, state.served(p.config.method, current), p.config)


def costs(directory: Path, alike: dict | None = None) -> dict:
    """Steps, images, seconds of training, FLOPs, memory and teacher's images of a finished run.

    Seconds are those of the steps: without compiling, probes, checkpoints and what precedes the first one.
    FLOPs, memory and the teacher's images are those of `plan.make` on one device, with what the teacher sees
    before the training, and absent if the data or the teacher is not here.

    Args:
      alike: costs of a run whose settings differ in the seed alone; spares the plan.
    """
    rows, batch = metrics.read(directory), workdir.settings_of(directory)["data.batch_size"]
    steps = max((row["step"] for row in rows if "loss" in row), default=0)
    _, seconds = metrics.clock(rows, batch)
    images = images_seen(steps, batch, files.read_json(directory / "manifest.json"))
    found = {"steps": steps, "images": images, "seconds": float(seconds[-1])}
    if alike and "flops" in alike and alike["images"] == images:
        return found | {key: alike[key] for key in ("flops", "memory", "teacher_images")}
    try:
        made = plan.make(config_lib.resolve(workdir.raw_of(directory)), devices=1)
    except UserError:
        return found
    return {
        **found,
        "flops": made.offline_flops + images / batch * made.step_flops,
        "memory": made.device_bytes,
        "teacher_images": made.offline_images + round(images * made.teacher_images),
    }


def images_seen(steps: int, batch: int, manifest: dict) -> int:
    """Images that a run sees in that many steps; the last batch of an epoch may be shorter."""
    epochs, rest = divmod(steps, manifest["steps_per_epoch"])
    return epochs * min(manifest["steps_per_epoch"] * batch, manifest["data"]["images"]) + rest * batch


def _plain(scores: final.Scores) -> dict:
    """As JSON: values in [0, 1]; a list has one for each image."""
    values = {
        name: value.astype(float).round(6).tolist() if isinstance(value, np.ndarray) else float(value)
        for name, value in scores.values.items()
    }
    return {**dataclasses.asdict(dataclasses.replace(scores, values={})), "values": values}


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [""])[0][:200]


class Progress:
    """Says which cell runs, how many are finished, and about how long the rest will take."""

    def __init__(self, comparison: Comparison, cells: tuple[Cell, ...]):
        self._cells, self._number = cells, {cell: n for n, cell in enumerate(cells, start=1)}
        self._trained = {row.name for row in comparison.rows if isinstance(row, Trained)}

    def alike(self, cell: Cell) -> dict:
        """The facts of a finished cell of the same row; {} if there is none."""
        return next((c.facts() for c in self._cells if c.row == cell.row and c.finished()), {})

    def begin(self, cell: Cell) -> None:
        say(f"compare: cell {self._number[cell]} of {len(self._cells)}: {cell}")

    def end(self, failed: Collection[Cell]) -> None:
        finished = [cell for cell in self._cells if cell.finished()]
        hopeless = {*failed}
        for cell in self._cells:  # each after the cells that it needs
            if hopeless & {*cell.needs}:
                hopeless.add(cell)
        left = [cell for cell in self._cells if cell not in finished and cell not in hopeless]
        wall = {c: c.facts()["wall"] for c in finished}
        seconds = sum(self._expected(c, wall) for c in left)
        say(f"compare: {len(finished)} of {len(self._cells)} cells finished{_about(seconds)}")

    def _expected(self, cell: Cell, wall: dict[Cell, float]) -> float:
        """Mean of the finished cells of the same row, else of its kind, else of all."""
        kind = cell.row in self._trained
        for alike in (
            [w for c, w in wall.items() if c.row == cell.row],
            [w for c, w in wall.items() if (c.row in self._trained) == kind],
            list(wall.values()),
        ):
            if alike:
                return sum(alike) / len(alike)
        return 0.0


def _about(seconds: float) -> str:
    return f", about {max(1, round(seconds / 60))} min left" if seconds else ""
