"""Draw curves as SVG that takes its colours from the page, so it reads well in light and in dark mode."""

import dataclasses
import html
import io
import math
import re
from collections.abc import Mapping, Sequence

import numpy as np

# Placeholders in matplotlib's output, replaced by the page's CSS variables.
_INK, _FAINT = "#010101", "#020202"
_SERIES = ("#030301", "#030302", "#030303", "#030304", "#030305", "#030306")
_CSS = {_INK: "var(--ink)", _FAINT: "var(--faint)"} | {c: f"var(--series-{i})" for i, c in enumerate(_SERIES)}
MAX_SERIES = len(_SERIES)
_MAX_POINTS = 150
_SIZE = (4.8, 2.5)  # inches; about the width of a phone at 72 units an inch
_LETTER = 0.08  # inches, a generous mean width of the letters
_STYLE = {
    "svg.fonttype": "none",
    "font.family": "sans-serif",
    "font.size": 10.5,
    "text.color": _INK,
    "text.parse_math": False,
    "xtick.color": _INK,
    "ytick.color": _INK,
    "axes.edgecolor": _FAINT,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.spines.left": False,
    "axes.formatter.useoffset": False,
}

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


@dataclasses.dataclass(frozen=True)
class Figure:
    """An `<svg>` element, which includes its alternative text, and the caption below it."""

    svg: str
    caption: str = ""


def curves(
    lines: Curves,
    *,
    title: str,
    percent: bool = False,
    caption: str = "",
    name: str = "plot",
) -> Figure:
    """Draw one line per name, with a band of ± one standard deviation over its seeds.

    If there are several lines, each has its name at its end.

    Args:
      lines: at most `MAX_SERIES` names, each with one (steps, values) pair per seed.
      title: of the figure.
      percent: the values are fractions; show them in percent.
      caption: shown below the figure.
      name: prefix of the ids inside the SVG; must be unique in a page.
    """
    import matplotlib
    from matplotlib import figure as mpl

    with matplotlib.rc_context(_STYLE | {"svg.hashsalt": name}):
        figure = mpl.Figure(figsize=_SIZE)
        names = list(lines) if len(lines) > 1 else []
        room = min(0.45, 0.02 + max(map(len, names), default=0) * _LETTER / _SIZE[0])
        axes = figure.add_axes((0.13, 0.2, 0.85 - room, 0.66))
        axes.set_title(f"{title}, %" if percent else title, loc="left", fontsize=11, color=_INK)
        ends = _draw(axes, lines, 100.0 if percent else 1.0)
        if names:
            _label_ends(axes, ends)
        output = io.StringIO()
        figure.savefig(output, format="svg", transparent=True, metadata={"Date": None})
    description = _describe(title, ends)
    return Figure(_inline(output.getvalue(), name, description), caption)


def _draw(axes, lines: Curves, unit: float) -> list[tuple[str, float, float, str]]:
    """Draw everything but the names; return (name, last value, its deviation, colour) of every line."""
    from matplotlib.ticker import MaxNLocator

    ends = []
    for colour, (label, seeds) in zip(_SERIES, lines.items(), strict=False):
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
    axes.set_xlabel("step", loc="right", labelpad=1, color=_INK)
    axes.grid(axis="y", color=_FAINT, linewidth=0.6)
    axes.set_axisbelow(True)
    axes.tick_params(length=0)
    axes.xaxis.set_major_locator(MaxNLocator(5, integer=True))
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
    return f"{title} against step: {', '.join(sentences)}."


def _inline(svg: str, name: str, description: str) -> str:
    """Turn matplotlib's file into an element of a page: scalable, described, unique ids, colours from CSS."""
    svg = svg[svg.index("<svg") :]
    svg = re.sub(r"<(metadata|style)\b.*?</\1>", "", svg, flags=re.DOTALL)
    svg = re.sub(r' xmlns(:xlink)?="[^"]*"', "", svg).replace("xlink:href", "href")
    svg = re.sub(r'(\bid="|url\(#|href="#)', rf"\g<1>{name}-", svg)
    for placeholder, variable in _CSS.items():
        svg = svg.replace(placeholder, variable)
    box = re.search(r'viewBox="[^"]*"', svg).group()
    opening = f'<svg {box} role="img" aria-label="{html.escape(description)}">'
    return opening + svg[svg.index(">") + 1 :]
