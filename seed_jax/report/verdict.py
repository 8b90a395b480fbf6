"""Say what the probes of a run show: whether training helps the student, and what it is compared with."""

import dataclasses
import math
import os
from collections.abc import Mapping, Sequence
from pathlib import Path

from seed_jax.data import files
from seed_jax.report import metrics
from seed_jax.report.remedies import remedies
from seed_jax.report.tables import Table

NAMES = {
    "knn": "kNN",
    "top1": "top-1",
    "neighbours": "share of the teacher's nearest neighbours",
    "effective_rank": "effective rank",
}
LABELS = "put the images of each class into a sub-folder of their own"
IMITATION = "neighbours"  # the score of runs without labels
MILESTONES = (10, 30)  # percent of the steps
Z = 1.959963984540054  # 97.5 % of the standard normal distribution are below it


@dataclasses.dataclass(frozen=True)
class Course:
    """One score over the probes of a run.

    Attributes:
      name: of the score.
      points: step and score of the student at each probe, in the order of the steps; not empty.
      teacher, pixels: scores of the teacher and of raw pixels; None without one.
      images: number of images that the score is of; None if it is not known.
    """

    name: str
    points: Sequence[tuple[int, float]]
    teacher: float | None = None
    pixels: float | None = None
    images: int | None = None

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

    @property
    def change(self) -> float:
        return self.last[1] - self.first[1]

    @property
    def error(self) -> float:
        """Two binomial standard errors of the change of a share; 0 if `images` is not known.

        This is the formula for two independent proportions. Both probes score the same images, so the true
        error is smaller.
        """
        (_, first), (_, last) = self.first, self.last
        return 2 * math.sqrt((first * (1 - first) + last * (1 - last)) / self.images) if self.images else 0.0

    @property
    def gained(self) -> bool:
        """Whether the share rose by more than its error."""
        return self.change > self.error

    def show(self, value: float) -> str:
        return _show(self.name, value)


def wilson(proportion: float, images: int) -> tuple[float, float]:
    """Wilson's 95 % interval of a proportion of independent images (1927, without continuity correction).

    It suits proportions near 0 and 1 too. For a mean of numbers in [0, 1], such as `neighbours`, it is on the
    wide side: no distribution on [0, 1] with that mean has a larger variance than the binomial one.

    >>> "{:.3f} {:.3f}".format(*wilson(0.75, 100))
    '0.657 0.825'

    Args:
      proportion: in [0, 1].
      images: 1 or more.

    Returns:
      The lower and the upper end, in [0, 1].
    """
    spread = Z**2 / images
    centre = (proportion + spread / 2) / (1 + spread)
    half = Z / (1 + spread) * math.sqrt(proportion * (1 - proportion) / images + spread / (4 * images))
    return max(0.0, centre - half), min(1.0, centre + half)


def probe_line(scores: Mapping[str, float], start: Mapping[str, float], images: int | None = None) -> str:
    """One probe in words, for the terminal: the student, what it was at the start, raw pixels, the teacher.

    Args:
      scores: of this probe by name; other networks' have the prefixes `metrics.BASELINES`.
      start: the scores of the probe at step 0; empty if this is it, or if they are lost.
      images: the number of images of a probe, for the 95 % intervals of shares (`wilson`); None for none.

    >>> probe_line({"knn": 0.33, "pixels_knn": 0.599, "teacher_knn": 0.842}, {})
    'kNN: student 33.0 %, raw pixels 59.9 %, teacher 84.2 %'
    >>> probe_line({"knn": 0.751}, {"knn": 0.33, "teacher_knn": 0.842}, 800)
    'kNN: student 75.1 % (72.0 to 78.0), at the start 33.0 % (29.8 to 36.3), teacher 84.2 % (81.5 to 86.6)'
    """
    known, parts = {**start, **scores}, []
    for name in (name for name in scores if not name.startswith(metrics.BASELINES)):
        found = {"student": scores[name], "at the start": start.get(name)}
        if metrics.is_share(name):
            found["raw pixels"] = known.get(f"pixels_{name}")
        found["teacher"] = known.get(f"teacher_{name}")
        shown = (
            f"{who} {_with_interval(name, value, _scored(name, images))}"
            for who, value in found.items()
            if value is not None
        )
        parts.append(f"{NAMES.get(name, name)}: {', '.join(shown)}")
    return "; ".join(parts) or "student without a score"


def milestones(workdir: str | os.PathLike) -> dict[int, str]:
    """What the first probe at or after 10 % and 30 % of the steps shows, by its step.

    It is about the score that decides the best checkpoint; empty if that is no share. A gain must exceed
    `Course.error`; without one, the sentence names what usually helps (`remedies`). There is none of the end
    of the run, because `answer` says it. The sentence of a step depends on nothing that is measured later.

    Raises:
      UserError: the workdir has no metrics, or a file in it is damaged.
    """
    workdir = Path(workdir)
    manifest, config = _read(workdir, "manifest.json"), _read(workdir, "config.json")
    courses, total = _courses(metrics.read(workdir), manifest), manifest.get("steps", 0)
    if not courses:
        return {}
    whole, said, before = courses[metrics.deciding(courses)], {}, 0
    for count, (step, _) in enumerate(whole.points, start=1):
        passed = any(100 * before < percent * total <= 100 * step for percent in MILESTONES)
        if passed and step < total and metrics.is_share(whole.name):
            c = dataclasses.replace(whole, points=whole.points[:count])
            said[step] = _milestone(c, step / total, remedies(config, manifest, fell=_fell(c)))
        before = step
    return said


def _milestone(c: Course, done: float, usual: Sequence[str]) -> str:
    """The sentence after the share `done` of the steps; `usual`: what usually helps."""
    name = f"{'the ' if c.name == IMITATION else ''}{NAMES.get(c.name, c.name)}"
    begin = f"At {100 * done:.0f} % of the run {name} has"
    below = f" and is still below raw pixels, {c.show(c.pixels)}" if _below_pixels(c) else ""
    if c.gained:
        way = f", {way}" if (way := _way(c)) else ""
        return f"{begin} risen by {100 * c.change:.1f} points{way}{below}."
    noise = f"; noise on {c.images:,} images: ±{100 * c.error:.1f}" if c.images else ""
    advice = f" If it stays that way, try {_listed(usual)}." if usual else ""
    return f"{begin} not clearly improved ({100 * c.change:+.1f} points{noise}){below}.{advice}"


def answer(workdir: str | os.PathLike) -> tuple[str, Table | None]:
    """Whether training helped, in one or two sentences, and a table of scores with 95 % intervals.

    The sentence is about the score that decides the best checkpoint (`metrics.deciding`). If the manifest has
    the number of images, a change within `Course.error` counts as no change. A run that has ended without a
    gain is told what usually helps. `neighbours` measures imitation, and the sentence says so; of a score
    that is no share it says only how it moved. Without a probe it says why there is none and what to do, and
    the table is None.

    Raises:
      UserError: the workdir has no metrics, or a file in it is damaged.
    """
    workdir = Path(workdir)
    rows, manifest = metrics.read(workdir), _read(workdir, "manifest.json")
    courses = _courses(rows, manifest)
    if not courses:
        return _no_probe(workdir, rows), None
    c = courses[metrics.deciding(courses)]
    said = _sentence(c)
    config = _read(workdir, "config.json")
    ended = c.first[0] < c.last[0] >= manifest.get("steps", math.inf)
    if config and ended and metrics.is_share(c.name) and not c.gained:
        usual = remedies(config, manifest, fell=_fell(c))
        said += f" Try {_listed(usual)}." if usual else ""
    return said, _table(list(courses.values()), manifest)


def _sentence(c: Course) -> str:
    """The verdict on a score."""
    (begin, first), (end, last), (at, best) = c.first, c.last, c.best
    name, imitation = NAMES.get(c.name, c.name), c.name == IMITATION
    known = [f"the teacher has {c.show(c.teacher)}"] if c.teacher is not None else []
    known += [f"raw pixels have {c.show(c.pixels)}"] if c.pixels is not None else []
    known = f"; {' and '.join(known)}" if known else ""
    if begin == end:
        return f"There is only one probe so far: the student's {name} is {c.show(last)} at step {end}{known}."
    moved = "rose" if last > first else "fell" if last < first else "stayed the same,"
    highest = f" (best: {c.show(best)} at step {at})" if at not in (begin, end) else ""
    course = (
        f"the student's {name} {moved} from {c.show(first)} at step {begin} to {c.show(last)} "
        f"at step {end}{highest}"
    )
    if not metrics.is_share(c.name):
        return f"These scores cannot tell whether training helped: {course}{known}."
    noisy = c.images and abs(c.change) <= c.error
    if noisy:
        verdict = "No clear gain in imitating the teacher" if imitation else "No clear gain"
    else:
        verdict = "Training has helped" if c.gained else "Training has not helped"
        verdict += " the student to imitate its teacher" if imitation else ""
    noise = f", within the noise of {c.images:,} images" if noisy else ""
    way = f", {_way(c)}" if c.gained and _way(c) else ""
    below = ", and it is still below raw pixels" if _below_pixels(c) else ""
    note = " This measures imitation, not accuracy." if imitation else ""
    return f"{verdict}: {course}{noise}{way}{below}{known}.{note}"


def _table(courses: Sequence[Course], manifest: Mapping) -> Table:
    """A row for each network, a column for each score."""

    def row(name, values):
        return (name, *(None if cell is None else _cell(c, *cell) for c, cell in values))

    held_out = manifest.get("probe_images") is None or manifest.get("val_images") is not None
    rows = [
        row("student, first", [(c, c.first) for c in courses]),
        row("student, best", [(c, c.best) for c in courses]),
        row("student, last", [(c, c.last) for c in courses]),
        row("teacher", [(c, None if c.teacher is None else (None, c.teacher)) for c in courses]),
        row("raw pixels", [(c, None if c.pixels is None else (None, c.pixels)) for c in courses]),
    ]
    rows = [cells for i, cells in enumerate(rows) if i < 3 or any(cell is not None for cell in cells[1:])]
    split = "validation split" if held_out else "training images"
    return Table((split, *(NAMES.get(c.name, c.name) for c in courses)), rows)


def _cell(c: Course, step: int | None, value: float) -> str:
    return _with_interval(c.name, value, c.images) + ("" if step is None else f" @ {step}")


def _way(c: Course) -> str:
    """How far a student that gained has come from its start to the teacher; '' without a better teacher."""
    if c.teacher is None or c.teacher <= c.first[1]:
        return ""
    if c.last[1] >= c.teacher:
        return "as high as the teacher's"
    return f"{100 * c.change / (c.teacher - c.first[1]):.0f} % of the way to the teacher"


def _below_pixels(c: Course) -> bool:
    return c.pixels is not None and c.last[1] < c.pixels


def _fell(c: Course) -> bool:
    return c.change < -c.error


def _listed(texts: Sequence[str]) -> str:
    *others, last = texts
    return f"{', '.join(others)} and {last}" if others else last


def _courses(rows: Sequence[Mapping], manifest: Mapping) -> dict[str, Course]:
    """The course of each score by name; rows of probes are those without a loss."""
    points: dict[str, dict[int, float]] = {}
    for row in rows:
        if "loss" not in row:
            for name, value in row.items():
                if name != "step" and not isinstance(value, str) and math.isfinite(value):
                    points.setdefault(name, {})[row["step"]] = value
    images = manifest.get("val_images") or manifest.get("probe_images")

    def first(name):
        return next(iter(dict(sorted(points.get(name, {}).items())).values()), None)

    return {
        name: Course(
            name, sorted(of.items()), first(f"teacher_{name}"), first(f"pixels_{name}"), _scored(name, images)
        )
        for name, of in points.items()
        if not name.startswith(metrics.BASELINES)
    }


def _no_probe(workdir: Path, rows: Sequence[Mapping]) -> str:
    """Why a run has no probe, and what to do, as far as its files say."""
    wait = f"Whether training helps is not known yet: {metrics.FILE} has no probe; wait for the first one."
    config, manifest = _read(workdir, "config.json"), _read(workdir, "manifest.json")
    if not (config and manifest):
        return wait
    names = config.get("evals", {}).get("names")  # None in runs from before this key
    trained = max((row["step"] for row in rows if "loss" in row), default=0)
    if names == []:
        reason = "evals.names is empty"
    elif names and "knn" not in names and trained:
        reason = f"evals.names is {','.join(names)}, which scores nothing on this network"
    elif trained < manifest.get("steps", math.inf):
        return wait
    else:
        return f"Whether training helps is not known: the run has ended, and {metrics.FILE} has no probe."
    return (
        f"Whether training helps is not known: {reason}, so there is no probe; start again with "
        "--config.evals.names=knn in another --workdir."
    )


def _read(workdir: Path, name: str) -> dict:
    """The JSON object in a file of the workdir; empty if there is no such file."""
    return files.read_json(workdir / name) if (workdir / name).exists() else {}


def _show(name: str, value: float) -> str:
    return f"{100 * value:.1f} %" if metrics.is_share(name) else f"{value:.3g}"


def _scored(name: str, images: int | None) -> int | None:
    """The number of images that a score is of, for a probe of `images`."""
    return images and min(images, metrics.MOST_IMAGES.get(name, images))


def _with_interval(name: str, value: float, images: int | None) -> str:
    """A score, and its interval in percent if it is a share of a known number of images."""
    if not images or not metrics.is_share(name):
        return _show(name, value)
    return f"{_show(name, value)} ({' to '.join(f'{100 * end:.1f}' for end in wilson(value, images))})"
