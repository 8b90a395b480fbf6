"""The cells of a comparison on disk: a row and a seed, which is a workdir with two more files."""

import contextlib
import dataclasses
import hashlib
import json
import time
from collections.abc import Collection, Sequence
from pathlib import Path

import ml_collections

from seed_jax import config as config_lib
from seed_jax.compare.spec import Comparison, Trained, Untrained, slug
from seed_jax.data import files
from seed_jax.data.sources import listed_once, open_source
from seed_jax.errors import UserError
from seed_jax.train import inputs, workdir
from seed_jax.weights import source

FACTS, SCORES, LOCK = "cell.json", "scores.json", ".cell.lock"
# Keys that do not change the result, and those whose content is identified by other means.
FREE = {"data.workers", "data.dir", "teacher.weights", "student.init"}


@dataclasses.dataclass(frozen=True)
class Cell:
    """A row and a seed.

    Attributes:
      row: the name of the row.
      seed: None for a row that has one cell.
      folder: of the cell; the workdir of its run.
      needs: the cells that must be finished before.
    """

    row: str
    seed: int | None
    folder: Path
    needs: tuple["Cell", ...]

    def __str__(self) -> str:
        return self.row if self.seed is None else f"{self.row}, seed {self.seed}"

    def facts(self) -> dict:
        """What the last attempt at the cell left; {} if there was none.

        `wall` has the seconds of all attempts so far, without those that were killed.
        """
        path = self.folder / FACTS
        return files.read_json(path) if path.exists() else {}

    def finished(self) -> bool:
        return self.facts().get("status") == "finished"

    def failure(self, since: float) -> str:
        """Why an attempt that ended after the time `since` failed; '' if none did."""
        facts = self.facts()
        return facts["error"] if facts.get("status") == "failed" and facts["ended"] >= since else ""

    def finish(self, began: float, scores: dict, **facts) -> None:
        """Write the scores, and then that the cell is finished; this attempt began at the time `began`."""
        write(self.folder / SCORES, scores)
        self._note("finished", began, **facts)

    def fail(self, began: float, error: str) -> None:
        self._note("failed", began, error=error)

    def stop(self, began: float) -> None:
        self._note("stopped", began)

    def scores(self) -> dict:
        return files.read_json(self.folder / SCORES)

    def identity(self) -> str:
        """Changes when a finished cell is run again and becomes another network."""
        return hashlib.sha256((self.folder / SCORES).read_bytes()).hexdigest()

    def set_aside(self) -> Path:
        """Rename the folder, so that the cell is run again and nothing is lost; return its new name.

        Raises:
          InUse: another process runs the cell.
        """
        number = 1
        while (aside := self.folder.with_name(f"{self.folder.name}.old{number}")).exists():
            number += 1
        with workdir.hold(self.folder, LOCK):
            return self.folder.rename(aside)

    def _note(self, status: str, began: float, **facts) -> None:
        now = time.time()
        wall = self.facts().get("wall", 0.0) + now - began
        write(self.folder / FACTS, {"status": status, "ended": now, "wall": wall, **facts})


def make(comparison: Comparison, folder: Path) -> tuple[Cell, ...]:
    """All cells, each after the cells that it needs."""
    cells: dict[tuple[str, int | None], Cell] = {}
    for name in comparison.in_order():
        for seed in comparison.seeds if comparison.each_seed(name) else (None,):
            needs = tuple(cells[needed, seed] for needed in comparison.needs(name))
            place = folder / slug(name) / ("seed-none" if seed is None else f"seed{seed}")
            cells[name, seed] = Cell(name, seed, place, needs)
    return tuple(cells.values())


def again(cells: Sequence[Cell], rows: Collection[str]) -> list[Cell]:
    """The cells of these rows, and all that need one of them, directly or through others."""
    found: list[Cell] = []
    for cell in cells:
        if cell.row in rows or any(needed in found for needed in cell.needs):
            found.append(cell)
    return found


def config(comparison: Comparison, cell: Cell) -> ml_collections.ConfigDict:
    """The config of a cell, with the workdirs of other cells as its teacher and start.

    That of an untrained row is the one of the row that it is like.
    """
    row = _trained(comparison, cell)
    raw = row.raw(comparison.seeds[0] if cell.seed is None else cell.seed)
    places = {needed.row: str(needed.folder) for needed in cell.needs}
    if row.teacher in places:
        raw.teacher.weights = places[row.teacher]
    if row.start in places:
        raw.student.init = places[row.start]
    return raw


def _trained(comparison: Comparison, cell: Cell) -> Trained:
    """The row whose config the cell has."""
    row = comparison.row(cell.row)
    return row if isinstance(row, Trained) else comparison.row(row.like)


def compared(settings: dict, free: set[str] = FREE) -> dict:
    """The settings that tell runs apart: without `free` ones and without the section `log`."""
    return {k: v for k, v in settings.items() if k not in free and not k.startswith("log.")}


def mistake(comparison: Comparison, cell: Cell) -> str:
    """What is wrong with the config of a cell, as far as this is known before it runs; '' if nothing."""
    try:
        resolved = config_lib.resolve(config(comparison, cell))
        inputs.settled(resolved)
        given = {"student.init": resolved.student.init}
        if resolved.method.needs_teacher:
            given["teacher.weights"] = resolved.teacher.weights
        row = comparison.row(cell.row)
        if isinstance(row, Untrained) and row.weights not in ("start", "teacher"):
            given = {} if row.weights == "pixels" else {"": row.weights}
        for key, spec in given.items():
            if spec not in ("", "random", *(str(needed.folder) for needed in cell.needs)):
                source.find(spec, key)
    except UserError as error:
        return str(error)
    return ""


def fingerprints(raw: ml_collections.ConfigDict) -> list[str]:
    """What identifies the images that a run trains on and those that it is scored on."""
    resolved = config_lib.resolve(raw)
    d = inputs.settled(resolved)
    splits = ((d.train, d.subset), (d.test, ""))
    return [
        open_source(d.source, split, dir=d.dir or None, subset=subset, seed=resolved.train.seed).fingerprint()
        for split, subset in splits
    ]


def changes(comparison: Comparison, cell: Cell) -> str:
    """What changed since a cell was finished, in words; '' if nothing did.

    Raises:
      UserError: the config is not allowed, or a file of the cell is damaged, or its data is not there.
    """
    facts, row, trained = cell.facts(), comparison.row(cell.row), _trained(comparison, cell)
    raw = config(comparison, cell)
    before, now = workdir.settings_of(cell.folder), workdir.settings(raw)
    free = FREE | {"train.seed"}  # the folder has the seed in its name
    free -= {"teacher.weights"} if not trained.teacher else set()
    free -= {"student.init"} if not trained.start else set()
    if row is not trained:
        before["weights"], now["weights"] = facts["weights"], row.weights
        free |= {k for k in before | now if k.startswith(("optim.", "train.")) and k != "train.precision"}
    theirs, ours = compared(before, free), compared(now, free)
    keys = [key for key in sorted(theirs | ours) if theirs.get(key) != ours.get(key)]
    reasons = [f"{key} was {theirs.get(key)!r} and is {ours.get(key)!r}" for key in keys]
    if before["data.dir"] != now["data.dir"] and facts["data"] != fingerprints(raw):
        reasons.append(
            f"data.dir was {before['data.dir']!r} and is {now['data.dir']!r}, which has other images"
        )
    for needed in cell.needs:
        if not needed.finished():
            reasons.append(f"the row '{needed.row}' is to be run again")
        elif facts["needs"].get(needed.row) != needed.identity():
            reasons.append(f"the row '{needed.row}' was run again")
    return "; ".join(reasons)


def refuse_changed(comparison: Comparison, cells: Sequence[Cell]) -> None:
    """Raise `UserError` if a finished cell is not what the file describes now."""
    changed = {cell: changes(comparison, cell) for cell in cells if cell.finished()}
    changed = {str(cell): why for cell, why in changed.items() if why}
    if changed:
        rows = sorted({cell.row for cell in cells if str(cell) in changed})
        again = " ".join(f"'{row}'" for row in rows)
        reasons = "; ".join(f"{cell}: {why}" for cell, why in changed.items())
        raise UserError(
            f"These finished cells no longer match the comparison file: {reasons}: run them again with "
            f"--again {again}, or use another --out."
        )


def refuse_other_images(comparison: Comparison) -> None:
    """Raise `UserError` if two trained rows would be scored on other images.

    A row whose images cannot be read is left out: its cells say why.
    """
    of = {}
    rows = [row for row in comparison.rows if isinstance(row, Trained)]
    with listed_once():
        for row in rows:
            with contextlib.suppress(UserError):
                of.setdefault(fingerprints(row.raw(comparison.seeds[0]))[1], row.name)
    if len(of) > 1:
        one, other, *_ = of.values()
        raise UserError(
            f"'{one}' and '{other}' would be scored on other images: give all rows the same data and "
            "data.test."
        )


def write(path: Path, content: dict) -> None:
    """Write a JSON file; raises as `files.write`."""
    files.write(path, json.dumps(content) + "\n")
