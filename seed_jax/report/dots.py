"""Dots by layer: several values of each layer, such as one for each head."""

import itertools
from collections.abc import Mapping, Sequence

import numpy as np

from seed_jax.report import svg


def dots(
    series: Mapping[str, Mapping[int, Sequence[float]]],
    *,
    title: str,
    highest: float | None = None,
    name: str = "plot",
) -> svg.Figure:
    """Draw the values of each layer as dots, and a line through their means. The vertical axis starts at 0.

    Args:
      series: at most `plots.MAX_SERIES` names, each with the values of each layer; one without a finite value
        is only named.
      title: of the figure.
      highest: value of the vertical axis; None for that of the dots.
      name: prefix of the ids inside the SVG; must be unique in a page.
    """
    from matplotlib.ticker import MaxNLocator

    key = svg.wrap_names([*series])
    heading = svg.heading(key)
    ends = []
    with svg.canvas(name, 72 * svg.SIZE[1] + heading) as (figure, output):
        height = 72 * figure.get_figheight()
        axes = figure.add_axes((0.13, 36 / height, 0.81, 0.66 * 72 * svg.SIZE[1] / height))
        svg.title(figure, title)
        svg.key(figure, [("●", lines, colour) for lines, colour in zip(key, svg.SERIES, strict=False)])
        for i, (label, layers) in enumerate(series.items()):
            colour, aside = svg.SERIES[i], 0.5 * ((i + 0.5) / len(series) - 0.5)  # dots side by side
            at = np.array([*layers], float) + aside
            each = [(x, value) for x, values in zip(at, layers.values(), strict=True) for value in values]
            means = [np.mean(values) for values in layers.values()]
            axes.plot(*zip(*each, strict=True), "o", color=colour, markersize=3, markeredgewidth=0)
            axes.plot(at, means, color=colour, linewidth=1, alpha=0.6)
            ends.append(f"{label} has a mean of {means[0]:.4g} in layer {[*layers][0]}")
            ends[-1] += f" and {means[-1]:.4g} in layer {[*layers][-1]}"
        axes.set_xlabel("layer", loc="right", labelpad=1, color=svg.INK)
        axes.grid(axis="y", color=svg.FAINT, linewidth=0.6)
        axes.set_axisbelow(True)
        axes.tick_params(length=0)
        axes.margins(y=0.08)
        axes.set_ylim(0 if highest is None else -0.03 * highest, highest and 1.03 * highest)
        count = max(itertools.chain.from_iterable(series.values()))
        axes.set_xlim(0.5, count + 0.5)
        axes.xaxis.set_major_locator(MaxNLocator(min(9, count), integer=True))
        axes.yaxis.set_major_locator(MaxNLocator(5))
        figure.savefig(output, format="svg", transparent=True, metadata={"Date": None})
    return svg.Figure(svg.inline(output.getvalue(), name, f"{title}: {', '.join(ends)}."), name)
