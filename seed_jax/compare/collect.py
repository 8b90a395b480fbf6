"""From finished cells, or from workdirs that exist, to a `Result`."""

import collections
import dataclasses
import os
import re
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

import jax
import numpy as np

from seed_jax.compare import cells as cells_lib
from seed_jax.compare import run
from seed_jax.compare.cells import Cell
from seed_jax.compare.interval import interval
from seed_jax.compare.results import Cost, Difference, Result, Row
from seed_jax.compare.spec import Comparison, Trained
from seed_jax.data import files
from seed_jax.errors import UserError, unknown
from seed_jax.report import metrics
from seed_jax.train import checkpoint, workdir

VERSIONS = ("jax", "flax", "optax", "numpy")  # of a run, named on the page
ORIGINS = {"teacher.weights": "teacher", "student.init": "init"}  # keys of the config, and of the manifest

TWO_SEEDS = (
    "With two seeds the interval is wide; a third narrows it about threefold (Student's t: 12.7, then 4.3)."
)


def of_cells(comparison: Comparison, cells: Sequence[Cell], failed: Mapping[Cell, str]) -> Result:
    """The result of a comparison, as far as its cells are finished.

    Args:
      cells: all of them, each after those that it needs.
      failed: why cells of this call have no scores; why others failed before is in their folders.

    Raises:
      UserError: no cell is finished, two of them were scored on other images, or no row has a score that
        the comparison names.
    """
    rows, values, why = [], {}, _failures(cells, failed)
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
                settings=_shown([cell.folder for cell in done.values()]) if trained and done else {},
                needs=spec.needs if trained else (),
                failed=tuple(why[cell] for cell in mine if cell in why),
            )
        )
        values[spec.name] = scored
    return _result(comparison.title, comparison.baseline, comparison.evals, rows, values, comparison.notes)


def _failures(cells: Sequence[Cell], failed: Mapping[Cell, str]) -> dict[Cell, str]:
    """A sentence for each cell that failed, in this call or before, and for each that needs such a cell."""
    found = {}
    for cell in cells:
        needed = next((needed for needed in cell.needs if needed in found), None)
        why = failed.get(cell) or cell.failure(since=0.0) or (needed and f"it needs {needed}, which failed")
        if why:
            found[cell] = why if cell.seed is None else f"seed {cell.seed}: {why}"
    return found


def of_workdirs(directories: Sequence[Path], baseline: str) -> Result:
    """The comparison of runs that exist.

    Runs that differ in `train.seed` alone are one row. They have the same settings and come from the same
    weights: the same file as teacher and as `student.init`, or runs which in turn differ in their seed alone.
    A row is called `PLACE` if its runs are the workdirs `PLACE/seedN`, else after all its workdirs.

    The scores are kept in each workdir, and measured again if it has another run or checkpoint by now.

    Args:
      baseline: the name of a row; '' for the first row.

    Raises:
      UserError: a folder is not a workdir or is named twice, or two of them were scored on other images.
    """
    resolved = [directory.resolve() for directory in directories]
    for number, directory in enumerate(directories):
        if resolved[number] in resolved[:number]:
            raise UserError(f"The run {directory} is named twice: name each run once.")
        if not all((directory / name).exists() for name in ("config.json", "manifest.json")):
            raise UserError(
                f"{directory} is not the workdir of a run: it has no config.json and manifest.json."
            )
    groups = _groups(directories)
    places = [_place([str(member) for member in members]) for members in groups]
    names = [
        place if places.count(place) == 1 else " + ".join(map(str, members))
        for place, members in zip(places, groups, strict=True)
    ]
    row_of = {m.resolve(): name for name, members in zip(names, groups, strict=True) for m in members}
    rows, values = [], {}
    for name, members in zip(names, groups, strict=True):
        values[name] = {_seed(member): _measured(member) for member in members}
        rows.append(
            _row(
                name,
                values[name],
                workdirs=tuple(map(str, members)),
                facts=[run.costs(member) for member in members],
                settings=_shown(members),
                needs=tuple(dict.fromkeys(row_of[place] for place in _sources(members) if place in row_of)),
                failed=(),
            )
        )
    if baseline and baseline not in names:
        raise unknown("row in --baseline", baseline, names)
    known = [n for n in ("top1", "knn", "linear") if all(n in row.scores for row in rows)]
    return _result("Comparison of runs", baseline or names[0], known, rows, values, ())


def _groups(directories: Sequence[Path]) -> list[list[Path]]:
    """The workdirs of each row; runs of one seed, which only their folders tell apart, are different rows."""
    groups: list[tuple[dict, dict[int, Path]]] = []
    for directory in directories:
        origin, seed = _origin(directory), _seed(directory)
        fits = (members for shared, members in groups if shared == origin and seed not in members)
        members = next(fits, None)
        if members is None:
            groups.append((origin, members := {}))
        members[seed] = directory
    return [list(members.values()) for _, members in groups]


def _origin(directory: Path) -> dict:
    """What a run was made from, without its seed: settings, and the weights of teacher and start."""
    manifest = files.read_json(directory / "manifest.json")
    weights = {key: _source(manifest.get(role)) for key, role in ORIGINS.items()}
    return _settings(directory) | weights


def _source(facts: Mapping | None):
    """What tells weights apart, from a manifest's facts about them: the content of a file, else a run."""
    if not facts or "sha256" in facts:
        return facts and facts["sha256"]
    place = Path(facts["source"])
    return _origin(place) if (place / "manifest.json").exists() else facts["source"]


def _sources(directories: Sequence[Path]) -> list[Path]:
    """The places of the runs that these runs have as teacher or start."""
    manifests = [files.read_json(directory / "manifest.json") for directory in directories]
    facts = [manifest.get(role) or {} for manifest in manifests for role in ORIGINS.values()]
    return [Path(of["source"]).resolve() for of in facts if "source" in of]


def _place(paths: Sequence[str]) -> str:
    """One name for paths: `PLACE` for the paths `PLACE/seedN`, else all of them.

    >>> _place(["runs/a/seed0", "runs/a/seed1"]), _place(["runs/a0", "runs/a1"])
    ('runs/a', 'runs/a0 + runs/a1')
    """
    unique = list(dict.fromkeys(paths))
    parents = {os.path.dirname(path) for path in unique}
    if len(unique) > 1 and len(parents) == 1 and all(re.search(r"/seed\d+$", path) for path in unique):
        return parents.pop()
    return " + ".join(unique)


def _measured(directory: Path) -> dict:
    """The scores of a workdir; those that it has, if they are of the run and the checkpoint in it now."""
    path, step = directory / cells_lib.SCORES, checkpoint.step_of(directory)
    now = {
        "step": step,
        "started": files.read_json(directory / "manifest.json").get("started"),
        "settings": cells_lib.compared(workdir.settings_of(directory)),
    }
    if path.exists():
        scores = files.read_json(path)
        # A cell is scored when its run ends, and refuses other settings by itself.
        cell = Cell("", None, directory, ()).finished() and scores["last"]["step"] == step
        if cell or scores.get("run") == now:
            return scores
    scores = {**run.score_workdir(directory), "run": now}
    cells_lib.write(path, scores)
    return scores


def _seed(directory: Path) -> int:
    return workdir.settings_of(directory)["train.seed"]


def _settings(directory: Path) -> dict:
    """The settings of a run that a reader compares: without places, its seed, and what changes no result."""
    return cells_lib.compared(workdir.settings_of(directory), cells_lib.FREE | {"train.seed"})


def _shown(directories: Sequence[Path]) -> dict:
    """The settings of a row, with the places of its teachers and starts."""
    of_each = [workdir.settings_of(directory) for directory in directories]
    places = {key: _place([settings[key] for settings in of_each]) for key in ORIGINS}
    return _settings(directories[0]) | places


def _row(name, scored: Mapping, *, workdirs, facts, settings, needs, failed) -> Row:
    def percent(which):
        kept = [scores[which]["values"] if scores[which] else {} for scores in scored.values()]
        shared = [score for score in (kept[0] if kept else {}) if all(score in values for values in kept)]
        shared = [score for score in shared if metrics.is_share(score)]
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
        parameters=first["last"]["parameters"] if first else None,
        steps=common("steps"),
        images=common("images"),
        cost=Cost(*map(mean, ("seconds", "flops", "memory", "teacher_images"))) if facts else None,
        settings=settings,
        needs=needs,
        failed=failed,
    )


def _result(title, baseline, evals, rows, values, notes) -> Result:
    scored = [(name, seed, scores["last"]) for name, of in values.items() for seed, scores in of.items()]
    if not scored:
        raise UserError("No cell is finished, so there is nothing to compare.")
    _check_images(scored)
    _check_scores(evals, rows)
    rows = _with_notes(rows, baseline)
    differences, notes = [], [*notes, *dict.fromkeys(filter(None, (s.get("note") for *_, s in scored)))]
    for row in rows:
        for score in evals if row.name != baseline else ():
            pairs = _pairs(score, values[row.name], values[baseline])
            if pairs is None:
                continue
            if pairs[0].size == 1:
                notes.append(
                    f"{row.name}: {score} is one number for one seed, so no difference from {baseline} can "
                    "be shown: more seeds would tell how far chance moves it."
                )
                continue
            points, low, high = (100 * x for x in interval(*pairs))
            differences.append(Difference(row.name, score, points, low, high, *pairs[0].shape))
    if any(difference.seeds == 2 for difference in differences):
        notes.append(TWO_SEEDS)
    taught = collections.defaultdict(list)
    for row in rows:
        if row.needs and row.cost:
            taught[" and ".join(f"'{name}'" for name in dict.fromkeys(row.needs))].append(row.name)
    for teachers, names in taught.items():
        whose = f"{len(names)} rows" if len(names) > 2 else " and ".join(f"'{name}'" for name in names)
        notes.append(f"Costs of {whose} are without the training of {teachers}.")
    first = scored[0][2]
    images = max(len(v) for v in first["values"].values() if isinstance(v, list))
    return Result(
        title,
        baseline,
        tuple(evals),
        first["split"],
        images,
        tuple(rows),
        tuple(differences),
        _provenance(rows),
        tuple(notes),
    )


def _check_scores(evals: Sequence[str], rows: Sequence[Row]) -> None:
    """Refuse a score that no row has, unless a row that failed may be the one that has it."""
    known = {score for row in rows for score in row.scores}
    for score in evals:
        if score not in known and not any(row.failed for row in rows):
            raise unknown("score in evals", score, known)


def _check_images(scored) -> None:
    (first, _, expected), *_ = scored
    for name, _, scores in scored:
        if scores["images"] != expected["images"]:
            raise UserError(
                f"{first} and {name} were scored on other images (split {expected['split']} with fingerprint "
                f"{expected['images']}, and {scores['split']} with {scores['images']}): compare runs on the "
                "same data and test split."
            )


def _pairs(score: str, row: Mapping, baseline: Mapping) -> tuple[np.ndarray, np.ndarray] | None:
    """A score of row and baseline, `[S, N]` each, over the seeds that both have and the images.

    None if the rows have no seed in common, or one of them lacks the score.
    """
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
    return None if not seeds or ours is None or theirs is None else (ours, theirs)


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

    def all_of(values):
        return ", ".join(sorted({str(value) for value in values}))

    facts = {}
    if manifests:
        facts |= {key: all_of(manifest[key] for manifest in manifests) for key in ("commit", "devices")}
        facts["data"] = all_of(manifest["data"].get("fingerprint", "unknown") for manifest in manifests)
        facts["versions"] = all_of(
            f"{name} {manifest['versions'][name]}" for name in VERSIONS for manifest in manifests
        )
    facts["cores"] = f"{os.cpu_count()}"
    facts["scored on"] = f"{len(jax.devices())} x {jax.devices()[0].device_kind}"
    facts["date"] = time.strftime("%Y-%m-%d", time.gmtime())
    return facts
