"""The tables, the plot and the page of a network's exits."""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np

from seed_jax.exits.cost import Cost
from seed_jax.exits.sweep import Policy
from seed_jax.report import html, plots
from seed_jax.report.tables import Table
from seed_jax.report.verdict import wilson

ALL_ONE, EACH = "one exit for all", "by confidence"
ABOUT = (
    "An exit alone needs the stages up to it and its own part. By confidence, an image has also paid for the "
    "exits that it passed.",
    "FLOPs are the compiler's count for one image. The time is the median of 30 runs of one image on this "
    "machine, which includes what a call costs by itself.",
    "Intervals are Wilson's, 95 %. SSE / SSB is the squared distance of the features to the mean of their "
    "class over that of these means to the mean of all: lower separates better.",
    "Thresholds are measured on the images that are reported: choose one on --split val.",
)


class Measured(NamedTuple):
    """An exit, or the ensemble of all.

    Attributes:
      name: such as 'exit1', 'deepest', 'ensemble'.
      correct: which images it classifies right, bool `[N]`.
      cost: of it alone.
      separability: of its features; None for the ensemble, or if the images have one class.
    """

    name: str
    correct: np.ndarray
    cost: Cost
    separability: float | None


def exits_table(exits: Sequence[Measured]) -> Table:
    """One row for each exit, shallowest first."""
    rows = [
        [
            one.name,
            *accuracy(one.correct),
            f"{one.cost.parameters:,}",
            f"{one.cost.flops / 1e6:,.2f}",
            f"{1000 * one.cost.seconds:.2f}",
            None if one.separability is None else f"{one.separability:.3f}",
        ]
        for one in exits
    ]
    return Table(["exit", "accuracy %", "95 %", "parameters", "MFLOP", "ms", "SSE / SSB"], rows)


def sweep_table(policies: Sequence[Policy], exits: Sequence[Measured]) -> Table:
    """One row for each threshold, with the share of the images that leave at each exit."""
    names = [one.name for one in exits]
    rows = [
        [
            f"{policy.threshold:g}",
            *accuracy(policy.correct),
            f"{policy.flops / 1e6:,.2f}",
            *(f"{100 * np.mean(policy.exits == number):.0f}" for number in range(len(names))),
        ]
        for policy in policies
    ]
    return Table(["threshold", "accuracy %", "95 %", "mean MFLOP", *(f"{name} %" for name in names)], rows)


def accuracy(correct: np.ndarray) -> tuple[str, str]:
    """Accuracy in percent, and its interval."""
    low, high = wilson(correct.mean(), len(correct))
    return f"{100 * correct.mean():.1f}", f"{100 * low:.1f} to {100 * high:.1f}"


def write(
    path, exits: Sequence[Measured], ensemble: Measured, policies: Sequence[Policy], facts: Mapping
) -> None:
    """Write the page.

    Args:
      exits: shallowest first, the deepest last.
      facts: by name, for the folded table of what was measured.

    Raises:
      UserError: the file cannot be written.
    """
    lines = {
        EACH: [([p.flops / 1e6 for p in policies], [p.correct.mean() for p in policies])],
        ALL_ONE: [([one.cost.flops / 1e6 for one in exits], [one.correct.mean() for one in exits])],
    }
    figure = plots.curves(
        lines,
        title="accuracy",
        axis="mean MFLOP of an image",
        percent=True,
        caption="Each point is a threshold, or an exit.",
        name="exits",
    )
    html.save(path.parent, [figure])
    html.compose(
        path,
        "What each exit costs and knows",
        [
            exits_table([*exits, ensemble]),
            html.Heading("An exit for each image"),
            html.Lead("An image leaves at the first exit whose largest probability is above the threshold."),
            html.Figures([figure]),
            sweep_table(policies, exits),
            html.Heading("Notes"),
            html.Notes(ABOUT),
            html.Details("What was measured", Table(["", ""], [[k, str(v)] for k, v in facts.items()])),
        ],
    )
