"""What a section needs of a run or a weights file, and what the page says of one that lacks it."""

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from seed_jax.analysis.runs import Images, Lacking, Opened, Options, Run, Weights
from seed_jax.errors import UserError


def labelled(run: Run, options: Options) -> Images:
    """The images to measure that have a label.

    Raises:
      UserError: the data cannot be read.
    """
    images = run.images(options.split, options.samples)
    has = images.label >= 0
    return Images(images.image[has], images.label[has])


def lacks_classes(run: Run, options: Options) -> str:
    """What `having` says of a run if the images to measure have fewer than two classes."""
    labels = run.source(options.split, options.samples).labels()
    if len({*labels[labels >= 0].tolist()}) > 1:
        return ""
    return (
        f"has images of fewer than two classes among the {len(labels)} of `{options.split}` that are "
        "measured: use a labelled --split, or more --samples"
    )


def lacks_teacher(run: Opened) -> str:
    """What `having` says of a run if its teacher cannot be read."""
    try:
        run.teacher  # noqa: B018
    except UserError as error:
        return f"has a teacher that cannot be read ({str(error).removesuffix('.')})"
    return ""


def trained(runs: Sequence[Opened], lacks: Callable[[Run], str]) -> tuple[list[Run], list[str]]:
    """As `having`, for sections that need what only a run has: its training, labels and classifier."""

    def lacks_all(opened):
        return (
            "is a weights file, and this section needs a run"
            if isinstance(opened, Weights)
            else lacks(opened)
        )

    return having(runs, lacks_all)


def having(runs: Sequence[Opened], lacks: Callable[[Opened], str]) -> tuple[list, list[str]]:
    """The runs and weights that lack nothing, and a sentence for each of the others.

    Args:
      lacks: what a run lacks, the end of a sentence; '' if nothing.

    Raises:
      Lacking: every run lacks something.
    """
    reasons = {run.name: lacks(run) for run in runs}
    notes = [f"{name} {reason}." for name, reason in reasons.items() if reason]
    if len(notes) == len(reasons):
        raise Lacking(" ".join(notes))
    return [run for run in runs if not reasons[run.name]], notes


def at_most(steps: Sequence[int], count: int) -> list[int]:
    """`count` of the steps, evenly spaced, with the first and the last; all of them if they are no more.

    >>> at_most((0, 1, 2, 3, 4, 5, 6), 3)
    [0, 3, 6]
    """
    if len(steps) <= count:
        return list(steps)
    return [steps[i] for i in np.linspace(0, len(steps) - 1, count).round().astype(int)]


def short_names(paths: Sequence[str]) -> dict[str, str]:
    """The last two folders of each path by path, or more if these do not tell them apart.

    >>> short_names(["runs/a/seed0", "runs/b/seed0"])
    {'runs/a/seed0': 'a/seed0', 'runs/b/seed0': 'b/seed0'}
    """
    parts = {path: Path(path).resolve().parts for path in paths}
    depth = 2
    while len({of_path[-depth:] for of_path in parts.values()}) < len({*parts.values()}):
        depth += 1
    return {path: "/".join(of_path[-depth:]) for path, of_path in parts.items()}
