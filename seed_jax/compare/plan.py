"""What a comparison will run, and about how long that takes: `seed-jax compare FILE --plan`."""

import contextlib
import io
import tempfile
import time
from collections.abc import Collection, Sequence
from pathlib import Path

import ml_collections

from seed_jax import config as config_lib
from seed_jax.compare.cells import Cell
from seed_jax.compare.spec import Comparison, Trained
from seed_jax.data.sources import open_source
from seed_jax.report import metrics
from seed_jax.report.tables import Table
from seed_jax.train import build, inputs, loop
from seed_jax.train.monitor import say

STEPS = 8  # of a measurement; the first one compiles and is not timed


def table(comparison: Comparison, cells: Sequence[Cell], again: Collection[Cell] = ()) -> tuple[Table, float]:
    """A table with a line for each row, and the seconds that all cells to run will take.

    Finished cells tell the time of their row. For other rows 8 steps are trained in a temporary folder, with
    a random teacher of the same form in place of one that another row will train; probes, checkpoints and
    evaluations are not counted then.

    Args:
      again: finished cells that are to be run again.
    """
    lines, total = [], 0.0
    for name in comparison.in_order():
        row = comparison.row(name)
        mine = [cell for cell in cells if cell.row == name]
        done = [cell for cell in mine if cell.finished() and cell not in again]
        left = len(mine) - len(done)
        if isinstance(row, Trained):
            steps = _steps(row.raw(comparison.seeds[0]))
            if not done:
                say(f"compare: timing {STEPS} steps of {name}")
            other, each = _measured(done) or _trial(comparison, row)
            seconds = left * (other + steps * each)
            total += seconds
            speed = f"{each:.3g} s"
            lines.append([name, len(mine), left, f"{steps:,}", speed, f"{seconds / 60:.1f}"])
        else:
            lines.append([name, len(mine), left, None, None, None])
    return Table(["row", "cells", "to run", "steps of each", "a step", "minutes"], lines), total


def _train_split(raw):
    resolved = config_lib.resolve(raw)
    d = inputs.settled(resolved)
    return open_source(d.source, d.train, dir=d.dir or None, subset=d.subset, seed=resolved.train.seed)


def _steps(raw) -> int:
    return build.lengths(config_lib.resolve(raw), len(_train_split(raw))).total


def _measured(cells: Sequence[Cell]) -> tuple[float, float] | None:
    """Mean seconds of a finished cell besides its steps (compiling, probes, evaluation), and of a step."""
    facts = [cell.facts() for cell in cells]
    if not facts:
        return None
    steps = sum(fact["steps"] for fact in facts)
    seconds = sum(fact["seconds"] for fact in facts)
    other = sum(fact["wall"] for fact in facts) - seconds
    return max(0.0, other) / len(facts), seconds / steps  # `wall` lacks attempts that were killed


def _trial(comparison: Comparison, row: Trained) -> tuple[float, float]:
    """Seconds of a short run before and after its steps, and of a step."""
    raw = row.raw(comparison.seeds[0])
    if row.teacher:
        of_teacher = comparison.row(row.teacher).raw(comparison.seeds[0])
        options = of_teacher.student.options.to_dict()
        if classes := _train_split(of_teacher).num_classes:
            options["num_classes"] = classes  # the method may need logits
        raw.teacher.update(weights="random", model=of_teacher.student.model)
        raw.teacher.options = ml_collections.ConfigDict(options)
    if row.start:
        raw.student.init = ""
    raw.train.update(epochs=0.0, steps=STEPS, examples=0)
    raw.optim.warmup_epochs = 0.0
    raw.evals.names = ()
    raw.log.update(every_steps=STEPS // 2, wandb="", tensorboard=False)
    began = time.time()
    with tempfile.TemporaryDirectory() as place, contextlib.redirect_stdout(io.StringIO()):
        loop.run(raw, place, name=row.name)
        last = metrics.read(Path(place))[-1]
    each = raw.data.batch_size / last["images_per_second"]
    return max(0.0, time.time() - began - STEPS * each), each
