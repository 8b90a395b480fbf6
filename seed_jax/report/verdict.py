"""Say what the probes of a run show: whether training helps the student, and how far the teacher is ahead."""

import dataclasses
import math
import os
from collections.abc import Mapping, Sequence
from pathlib import Path

from seed_jax.data import files
from seed_jax.report import metrics
from seed_jax.report.tables import Table

NAMES = {"knn": "kNN", "top1": "top-1"}
LABELS = "put the images of each class into a sub-folder of their own"


@dataclasses.dataclass(frozen=True)
class Course:
    """One score over the probes of a run.

    Attributes:
      points: step and score in [0, 1] of the student at each probe, in the order of the steps; not empty.
      teacher: score of the teacher in [0, 1]; None without one.
    """

    points: Sequence[tuple[int, float]]
    teacher: float | None

    @property
    def first(self) -> tuple[int, float]:
        return self.points[0]

    @property
    def last(self) -> tuple[int, float]:
        return self.points[-1]

    @property
    def best(self) -> tuple[int, float]:
        """The highest score; of equal ones the earliest."""
        return max(self.points, key=lambda point: point[1])


def probe_line(scores: Mapping[str, float], start: Mapping[str, float]) -> str:
    """One probe in words, for the terminal.

    Args:
      scores: of this probe by name, in [0, 1]; those of the teacher have the prefix `teacher_`.
      start: the scores of the probe at step 0; empty if this is it, or if they are lost.

    >>> probe_line({"knn": 0.33, "teacher_knn": 0.842}, {})
    'student kNN 33.0 % (teacher 84.2 %)'
    >>> probe_line({"knn": 0.751}, {"knn": 0.33, "teacher_knn": 0.842})
    'student kNN 75.1 % (33.0 % at the start; teacher 84.2 %)'
    """
    known = {**start, **scores}
    parts = []
    for name in (name for name in scores if not name.startswith("teacher_")):
        beside = [f"{_percent(start[name])} at the start"] if name in start else []
        beside += [f"teacher {_percent(known[key])}" for key in [f"teacher_{name}"] if key in known]
        shown = f"{NAMES.get(name, name)} {_percent(scores[name])}"
        parts.append(shown + (f" ({'; '.join(beside)})" if beside else ""))
    return f"student {', '.join(parts) or 'without a score'}"


def answer(workdir: str | os.PathLike) -> tuple[str, Table | None]:
    """Whether training helped: a sentence, and a table with a row for each score.

    The sentence is about the score that decides the best checkpoint (`metrics.last_score`). If the manifest
    has the number of validation images, a change within two binomial standard errors of the difference of
    two independent shares counts as no change. (The images of both probes are the same, so that the true
    error is smaller.) Without a probe
    it says why there is none and what to do, and the table is None.

    Raises:
      UserError: the workdir has no metrics, or a file in it is damaged.
    """
    rows = metrics.read(workdir)
    courses = _courses(rows)
    if not courses:
        return _no_probe(Path(workdir), rows), None
    name = next((name for name in ("top1", "knn") if name in courses), min(courses))
    header = ("validation split", "student, first", "student, best", "student, last", "teacher")
    table = Table(
        header,
        [
            (
                NAMES.get(name, name),
                *(f"{_percent(score)} @ {step}" for step, score in (c.first, c.best, c.last)),
                None if c.teacher is None else _percent(c.teacher),
            )
            for name, c in courses.items()
        ],
    )
    manifest = _read(Path(workdir), "manifest.json")
    return _sentence(NAMES.get(name, name), courses[name], manifest.get("val_images")), table


def _sentence(name: str, c: Course, images: int | None) -> str:
    """The verdict on a score of `images` validation images; None if their number is not known."""
    (begin, first), (end, last), (at, best) = c.first, c.last, c.best
    teacher = f"; the teacher has {_percent(c.teacher)}" if c.teacher is not None else ""
    if begin == end:
        return (
            f"There is only one probe yet: the student's {name} is {_percent(last)} at step {end}{teacher}."
        )
    verdict, noise = "Training has helped" if last > first else "Training has not helped", ""
    if images and abs(last - first) <= 2 * math.sqrt((first * (1 - first) + last * (1 - last)) / images):
        verdict, noise = "Training is not shown to help", f", a change within the error of {images:,} images"
    moved = "rose" if last > first else "fell" if last < first else "stayed the same,"
    highest = f" (best: {_percent(best)} at step {at})" if at not in (begin, end) else ""
    return (
        f"{verdict}: the student's {name} {moved} from {_percent(first)} at step {begin} to {_percent(last)} "
        f"at step {end}{highest}{noise}{teacher}."
    )


def _courses(rows: Sequence[Mapping]) -> dict[str, Course]:
    """The course of each score by name; rows of probes are those without a loss."""
    points: dict[str, dict[int, float]] = {}
    for row in rows:
        if "loss" not in row:
            for name, value in row.items():
                if name != "step" and not isinstance(value, str) and math.isfinite(value):
                    points.setdefault(name, {})[row["step"]] = value
    teachers = {name: dict(sorted(of.items())) for name, of in points.items() if name.startswith("teacher_")}
    return {
        name: Course(sorted(of.items()), next(iter(teachers.get(f"teacher_{name}", {}).values()), None))
        for name, of in points.items()
        if name not in teachers
    }


def _no_probe(workdir: Path, rows: Sequence[Mapping]) -> str:
    """Why a run has no probe, and what to do, as far as its files say."""
    wait = f"Whether training helps is not known yet: {metrics.FILE} has no probe; wait for the first one."
    config, manifest = _read(workdir, "config.json"), _read(workdir, "manifest.json")
    if not (config and manifest):
        return wait
    names = config["evals"].get("names")  # None in runs from before this key
    trained = max((row["step"] for row in rows if "loss" in row), default=0)
    if not manifest["data"]["num_classes"]:
        recognised = config["data"]["source"] == ""
        reason, fix = "the data has no labels", LABELS
        fix += "" if recognised else " and add --config.data.source= --config.data.train="
    elif names == []:
        reason, fix = "evals.names is empty", "add --config.evals.names=knn"
    elif trained and manifest.get("train_split") == "all":
        reason = "data.train is 'all', which leaves no images for one"
        fix = "use --config.data.train= to train on one split"
    elif names and "knn" not in names and trained:
        reason = f"evals.names is {','.join(names)}, which scores nothing on this network"
        fix = "add --config.evals.names=knn"
    elif trained < manifest["steps"]:
        return wait
    else:
        return f"Whether training helps is not known: the run has ended, and {metrics.FILE} has no probe."
    return (
        f"Whether training helps is not known: {reason}, so there is no probe; {fix}, in another --workdir."
    )


def _read(workdir: Path, name: str) -> dict:
    """The JSON object in a file of the workdir; empty if there is no such file."""
    return files.read_json(workdir / name) if (workdir / name).exists() else {}


def _percent(value: float) -> str:
    return f"{100 * value:.1f} %"
