"""The ranking as a table, sentences of advice, a page and JSON."""

from collections.abc import Mapping, Sequence

from seed_jax.rank_augmentations.measure import IDENTITY, Measured
from seed_jax.report import html, plots
from seed_jax.report.tables import Table

SCALE = 1000  # values of T.stddev are small
PREDICTION = (
    "Lower T.stddev predicts a lower test loss of the student. It is a prediction: train with the best two "
    "to be sure."
)
ABOUT = (
    "T.stddev is the standard deviation of the teacher's mean probability over chunks of 640 rows, always "
    "320 images and the same ones augmented (Wang et al., NeurIPS 2022, arXiv 2012.02909). The released "
    "code's chunks are shorter at the end of an epoch, and its entropy is that of both halves.",
    "Compare values of one teacher and one data set only. An augmentation that destroys the images would "
    "have a low value, too.",
)
SIMILARITIES = (
    "The teacher has no classifier. Its probabilities are the softmax of cosines with 1,024 embeddings, "
    "temperature 0.07: experimental, no paper supports it."
)


def table(ranked: Sequence[Measured]) -> Table:
    """One row for each augmentation, lowest T.stddev first."""
    best, identity = ranked[0], next((one for one in ranked if one.name == IDENTITY), None)
    rows = []
    for one in ranked:
        low, high = _scaled(one.interval)
        rows.append(
            [
                one.name,
                f"{SCALE * one.t_stddev:.3f}",
                f"{low:.3f} to {high:.3f}",
                _difference(one, best),
                *([_difference(one, identity)] if identity else []),
                f"{one.entropy:.3f}",
                "–" if one.name == IDENTITY else f"{one.seconds:.1f}",
            ]
        )
    header = [
        "augmentation",
        "T.stddev × 1000",
        "95 % interval",
        "above the best × 1000",
        *(["above identity × 1000"] if identity else []),
        "entropy, nats",
        "seconds",
    ]
    return Table(header, rows)


def _difference(one: Measured, other: Measured) -> str:
    """By how much T.stddev is above that of another, and the 95 % interval of the difference."""
    return "–" if one is other else "{:.3f} ({:.3f} to {:.3f})".format(*_scaled(one.above(other)))


def advice(ranked: Sequence[Measured]) -> str:
    """What to use, and what the chunks that were measured cannot tell."""
    best, *others = ranked
    if not others:
        return f"Only {best.name} was measured: there is nothing to compare it with."
    tied = [one.name for one in others if one.above(best)[1] <= 0]
    if tied:
        return (
            f"No clear best: {best.name} has the lowest T.stddev, but {len(best.means)} chunks cannot tell "
            f"it from {', '.join(tied)}. Try these, or measure more with --chunks and --minutes."
        )
    difference, low, high = _scaled(others[0].above(best))
    return (
        f"Use {best.name}: its T.stddev is the lowest. The next, {others[0].name}, is above it by "
        f"{difference:.3f} thousandths ({low:.3f} to {high:.3f}, 95 % interval)."
    )


def write(path, ranked: Sequence[Measured], facts: Mapping[str, object], notes: Sequence[str]) -> None:
    """Write the page.

    Args:
      facts: by name, for the folded table of what was measured.

    Raises:
      UserError: the file cannot be written.
    """
    lanes = [
        plots.Lane(
            one.name, [SCALE * one.t_stddev], f"{SCALE * one.t_stddev:.3f}", tuple(_scaled(one.interval))
        )
        for one in ranked
    ]
    identity = next((SCALE * one.t_stddev for one in ranked if one.name == IDENTITY), None)
    line = "" if identity is None else " The vertical line is identity."
    figure = plots.lanes(
        lanes,
        title="T.stddev × 1000, lower is better",
        line=identity,
        caption=f"Lines are 95 % intervals, by a bootstrap over chunks.{line}",
        name="ranking",
    )
    sentences = [("Advice", advice(ranked), True), ("Note", PREDICTION, False)]
    html.save(path.parent, [figure])
    html.compose(
        path,
        "Which augmentation to distil with",
        [
            html.Answer(sentences, figure),
            table(ranked),
            html.Heading("Notes"),
            html.Notes(notes),
            html.Details("What was measured", Table(["", ""], [[k, str(v)] for k, v in facts.items()])),
        ],
    )


def _scaled(values: Sequence[float]) -> list[float]:
    return [SCALE * value for value in values]
