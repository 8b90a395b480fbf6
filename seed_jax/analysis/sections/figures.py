"""What sections draw alike: curves of any number of runs, stages by name."""

import re

from seed_jax.report import plots
from seed_jax.report.svg import Figure

STAGE = re.compile(r"stem|stage\d+")  # entries of the features that are stages of a backbone


def curves(lines: plots.Curves, *, name: str, **options) -> list[Figure]:
    """`plots.curves` in as many figures as the lines need; arguments as there."""
    names = list(lines)
    groups = [names[begin : begin + plots.MAX_SERIES] for begin in range(0, len(names), plots.MAX_SERIES)]
    return [
        plots.curves(
            {each: lines[each] for each in group}, name=name if len(groups) == 1 else f"{name}-{i}", **options
        )
        for i, group in enumerate(groups, 1)
    ]
