"""From finished cells, or from workdirs that exist, to a `Result`."""

import dataclasses
import importlib.metadata
import os
import shlex
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

import jax
import numpy as np

from seed_jax.compare import cells as cells_lib
from seed_jax.compare import run, statistics
from seed_jax.compare.cells import Cell
from seed_jax.compare.results import Cost, Difference, Result, Row
from seed_jax.compare.spec import Comparison, Trained
from seed_jax.data import files
from seed_jax.errors import UserError, unknown
from seed_jax.train import checkpoint, workdir

VERSIONS = ("jax", "flax", "optax", "numpy", "scipy")


def of_cells(comparison: Comparison, cells: Sequence[Cell], failed: Mapping[Cell, str]) -> Result:
    """The result of a comparison, as far as its cells are finished.

    Raises:
      UserError: no cell is finished, or two of them were scored on other images.
    """
    rows, values = [], {}
    for spec in comparison.rows:
        mine = [cell for cell in cells if cell.row == spec.name]
        done = {cell.seed: cell for cell in mine if cell.finished()}
        scored = {seed: cell.scores() for seed, cell in done.items()}
        trained = isinstance(spec, Trained)
        rows.append(
            _row(
                spec.name,
                scored,
                workdirs=tuple(str(cell.folder) for cell in done.values()) if trained else (),
                facts=[cell.facts() for cell in done.values()] if trained else [],
                settings=_settings(next(iter(done.values())).folder) if trained and done else {},
                failed=tuple(_why(cell, failed[cell]) for cell in mine if cell in failed),
            )
        )
        values[spec.name] = scored
    return _result(comparison.title, comparison.baseline, comparison.evals, rows, values, comparison.notes)


def _why(cell: Cell, failure: str) -> str:
    return failure if cell.seed is None else f"seed {cell.seed}: {failure}"


def of_workdirs(directories: Sequence[Path], baseline: str) -> Result:
    """The comparison of runs that exist. Runs whose settings differ in `train.seed` alone are one row.

    Runs of the same settings and seed, which differ in their teacher's weights, are different rows.

    The scores are kept in each workdir and measured again only if its checkpoint has changed.

    Args:
      baseline: the name of a row, which is the path that its workdirs share; '' for the first row.

    Raises:
      UserError: a folder is not a workdir, or two of them were scored on other images.
    """
    groups: list[tuple[dict, dict[int, Path]]] = []
    for directory in directories:
        settings = _settings(directory)
        seed = settings.pop("train.seed")
        fits = (members for shared, members in groups if shared == settings and seed not in members)
        members = next(fits, None)
        if members is None:
            groups.append((settings, members := {}))
        members[seed] = directory
    rows, values = [], {}
    for settings, of_seed in groups:
        members = list(of_seed.values())
        name = os.path.commonpath(members) if len(members) > 1 else str(members[0])
        scored, facts = {}, []
        for seed, directory in of_seed.items():
            scored[seed], fact = _measured(directory)
            facts.append(fact)
        rows.append(
            _row(
                name,
                scored,
                workdirs=tuple(map(str, members)),
                facts=facts,
                settings=settings,
                failed=(),
            )
        )
        values[name] = scored
    names = [row.name for row in rows]
    if baseline and baseline not in names:
        raise unknown("row in --baseline", baseline, names)
    known = [n for n in ("top1", "knn", "linear") if all(n in row.scores for row in rows)]
    return _result("Comparison of runs", baseline or names[0], known, rows, values, ())


def _measured(directory: Path) -> tuple[dict, dict]:
    """The scores and the costs of a workdir."""
    path, step = directory / cells_lib.SCORES, checkpoint.step_of(directory)
    if path.exists():
        scores = files.read_json(path)
        if scores["last"]["step"] == step:
            return scores, run.costs(directory)
    scores = run.score_workdir(directory)
    cells_lib.write(path, scores)
    return scores, run.costs(directory)


def _settings(directory: Path) -> dict:
    """The settings of a run that a reader compares: without places, and without what changes no result."""
    if not (directory / "config.json").exists():
        raise UserError(f"{directory} is not the workdir of a run: it has no config.json.")
    return cells_lib.compared(workdir.settings_of(directory))


def _row(name, scored: Mapping, *, workdirs, facts, settings, failed) -> Row:
    def percent(which):
        kept = [scores[which]["values"] if scores[which] else {} for scores in scored.values()]
        shared = [score for score in (kept[0] if kept else {}) if all(score in values for values in kept)]
        return {score: [100 * float(np.mean(values[score])) for values in kept] for score in shared}

    def mean(key):
        known = [fact[key] for fact in facts if fact.get(key) is not None]
        return sum(known) / len(known) if known else None

    def common(key):
        return facts[0][key] if facts else None

    first = next(iter(scored.values()), None)
    return Row(
        name,
        seeds=tuple(seed for seed in scored if seed is not None),
        scores=percent("last"),
        best=percent("best"),
        workdirs=workdirs,
        parameters=first["last"]["parameters"] if first else 0,
        steps=common("steps"),
        images=common("images"),
        cost=Cost(*map(mean, ("seconds", "flops", "memory", "teacher_images"))) if facts else None,
        settings=settings,
        failed=failed,
    )


def _result(title, baseline, evals, rows, values, notes) -> Result:
    scored = [(name, seed, scores["last"]) for name, of in values.items() for seed, scores in of.items()]
    if not scored:
        raise UserError("No cell is finished, so there is nothing to compare.")
    _check_images(scored)
    rows = _with_notes(rows, baseline)
    differences = tuple(
        found
        for row in rows
        if row.name != baseline
        for score in evals
        if (found := _difference(row.name, score, values[row.name], values[baseline]))
    )
    first = scored[0][2]
    images = max(len(v) for v in first["values"].values() if isinstance(v, list))
    return Result(
        title,
        baseline,
        tuple(evals),
        first["split"],
        images,
        tuple(rows),
        differences,
        _provenance(rows),
        tuple(notes),
    )


def _check_images(scored) -> None:
    (first, _, expected), *_ = scored
    for name, _, scores in scored:
        if scores["images"] != expected["images"]:
            raise UserError(
                f"{first} and {name} were scored on other images (split {expected['split']} with fingerprint "
                f"{expected['images']}, and {scores['split']} with {scores['images']}): compare runs on the "
                "same data and test split."
            )


def _difference(name: str, score: str, row: Mapping, baseline: Mapping) -> Difference | None:
    """None if the rows have no seed in common, or one of them lacks the score."""
    alone = [of[None] for of in (row, baseline) if None in of]
    seeds = [seed for seed in row if seed in baseline] if not alone else []
    if alone:  # a row that no seed changes is compared with every seed of the other
        seeds = sorted({*row, *baseline} - {None}) or [None]

    def stack(of):
        picked = [of.get(seed, of.get(None)) for seed in seeds]
        if any(scores is None or score not in scores["last"]["values"] for scores in picked):
            return None
        return np.array([np.atleast_1d(scores["last"]["values"][score]) for scores in picked], float)

    ours, theirs = stack(row), stack(baseline)
    if not seeds or ours is None or theirs is None:
        return None
    points, low, high = (100 * x for x in statistics.interval(ours, theirs))
    return Difference(name, score, points, low, high, seeds=len(seeds), images=ours.shape[1])


def _with_notes(rows: Sequence[Row], baseline: str) -> list[Row]:
    """The rows, with one sentence for each way in which a trained row's budget or network differs."""
    base = next(row for row in rows if row.name == baseline)
    noted = []
    for row in rows:
        notes = []
        if base.workdirs and row.workdirs and row.name != baseline:
            for what, key in (("steps", "steps"), ("images seen", "images"), ("parameters", "parameters")):
                mine, other = getattr(row, key), getattr(base, key)
                if mine != other:
                    notes.append(f"{mine:,} {what}; {baseline} has {other:,}")
            mine, other = (r.settings.get("student.model") for r in (row, base))
            if mine != other:
                notes.append(f"network {mine}; {baseline} has {other}")
        noted.append(dataclasses.replace(row, notes=tuple(notes)))
    return noted


def _provenance(rows: Sequence[Row]) -> dict[str, str]:
    """Facts about this result, in words."""
    manifests = [files.read_json(Path(place) / "manifest.json") for row in rows for place in row.workdirs]

    def all_of(key):
        return ", ".join(sorted({str(manifest[key]) for manifest in manifests}))

    facts = {"command": shlex.join(["seed-jax", "compare", *sys.argv[2:]])}
    if manifests:
        facts |= {"commit": all_of("commit"), "devices": all_of("devices")}
        facts["data"] = ", ".join(sorted({m["data"].get("fingerprint", "unknown") for m in manifests}))
    facts["cores"] = f"{os.cpu_count()}"
    facts["versions"] = ", ".join(f"{name} {importlib.metadata.version(name)}" for name in VERSIONS)
    facts["scored on"] = f"{len(jax.devices())} x {jax.devices()[0].device_kind}"
    facts["date"] = time.strftime("%Y-%m-%d", time.gmtime())
    return facts
