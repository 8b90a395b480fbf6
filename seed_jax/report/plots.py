"""Figures of runs and comparisons: curves, lanes of scores, scatter plots."""

import dataclasses
import itertools
import math
from collections.abc import Mapping, Sequence

import numpy as np

from seed_jax.report import svg

MAX_SERIES = len(svg.SERIES)
MARKS = {
    "dot": {"marker": "o", "markerfacecolor": svg.INK},
    "ring": {"marker": "o", "markerfacecolor": svg.PAGE},
    "diamond": {"marker": "D", "markerfacecolor": svg.INK},
}

_MAX_POINTS = 150
_ROOM = 0.3  # of the width; longer names are written above the plot

# Curves by name: one (steps, values) pair of equally long sequences per seed.
Curves = Mapping[str, Sequence[tuple[Sequence[float], Sequence[float]]]]


def summarise(
    seeds: Sequence[tuple[Sequence[float], Sequence[float]]],
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Mean and sample standard deviation over seeds at the steps that all seeds have.

    A curve of more than 150 points is thinned to 150: each is the mean of consecutive points.

    Returns:
      Steps, means and standard deviations (0 for one seed), float64 `[T]` each.
    """
    by_step = [dict(zip(steps, values, strict=True)) for steps, values in seeds]
    steps = np.array(sorted(set.intersection(*map(set, by_step))), float)
    values = np.array([[seed[step] for step in steps] for seed in by_step], float).reshape(len(seeds), -1)
    if len(steps) > _MAX_POINTS:
        bins = np.array_split(np.arange(len(steps)), _MAX_POINTS)
        steps = np.array([steps[b].mean() for b in bins])
        values = np.array([values[:, b].mean(axis=1) for b in bins]).T
    deviation = values.std(axis=0, ddof=1) if len(seeds) > 1 else np.zeros(len(steps))
    return steps, values.mean(axis=0), deviation


def curves(
    lines: Curves,
    *,
    title: str,
    axis: str = "step",
    percent: bool = False,
    caption: str = "",
    name: str = "plot",
) -> svg.Figure:
    """Draw one line per name, with a band of ± one standard deviation over its seeds.

    If there are several lines, each has its name at its end, or above the plot if the names are long.

    Args:
      lines: at most `MAX_SERIES` names, each with one (steps, values) pair per seed.
      title: of the figure.
      axis: name of the horizontal axis.
      percent: the values are fractions; show them in percent.
      caption: shown below the figure.
      name: prefix of the ids inside the SVG; must be unique in a page.
    """
    names = list(lines) if len(lines) > 1 else []
    room = max((svg.text_width(label) for label in names), default=0) / (72 * svg.SIZE[0])
    above = svg.wrap_names(names) if room > _ROOM else []
    heading = svg.heading(above)
    with svg.canvas(name, 72 * svg.SIZE[1] + heading) as (figure, output):
        height = 72 * figure.get_figheight()
        room = 0.81 if above or not names else 0.83 - room
        axes = figure.add_axes((0.13, 36 / height, room, 0.66 * 72 * svg.SIZE[1] / height))
        svg.title(figure, f"{title}, %" if percent else title)
        ends = _draw(axes, lines, axis, 100.0 if percent else 1.0)
        if above:
            svg.key(figure, [("●", lines, colour) for lines, colour in zip(above, svg.SERIES, strict=False)])
        elif names:
            _label_ends(axes, ends)
        figure.savefig(output, format="svg", transparent=True, metadata={"Date": None})
    return svg.Figure(
        svg.inline(output.getvalue(), name, _describe(f"{title} against {axis}", ends)), name, caption
    )


@dataclasses.dataclass(frozen=True)
class Lane:
    """One row of `lanes`.

    Attributes:
      name: above the lane.
      values: one for each seed; empty for a row without scores.
      text: to the right of the name.
      interval: lowest and highest value of the line through the mean; None without one.
      mark: a key of `MARKS`.
    """

    name: str
    values: Sequence[float]
    text: str
    interval: tuple[float, float] | None = None
    mark: str = "dot"


def lanes(
    rows: Sequence[Lane], *, title: str, line: float | None, caption: str = "", name: str = "plot"
) -> svg.Figure:
    """Draw one lane per row: a large mark at the mean, a small dot per seed, and a line for the interval.

    Args:
      rows: from top to bottom. A row without values is written without dots.
      title: of the figure.
      line: where to draw the vertical line of the baseline; None for no line.
      caption: shown below the figure.
      name: prefix of the ids inside the SVG; must be unique in a page.
    """
    from matplotlib.ticker import MaxNLocator

    width, margin, lane = 72 * svg.SIZE[0], 10, 24
    texts = [svg.wrap(row.name, width - svg.text_width(row.text) - 14) for row in rows]
    tops = list(itertools.accumulate((svg.LINE * len(text) + lane + 8 for text in texts), initial=0))
    below, top = 24, 30
    with svg.canvas(name, tops[-1] + top + below) as (figure, output):
        height = tops[-1] + top + below
        axes = figure.add_axes((margin / width, below / height, 1 - 2 * margin / width, tops[-1] / height))
        svg.title(figure, title)
        spread = [value for row in rows for value in (*row.values, *(row.interval or ()))]
        spread += [] if line is None else [line]
        low, high = (min(spread), max(spread)) if spread else (0.0, 1.0)
        pad = 0.04 * (high - low) or 0.5
        axes.set(xlim=(low - pad, high + pad), ylim=(tops[-1], 0))
        axes.xaxis.set_major_locator(MaxNLocator(5))
        axes.yaxis.set_visible(False)
        axes.tick_params(length=0)
        for row, text, begin in zip(rows, texts, tops, strict=False):
            _lane(axes, row, text, begin, lane, line)
        figure.savefig(output, format="svg", transparent=True, metadata={"Date": None})
    description = f"{title}: {', '.join(f'{row.name} {row.text}' for row in rows)}."
    return svg.Figure(svg.inline(output.getvalue(), name, description), name, caption)


def _lane(axes, row: Lane, text: Sequence[str], top: float, lane: float, line: float | None) -> None:
    where, edge = axes.get_yaxis_transform(), (10 - svg.MARGIN) / (72 * svg.SIZE[0] - 20)
    for i, words in enumerate(text):
        axes.text(-edge, top + svg.LINE * (i + 0.6), words, transform=where, va="center", color=svg.INK)
    axes.text(
        1 + edge, top + svg.LINE * 0.6, row.text, transform=where, va="center", ha="right", color=svg.SOFT
    )
    begin = top + svg.LINE * len(text)
    at = begin + 9
    axes.plot([0, 1], [at, at], transform=where, color=svg.FAINT, linewidth=0.8, zorder=1)
    if line is not None:
        axes.plot([line, line], [begin, begin + lane - 3], color=svg.SOFT, linewidth=1.2, zorder=2)
    if not row.values:
        return
    if row.interval is not None:
        axes.plot(row.interval, [at, at], color=svg.INK, linewidth=2, zorder=3, solid_capstyle="butt")
    if len(row.values) > 1:
        level = [at + 8] * len(row.values)  # below the bar, which would hide them
        axes.plot(row.values, level, "o", color=svg.SOFT, markersize=3.6, markeredgewidth=0, zorder=4)
    axes.plot(
        np.mean(row.values),
        at,
        color=svg.INK,
        markersize=6.5,
        markeredgewidth=1.4,
        zorder=5,
        **MARKS[row.mark],
    )


@dataclasses.dataclass(frozen=True)
class Point:
    """One point of `scatter`.

    Attributes:
      label: its name.
      x, y: where it is.
      deviation: half the length of the vertical line through it.
      mark: a key of `MARKS`.
    """

    label: str
    x: float
    y: float
    deviation: float = 0.0
    mark: str = "dot"


def scatter(
    points: Sequence[Point], *, title: str, axis: str, caption: str = "", name: str = "plot"
) -> svg.Figure:
    """Draw labelled points; long names become numbers with a key above the plot.

    The horizontal axis is logarithmic if the largest x is more than 20 times the smallest. Otherwise it
    starts at 0 if the largest x is more than twice the smallest.

    Args:
      points: at least one; x positive.
      title: of the figure and of the vertical axis.
      axis: name of the horizontal axis.
      caption: shown below the figure.
      name: prefix of the ids inside the SVG; must be unique in a page.
    """
    from matplotlib.ticker import MaxNLocator

    short = (
        max(svg.text_width(point.label) for point in points) <= _ROOM * 72 * svg.SIZE[0]
        and len(points) <= MAX_SERIES
    )
    labels = [p.label if short else str(i) for i, p in enumerate(points, start=1)]
    key = [] if short else svg.wrap_names([p.label for p in points])
    heading = svg.heading(key)
    with svg.canvas(name, 72 * svg.SIZE[1] + heading) as (figure, output):
        height = 72 * figure.get_figheight()
        axes = figure.add_axes((0.13, 36 / height, 0.81, 0.66 * 72 * svg.SIZE[1] / height))
        svg.title(figure, title)
        svg.key(figure, [(label, lines, svg.INK) for label, lines in zip(labels, key, strict=False)])
        for point in points:
            bar = {"yerr": point.deviation, "linewidth": 1.2} if point.deviation else {}
            axes.errorbar(
                point.x,
                point.y,
                color=svg.INK,
                markersize=5.5,
                markeredgewidth=1.2,
                **MARKS[point.mark],
                **bar,
            )
        axes.grid(axis="y", color=svg.FAINT, linewidth=0.6)
        axes.set_axisbelow(True)
        axes.tick_params(length=0, pad=6)
        xs = [point.x for point in points]
        if max(xs) > 20 * min(xs):
            axes.set_xscale("log")
            axes.margins(x=0.1, y=0.15)
        else:
            axes.xaxis.set_major_locator(MaxNLocator(5))
            if max(xs) > 2 * min(xs):
                axes.set_xlim(0, 1.12 * max(xs))
            axes.margins(x=0.12, y=0.15)
        axes.yaxis.set_major_locator(MaxNLocator(5))
        axes.set_xlabel(axis, loc="right", labelpad=1, color=svg.INK)
        axes.autoscale_view()  # or the places would be those of other limits
        _place(axes, points, labels)
        figure.savefig(output, format="svg", transparent=True, metadata={"Date": None})
    description = f"{title} against {axis}: " + ", ".join(f"{p.label} {p.y:.4g} at {p.x:.4g}" for p in points)
    return svg.Figure(svg.inline(output.getvalue(), name, f"{description}."), name, caption)


def _place(axes, points: Sequence[Point], labels: Sequence[str]) -> None:
    """Write each label near its point, where it covers neither a point nor another label."""
    at = axes.transData.transform([(p.x, p.y) for p in points]) * 72 / axes.figure.dpi
    frame = axes.bbox.extents * 72 / axes.figure.dpi
    taken = [(x - 4, y - 4, x + 4, y + 4) for x, y in at]
    for (x, y), label in zip(at, labels, strict=True):
        half = svg.text_width(label) / 2
        places = [
            (x + side * (half + 6 + away) * math.cos(angle), y + (10 + away) * math.sin(angle))
            for away in range(0, 120, 4)
            for angle in (0, math.pi / 2, -math.pi / 2, math.pi / 4, -math.pi / 4)
            for side in (1, -1)
        ]
        boxes = [(a - half, b - svg.LINE / 2, a + half, b + svg.LINE / 2) for a, b in places]
        free = (
            box
            for box in boxes
            if box[0] >= frame[0] and box[1] >= frame[1] and box[2] <= frame[2] + 6 and box[3] <= frame[3] + 8
            if not any(_overlap(box, other) for other in taken)
        )
        box = next(free, boxes[0])
        taken.append(box)
        middle = ((box[0] + box[2]) / 2 - x, (box[1] + box[3]) / 2 - y)
        far = math.hypot(*middle) > half + 18
        axes.annotate(
            label,
            axes.transData.inverted().transform((x * axes.figure.dpi / 72, y * axes.figure.dpi / 72)),
            middle,
            textcoords="offset points",
            ha="center",
            va="center",
            color=svg.INK,
            arrowprops={"arrowstyle": "-", "color": svg.FAINT, "shrinkA": 0, "shrinkB": 3} if far else None,
        )


def _overlap(a, b) -> bool:
    return a[0] < b[2] and b[0] < a[2] and a[1] < b[3] and b[1] < a[3]


def _draw(axes, lines: Curves, axis: str, unit: float) -> list[tuple[str, float, float, str]]:
    """Draw everything but the names; return (name, last value, its deviation, colour) of every line."""
    from matplotlib.ticker import MaxNLocator

    ends = []
    for colour, (label, seeds) in zip(svg.SERIES, lines.items(), strict=False):
        steps, mean, deviation = summarise(seeds)
        mean, deviation = unit * mean, unit * deviation
        axes.plot(
            steps, mean, color=colour, linewidth=1.4, marker="o" if len(mean) == 1 else None, markersize=4
        )
        if deviation.any():
            axes.fill_between(
                steps, mean - deviation, mean + deviation, color=colour, alpha=0.22, linewidth=0
            )
        finite = np.flatnonzero(np.isfinite(mean))
        if len(finite):
            ends.append((label, mean[finite[-1]], deviation[finite[-1]], colour))
    axes.margins(x=0.01, y=0.08)
    axes.set_xlabel(axis, loc="right", labelpad=1, color=svg.INK)
    axes.grid(axis="y", color=svg.FAINT, linewidth=0.6)
    axes.set_axisbelow(True)
    axes.tick_params(length=0)
    axes.xaxis.set_major_locator(MaxNLocator(5, integer=axis == "step"))
    if len(steps := {step for line in axes.lines for step in line.get_xdata()}) == 1:
        axes.set_xticks([*steps])
    axes.yaxis.set_major_locator(MaxNLocator(5))
    return ends


def _label_ends(axes, ends) -> None:
    """Write the names to the right of the lines, moved apart where they would overlap."""
    low, high = axes.get_ylim()
    gap = 0.095 * (high - low)
    ends = sorted(ends, key=lambda end: end[1])
    heights, lowest, highest = [], -math.inf, high
    for _, value, _, _ in ends:
        lowest = max(value, lowest + gap)
        heights.append(lowest)
    for i in reversed(range(len(ends))):
        heights[i] = min(heights[i], highest)
        highest = heights[i] - gap
    where = {"xycoords": ("axes fraction", "data"), "va": "center", "annotation_clip": False}
    for (label, _, _, colour), height in zip(ends, heights, strict=True):
        axes.annotate(label, (1.015, height), color=colour, **where)


def _describe(title: str, ends) -> str:
    """The alternative text: the last value of each line."""
    sentences = [
        f"{label} ends at {value:.4g}" + (f" ± {spread:.2g}" if spread else "")
        for label, value, spread, _ in ends
    ]
    return f"{title}: {', '.join(sentences)}."
