"""Reports of runs from what their workdirs hold: one run, or a comparison of several over seeds."""

import json
import math
import os
from collections.abc import Mapping, Sequence
from pathlib import Path

from seed_jax.data import files
from seed_jax.errors import UserError
from seed_jax.report import html, metrics, plots
from seed_jax.report.tables import Table

# A metric with one of these among the parts of its name is a fraction and is shown in percent.
_FRACTIONS = {"knn", "probe", "linear", "accuracy", "acc", "top1", "top5"}
_FIRST = ("knn", "probe", "linear", "accuracy", "loss", "lr")

Series = tuple[list[float], list[float]]


def series(rows: Sequence[Mapping[str, float | str]]) -> dict[str, Series]:
    """Steps and values of every metric, in order of step; of two values at one step the later counts.

    Texts are left out.
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
    """Every metric of a run: its last value, its lowest and its highest, with their steps."""
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
    """Write `report.html` into the workdir of a run: its curves, numbers, configuration and manifest.

    Metrics that share the part of their name before the first `/` share a figure.

    Raises:
      UserError: the workdir has no metrics, or a file in it is damaged.
    """
    workdir = Path(workdir)
    curves = _in_order(series(metrics.read(workdir)))
    if not curves:
        raise UserError(
            f"{workdir / metrics.FILE} holds no metrics yet; the first are written at the first log step."
        )
    groups: dict[str, dict[str, Series]] = {}
    for name, points in curves.items():
        groups.setdefault(name.partition("/")[0], {})[name] = points
    figures = []
    for group, members in groups.items():
        names = list(members)
        for start in range(0, len(names), plots.MAX_SERIES):
            part = {name: [members[name]] for name in names[start : start + plots.MAX_SERIES]}
            title = group if len(part) > 1 else names[start]
            figures.append(
                plots.curves(
                    part, title=title, percent=_is_fraction(names[start]), name=f"plot{len(figures)}"
                )
            )
    details = [
        html.Details(summary, Table(("key", "value"), list(_flat(files.read_json(workdir / file)))))
        for summary, file in (("Configuration", "config.json"), ("Manifest", "manifest.json"))
        if (workdir / file).exists()
    ]
    last = max(points[0][-1] for points in curves.values())
    return html.write(
        workdir / "report.html",
        workdir.resolve().name,
        lead=f"Step {last}. Accuracies are in percent; values are those of `{metrics.FILE}`.",
        figures=figures,
        tables=[run_table(workdir)],
        details=details,
    )


def compare(
    path: str | os.PathLike,
    runs: Mapping[str, Sequence[str | os.PathLike]],
    *,
    title: str,
    curves: Sequence[str],
    levels: Mapping[str, Mapping[str, float]] | None = None,
    lead: str = "",
    tables: Sequence[Table] = (),
    notes: Sequence[str] = (),
) -> Path:
    """Write one page that sets groups of runs side by side: a line a group, a band of ± 1 std over its seeds.

    Each figure is also written beside it, as `<metric>.svg`.

    Args:
      path: of the HTML file.
      runs: workdirs by name, one workdir a seed; at most `plots.MAX_SERIES` names.
      curves: the metrics to draw, e.g. `knn/10`; a group without a metric is left out of its figure.
      levels: by metric, named horizontal lines, e.g. `{'knn/10': {'teacher': 0.97}}`.
      tables: the results, for which a README uses the same `Table.markdown()`.

    Raises:
      UserError: there are too many names, a workdir has no metrics, or no run has a metric in `curves`.
    """
    if len(runs) > plots.MAX_SERIES:
        raise UserError(
            f"{len(runs)} groups are too many for one figure; compare at most {plots.MAX_SERIES}."
        )
    found = {name: [series(metrics.read(workdir)) for workdir in workdirs] for name, workdirs in runs.items()}
    figures = []
    for metric in curves:
        lines = {
            name: [seed[metric] for seed in seeds]
            for name, seeds in found.items()
            if all(metric in s for s in seeds)
        }
        if not lines:
            raise UserError(f"no run has the metric {metric!r}; check the names in its {metrics.FILE}.")
        seeds = sorted({len(line) for line in lines.values()})
        caption = f"Mean of {' to '.join(map(str, seeds))} seeds; the band is ± one standard deviation."
        figures.append(
            plots.curves(
                lines,
                title=metric,
                levels=(levels or {}).get(metric),
                percent=_is_fraction(metric),
                caption=caption if seeds[-1] > 1 else "One seed.",
                name=f"plot{len(figures)}",
            )
        )
    for metric, figure in zip(curves, figures, strict=True):
        picture = Path(path).parent / f"{metric.replace('/', '_')}.svg"
        html.save(picture, html.standalone(figure))
    return html.write(path, title, lead=lead, tables=tables, figures=figures, notes=notes)


def _in_order(curves: dict[str, Series]) -> dict[str, Series]:
    """Accuracies first, then loss, learning rate and the rest in the order in which they came."""

    def rank(name: str) -> int:
        group = name.partition("/")[0]
        return _FIRST.index(group) if group in _FIRST else len(_FIRST)

    return {name: curves[name] for name in sorted(curves, key=rank)}


def _is_fraction(name: str) -> bool:
    return not _FRACTIONS.isdisjoint(name.replace("_", "/").split("/"))


def _show(name: str, value: float) -> str:
    return f"{100 * value:.1f} %" if _is_fraction(name) else f"{value:.4g}"


def _flat(value, prefix: str = ""):
    """Rows (dotted key, text) of nested dicts."""
    if isinstance(value, dict) and value:
        for key, inner in value.items():
            yield from _flat(inner, f"{prefix}.{key}" if prefix else str(key))
    else:
        yield prefix, value if isinstance(value, str) else json.dumps(value)
