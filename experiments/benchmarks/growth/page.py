"""The results of the benchmark of growth as Markdown tables and as a figure."""

import numpy as np

from experiments.benchmarks import quiet
from experiments.benchmarks.growth import laws
from seed_jax.report import svg
from seed_jax.report.tables import Table

MIB = 2**20
STEP = {
    "step, ms": ("step_ms", 1),
    "loss, ms": ("loss_ms", 1),
    "arguments, MiB": ("arguments", MIB),
    "temporaries, MiB": ("temporaries", MIB),
    "peak of the process, MiB": ("peak", MIB),
}
START = {"start, ms": ("start_ms", 1), "first start, ms": ("first_ms", 1), "index, MiB": ("index", MIB)}
COLUMNS = {"K": STEP, "batch": STEP, "devices": STEP, "images": START}
# The expected law of each column. Fake devices share the cores, so more of them do not make a step shorter.
EXPECTED = {
    "K": ("linear", "linear", "linear", "constant", "linear"),
    "batch": ("linear", "linear", "linear", "linear", "linear"),
    "devices": ("constant", "constant", "inverse", "inverse", "linear"),
    "images": ("linear", "linear", "linear"),
}
DRAWN = {"K": ("step_ms", "program"), "images": ("start_ms", "index")}  # a time and a size; else as for K


def fits(axis: str, points: list[dict]) -> dict[str, laws.Fit]:
    """The expected laws of an axis through its points, by column."""
    xs, expected = [point["x"] for point in points], zip(COLUMNS[axis].items(), EXPECTED[axis], strict=True)
    return {
        name: laws.fit(law, xs, [point[key] / unit for point in points])
        for (name, (key, unit)), law in expected
    }


def page(results: dict) -> str:
    """The results as Markdown: what was measured, and the law of each column."""
    axes = results["axes"]
    taken = [point["others"] for points in axes.values() for point in points if "others" in point]
    rows = [
        [axis, f"{point['x']:,}", *(point[key] / unit for key, unit in STEP.values())]
        for axis in ("K", "batch", "devices")
        for point in axes[axis]
    ]
    starts = [
        [f"{p['x']:,}", *(p[key] / unit for key, unit in START.values()), p["index"] / p["x"]]
        for p in axes["images"]
    ]
    laws_ = [
        [axis, name, fit.law, str(fit), f"{fit.exponent:.2f}", f"{100 * fit.worst:.0f}", _yes(fit.straight)]
        for axis, points in axes.items()
        for name, fit in fits(axis, points).items()
    ]
    header = ["along", "column", "expected", "fitted", "exponent at the end", "worst point, %", "straight"]
    return "\n\n".join(
        [
            f"{results['described']}; {results['processor']}; "
            f"{quiet.told(None if None in taken else max(taken))} at most during a timing; "
            f"{results['seconds']:.0f} s in all.",
            Table(["along", "x", *STEP], rows).markdown(),
            Table(["images", *START, "bytes an image"], starts).markdown(),
            Table(header, laws_).markdown(),
            f"The exponent is the slope of the upper half of the points on logarithmic axes; straight means "
            f"that every point is within {laws.STRAIGHT:.0%} of the law.",
        ]
    )


def figure(results: dict) -> svg.Figure:
    """A panel for each axis, logarithmic: dots for what was measured, lines for the laws."""
    width, height, key = (
        72 * svg.SIZE[0],
        372,
        ("time, ms: a step; a start", "memory, MiB: a device; the index"),
    )
    described = []
    with svg.canvas("growth", height) as (drawing, output):
        svg.title(drawing, "Time and memory against size")
        entries = [("●", [text], colour) for text, colour in zip(key, svg.SERIES, strict=False)]
        svg.key(drawing, entries)
        for number, (axis, points) in enumerate(results["axes"].items()):
            left, bottom = (40 + number % 2 * width / 2) / width, (196 - number // 2 * 160) / height
            axes = drawing.add_axes((left, bottom, (width / 2 - 52) / width, 108 / height))
            described.append(_panel(axes, axis, points))
        drawing.savefig(output, format="svg", transparent=True, metadata={"Date": None})
    return svg.Figure(svg.inline(output.getvalue(), "growth", " ".join(described)), "growth")


def _panel(axes, axis: str, points: list[dict]) -> str:
    """Draw one axis; return the sentence that describes it."""
    from matplotlib.ticker import LogLocator, NullLocator

    xs, said = [point["x"] for point in points], []
    keys = dict(COLUMNS[axis].values()) | {"program": MIB}
    names = {key: name for name, (key, _) in COLUMNS[axis].items()} | {"program": "memory of a device, MiB"}
    expected = {key: law for (key, _), law in zip(COLUMNS[axis].values(), EXPECTED[axis], strict=True)}
    expected["program"] = expected.get("arguments")
    axes.set(xscale="log", yscale="log")
    for key, colour in zip(DRAWN.get(axis, DRAWN["K"]), svg.SERIES, strict=False):
        ys = [point[key] / keys[key] for point in points]
        between = np.geomspace(xs[0], xs[-1])
        axes.plot(between, laws.fit(expected[key], xs, ys)(between), color=colour, linewidth=1.2)
        axes.plot(xs, ys, "o", color=colour, markersize=4.5, markeredgewidth=0)
        said.append(f"{names[key]} {ys[0]:.3g} to {ys[-1]:.3g}")
    axes.set_xlabel(axis, loc="right", labelpad=1, color=svg.INK)
    axes.margins(x=0.06, y=0.12)
    if max(xs) <= 1000:
        axes.set_xticks(xs)
    low, high = axes.get_ylim()
    axes.yaxis.set_major_locator(LogLocator(subs=(1.0,) if high > 100 * low else (1.0, 2.0, 5.0)))
    for scale in (axes.xaxis, axes.yaxis):
        scale.set_minor_locator(NullLocator())
        scale.set_major_formatter(lambda value, _: _short(value))
    axes.grid(axis="y", color=svg.FAINT, linewidth=0.6)
    axes.set_axisbelow(True)
    axes.tick_params(length=0)
    return f"{axis} {xs[0]:,} to {xs[-1]:,}: {', '.join(said)}."


def _short(value: float) -> str:
    """A number in at most five letters: 0.1, 200, 10k, 1M."""
    for unit, letter in ((1e6, "M"), (1e3, "k")):
        if value >= unit:
            return f"{value / unit:.3g}{letter}"
    return f"{value:.3g}"


def _yes(flag: bool) -> str:
    return "yes" if flag else "NO"
