"""Write what a comparison found: one page for readers, tables and figures for a paper."""

import json
import statistics
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np

from seed_jax.compare import sheet
from seed_jax.compare.results import Result, Row
from seed_jax.data import files
from seed_jax.report import html, metrics, plots, runs, svg
from seed_jax.report.tables import SCORES, Table, mean_std

PAGE = "report.html"


def write(result: Result, folder: Path) -> Path:
    """Write `report.html` into the folder, and return its path.

    The page begins with the answer: the difference of each row from the baseline in the deciding score. What
    was measured, the scores of all rows, the curves, cost, settings, failures and provenance follow. The
    table is also written as `table.md` and `table.tex`, its numbers as `table.csv` (`sheet.text`), and each
    figure as an `.svg` with fixed colours.

    Raises:
      UserError: a file cannot be written, or the metrics of a run are damaged.
    """
    table = scores_table(result)
    scores = {"scores": scores_figure(result)}
    curves, costs = curve_figures(result), cost_figures(result)
    blocks: list[html.Block] = [
        html.Answer(_answer(result), scores["scores"]),
        html.Lead(
            f"{_label(result.evals[0])}, {result.split} split, {result.images:,} images; {_compared(result)}."
        ),
        html.Heading("Scores and cost"),
        table,
    ]
    for heading, figures in (("During training", curves), ("Cost against accuracy", costs)):
        if figures:
            blocks += [html.Heading(heading), html.Figures([*figures.values()])]
    if (settings := settings_table(result)).rows:
        blocks += [html.Heading("Settings that differ"), settings]
    for heading, notes in (
        ("Failed", _lines(result, "failed")),
        ("Notes", [*_lines(result, "notes"), *result.notes]),
    ):
        if notes:
            blocks += [html.Heading(heading), html.Notes(notes)]
    if result.provenance:
        facts = Table(("what", "value"), list(result.provenance.items()))
        blocks += [html.Heading("Provenance"), facts]
    texts = {"md": table.markdown() + "\n", "csv": sheet.text(result), "tex": table.latex() + "\n"}
    for name, text in texts.items():
        files.write(folder / f"table.{name}", text)
    html.save(folder, [*scores.values(), *curves.values(), *costs.values()])
    return html.compose(folder / PAGE, result.title, blocks)


def scores_table(result: Result) -> Table:
    """One row per row: parameters, scores, difference from the baseline, and cost."""
    deciding = result.evals[0]
    columns: dict[str, list] = {
        "row": [row.name for row in result.rows],
        "parameters": [row.parameters and f"{row.parameters:,}" for row in result.rows],
    }
    for name in result.evals:
        columns[f"{_label(name)}, {result.split} %"] = [_values(row.scores, name) for row in result.rows]
        if any(_best(row, name) for row in result.rows):
            columns[f"{_label(name)}, best checkpoint, {result.split} %"] = [
                _best(row, name) for row in result.rows
            ]
    columns[f"{_label(deciding)} against the baseline"] = [_verdict(result, row) for row in result.rows]
    columns |= _cost_columns(result)
    return Table(list(columns), list(zip(*columns.values(), strict=True)))


def _cost_columns(result: Result) -> dict[str, list]:
    """What is measured of the cost of at least one row; the unit is the same in a column."""
    costs = {
        "minutes": _costs(result, lambda cost: cost.seconds and cost.seconds / 60),
        "FLOP": _costs(result, lambda cost: cost.flops),
        "memory": _costs(result, lambda cost: cost.memory and cost.memory / 2**30),
        "teacher images": _costs(result, lambda cost: cost.teacher_images),
    }
    columns = {}
    for name, values in costs.items():
        known = [value for value in values if value is not None]
        if not known:
            continue
        heading, show = name, "{:,.0f}".format
        if name == "minutes":
            show = _minutes
        elif name == "memory":
            heading, show = "memory, GiB", "{:.2f}".format
        elif name == "FLOP":
            unit, divisor = _flop_unit(max(known))
            heading, show = unit, "{:,.2f}".format
            values = [None if value is None else value / divisor for value in values]
        columns[heading] = [None if value is None else show(value) for value in values]
    return columns


def _minutes(value: float) -> str:
    """Minutes with one decimal; those below 0.1 with two significant digits.

    >>> _minutes(1234.56), _minutes(0.0123)
    ('1,234.6', '0.012')
    """
    return f"{value:,.1f}" if value >= 0.1 else f"{value:.2g}"


def scores_figure(result: Result) -> svg.Figure:
    """The deciding score of all rows: each seed, the mean, and the interval of the difference."""
    deciding, baseline = result.evals[0], _values(result.row(result.baseline).scores, result.evals[0])
    line = statistics.fmean(baseline) if baseline else None
    lanes, uneven = [], False
    for row in result.rows:
        values, found = _values(row.scores, deciding), result.difference(row.name, deciding)
        interval = None
        if values and found and line is not None:
            interval = (line + found.low, line + found.high)
            uneven |= abs(line + found.points - statistics.fmean(values)) > 0.05
        text = mean_std(values) if values else "no score"
        lanes.append(plots.Lane(row.name, values or (), text, interval, _mark(result, row)))
    caption = "Large marks: means; small dots: seeds. Numbers: mean ± standard deviation over the seeds."
    if line is not None:
        caption += f" Vertical line: the mean of {result.baseline}."
    if any(lane.interval for lane in lanes):
        caption += (
            " Bars: 95 % interval of the difference from it, drawn from this line: a bar that does not touch "
            "the line shows a difference; a ring marks a row without one."
        )
    if uneven:
        caption += " A bar is not centred on its mean where a row and the baseline lack different seeds."
    return plots.lanes(
        lanes, title=f"{_label(deciding)}, {result.split} %", line=line, caption=caption, name="scores"
    )


def curve_figures(result: Result) -> dict[str, svg.Figure]:
    """Probes on the validation split and the loss, by the name of the file, each with the baseline.

    The deciding score is drawn against steps, and against minutes.
    """
    groups: dict[str, list[dict[str, runs.Series]]] = {}
    minutes: dict[str, list[dict[str, runs.Series]]] = {}
    for row in result.rows:
        read = [metrics.read(w) for w in row.workdirs if (Path(w) / metrics.FILE).exists()]
        if read:
            groups[row.name] = [runs.series(rows) for rows in read]
            clocks = [metrics.clock(rows, row.settings["data.batch_size"]) for rows in read]
            minutes[row.name] = _against_minutes(groups[row.name], clocks)
    logged = {name for seeds in groups.values() for seed in seeds for name in seed}
    figures = {}
    for metric in (name for name in {**SCORES, **dict.fromkeys(result.evals)} if name in logged):
        title = f"{_label(metric)}, validation split"
        figures |= _curves(result, groups, metric, f"curve-{metric}", title=title, percent=True)
        if metric == result.evals[0]:
            name = f"curve-{metric}-minutes"
            figures |= _curves(result, minutes, metric, name, title=title, axis="minutes", percent=True)
    return figures | _curves(
        result,
        groups,
        "loss",
        "curve-loss",
        title="training loss",
        note=" Losses of different methods cannot be compared.",
    )


def _against_minutes(seeds: list[dict[str, runs.Series]], clocks) -> list[dict[str, runs.Series]]:
    """The series with minutes for steps, the same minutes for all seeds: their mean."""

    def mean_minutes(steps):
        return [statistics.fmean(float(np.interp(step, *clock)) / 60 for clock in clocks) for step in steps]

    return [{name: (mean_minutes(steps), values) for name, (steps, values) in seed.items()} for seed in seeds]


def _curves(
    result: Result, groups, metric: str, name: str, note: str = "", **options
) -> dict[str, svg.Figure]:
    """A metric of all rows that have it: as many figures as its lines need, each with the baseline."""
    lines = {
        row: [seed[metric] for seed in seeds]
        for row, seeds in groups.items()
        if all(metric in seed for seed in seeds)
    }
    first = {row: lines.pop(row) for row in [result.baseline] if row in lines}
    others, size = list(lines), plots.MAX_SERIES - len(first)
    figures = {}
    for number, start in enumerate(range(0, max(len(others), len(first)), size)):
        shown = {**first, **{row: lines[row] for row in others[start : start + size]}}
        seeds = max(map(len, shown.values()))
        caption = (
            f"Mean of {seeds} seeds; the band is ± one standard deviation." if seeds > 1 else "One seed."
        )
        file = name + (f"-{number + 1}" if number else "")
        figures[file] = plots.curves(shown, caption=caption + note, name=file, **options)
    return figures


def cost_figures(result: Result) -> dict[str, svg.Figure]:
    """The deciding score against minutes and against FLOPs, where at least two rows have them."""
    deciding = result.evals[0]
    figures = {}
    axes = {
        "minutes": _costs(result, lambda cost: cost.seconds and cost.seconds / 60),
        "flops": _costs(result, lambda cost: cost.flops),
    }
    for kind, costs in axes.items():
        known = [
            (row, cost, _values(row.scores, deciding))
            for row, cost in zip(result.rows, costs, strict=True)
            if cost and _values(row.scores, deciding)
        ]
        if len(known) < 2:
            continue
        unit, divisor = (
            ("minutes", 1.0) if kind == "minutes" else _flop_unit(max(cost for _, cost, _ in known))
        )
        points = [
            plots.Point(
                row.name,
                cost / divisor,
                statistics.fmean(values),
                statistics.stdev(values) if len(values) > 1 else 0.0,
                _mark(result, row),
            )
            for row, cost, values in known
        ]
        caption = (
            f"Diamond: {result.baseline}." if any(row.name == result.baseline for row, *_ in known) else ""
        )
        if any(point.deviation for point in points):
            caption += " Vertical lines: ± one standard deviation over the seeds."
        figures[f"cost-{kind}"] = plots.scatter(
            points,
            title=f"{_label(deciding)}, {result.split} %",
            axis=unit,
            caption=caption,
            name=f"cost-{kind}",
        )
    return figures


def settings_table(result: Result) -> Table:
    """The keys of the config whose values differ between rows, side by side."""
    trained = [row for row in result.rows if row.settings]
    keys = sorted({key for row in trained for key in row.settings})
    rows = [(key, *(_setting(row.settings, key) for row in trained)) for key in keys]
    return Table(
        ("key", *(row.name for row in trained)), [row for row in rows if len({*row[1:]}) > 1 and trained]
    )


def _setting(settings: Mapping[str, object], key: str) -> str | None:
    if key not in settings:
        return None
    value = settings[key]
    return value or "''" if isinstance(value, str) else json.dumps(value, default=str)


def _answer(result: Result) -> list[tuple[str, str, bool]]:
    """A line for each row with a difference or a failure: its name, what is said, whether to stress it.

    Rows that others need come last.
    """
    deciding, lines = result.evals[0], []
    needed = {name for row in result.rows for name in row.needs}
    for row in sorted(result.rows, key=lambda row: row.name in needed):
        found = result.difference(row.name, deciding)
        if found is not None:
            words, _, interval = found.sentence().partition(" (")
            against = f"{words} than {result.baseline}"
            if not found.shown:
                against = f"no difference from {result.baseline} shown"
            lines.append((row.name, f"{against} ({interval}", found.shown))
        if row.failed:
            lines.append((row.name, _failure(row), False))
    if not any(difference.score == deciding for difference in result.differences):
        lines = [(result.title, f"no row can be compared with {result.baseline}", False), *lines]
    return lines


def _failure(row: Row) -> str:
    """How much of a row failed."""
    if not row.scores:
        return "failed, see below"
    return f"{len(row.failed)} seed{'s' * (len(row.failed) > 1)} failed, see below"


def _compared(result: Result) -> str:
    return f"each row minus {result.baseline}, in percentage points, with a 95 % interval"


def _verdict(result: Result, row: Row) -> str | None:
    """The difference in words, or whether the row is the baseline or failed."""
    found = result.difference(row.name, result.evals[0])
    if found is not None:
        return found.sentence()
    if row.name == result.baseline and _values(row.scores, result.evals[0]):
        return "baseline"
    return "failed" if row.failed else None


def _lines(result: Result, field: str) -> list[str]:
    return [f"{row.name}: {sentence}" for row in result.rows for sentence in getattr(row, field)]


def _values(scores: Mapping[str, Sequence[float]], name: str) -> list[float] | None:
    return list(scores.get(name, ())) or None


def _best(row: Row, name: str) -> list[float] | None:
    """The scores at the best checkpoint; None where they are those of the last one."""
    best = _values(row.best, name)
    return None if best == _values(row.scores, name) else best


def _costs(result: Result, of: Callable) -> list[float | None]:
    return [None if row.cost is None else of(row.cost) for row in result.rows]


def _flop_unit(largest: float) -> tuple[str, float]:
    """The unit for a column of FLOPs, and what to divide by.

    >>> _flop_unit(2.5e15)
    ('PFLOP', 1000000000000000.0)
    """
    units = {"EFLOP": 1e18, "PFLOP": 1e15, "TFLOP": 1e12, "GFLOP": 1e9, "MFLOP": 1e6}
    return next(((unit, size) for unit, size in units.items() if largest >= size), ("FLOP", 1.0))


def _label(score: str) -> str:
    return SCORES.get(score, score)


def _mark(result: Result, row: Row) -> str:
    """A diamond for the baseline, a ring for a row without a shown difference, else a dot."""
    found = result.difference(row.name, result.evals[0])
    if row.name == result.baseline:
        return "diamond"
    return "ring" if found is not None and not found.shown else "dot"
