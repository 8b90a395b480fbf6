"""The report of a run, from its workdir."""

import json
import math
import os
from collections.abc import Mapping, Sequence
from pathlib import Path

from seed_jax.data import files
from seed_jax.errors import UserError
from seed_jax.report import html, metrics, plots
from seed_jax.report.tables import Table
from seed_jax.report.verdict import answer, milestones

INTERVALS = "In brackets: Wilson's 95 % interval, over the images of a probe."

Series = tuple[list[float], list[float]]


def series(rows: Sequence[Mapping[str, float | str]]) -> dict[str, Series]:
    """Steps and values of every metric by name, in the order of the steps.

    Of two values at one step, the one in the later row is taken. Texts are left out.

    >>> series([{"step": 4, "loss": 1.0}, {"step": 2, "loss": 5.0, "host": "a"}])
    {'loss': ([2, 4], [5.0, 1.0])}
    """
    table: dict[str, dict[float, float]] = {}
    for row in rows:
        for name, value in row.items():
            if name != "step" and not isinstance(value, str):
                table.setdefault(name, {})[row["step"]] = value
    return {
        name: (sorted(points), [points[step] for step in sorted(points)]) for name, points in table.items()
    }


def run_table(workdir: str | os.PathLike) -> Table:
    """A table of every metric of a run: its last, lowest and highest value, each with its step.

    Raises:
      UserError: the workdir has no metrics, or they are damaged.
    """
    rows = []
    for name, (steps, values) in _in_order(series(metrics.read(workdir))).items():
        finite = [(value, step) for step, value in zip(steps, values, strict=True) if math.isfinite(value)]
        if not finite:
            rows.append((name, "not finite", None, None))
            continue
        shown = [(values[-1], steps[-1]), min(finite), max(finite, key=lambda point: point[0])]
        rows.append((name, *(f"{_show(name, value)} @ {step}" for value, step in shown)))
    return Table(("metric", "last @ step", "lowest @ step", "highest @ step"), rows)


def run_report(workdir: str | os.PathLike) -> Path:
    """Write `report.html` into the workdir of a run, and return its path.

    The page begins with what `answer` and `milestones` say. The curves, the numbers, the configuration and
    the manifest follow. Metrics whose names agree up to the first `/` are drawn in one figure.

    Raises:
      UserError: the workdir has no metrics, or a file in it is damaged.
    """
    workdir = Path(workdir)
    curves = _in_order(series(metrics.read(workdir)))
    if not curves:
        raise UserError(f"{workdir / metrics.FILE} has no metrics yet: wait for the first log step or probe.")
    groups: dict[str, dict[str, Series]] = {}
    for name, points in curves.items():
        groups.setdefault(name.partition("/")[0], {})[name] = points
    figures = []
    for group, members in groups.items():
        names = list(members)
        for start in range(0, len(names), plots.MAX_SERIES):
            lines = {name: [members[name]] for name in names[start : start + plots.MAX_SERIES]}
            title = group if len(lines) > 1 else names[start]
            figures.append(
                plots.curves(
                    lines, title=title, percent=metrics.is_share(names[start]), name=f"plot{len(figures)}"
                )
            )
    details = [
        html.Details(summary, Table(("key", "value"), list(_flat(files.read_json(workdir / file)))))
        for summary, file in (("Configuration", "config.json"), ("Manifest", "manifest.json"))
        if (workdir / file).exists()
    ]
    last = max(points[0][-1] for points in curves.values())
    sentence, scores = answer(workdir)
    early = "".join(f" {said}" for said in milestones(workdir).values())
    return html.write(
        workdir / "report.html",
        workdir.resolve().name,
        lead=f"{sentence}{early} Step {last} of the run; values are those of `{metrics.FILE}`.",
        figures=figures,
        tables=[*([] if scores is None else [scores]), run_table(workdir)],
        notes=[] if scores is None else [INTERVALS],
        details=details,
    )


def _in_order(curves: dict[str, Series]) -> dict[str, Series]:
    """Accuracies first, then the loss, the learning rate, and the rest; otherwise in the given order."""

    def rank(name: str) -> int:
        if metrics.is_share(name):
            return 0
        return {"loss": 1, "lr": 2}.get(name, 3)

    return {name: curves[name] for name in sorted(curves, key=rank)}


def _show(name: str, value: float) -> str:
    return f"{100 * value:.1f} %" if metrics.is_share(name) else f"{value:.4g}"


def _flat(value, prefix: str = ""):
    """Yield a row (dotted key, text) for each value in nested dicts."""
    if isinstance(value, dict) and value:
        for key, inner in value.items():
            yield from _flat(inner, f"{prefix}.{key}" if prefix else str(key))
    else:
        yield prefix, value if isinstance(value, str) else json.dumps(value)
