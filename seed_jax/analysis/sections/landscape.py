"""Loss and accuracy along random directions from the trained network, and on a plane."""

import dataclasses
import functools
from collections.abc import Sequence
from typing import NamedTuple

import jax
import numpy as np

from seed_jax.analysis import coloured, filter_normalised_direction, landscape
from seed_jax.analysis.runs import Opened, Options, Run
from seed_jax.analysis.sections.figures import curves
from seed_jax.analysis.sections.needs import short_names, trained
from seed_jax.analysis.sections.scoring import LOSS, RIGHT, alone, lacks_classifier, scored
from seed_jax.report import html
from seed_jax.report.pictures import pictures
from seed_jax.report.tables import Table

IMAGES = 500  # that are scored at each point, at most, and that statistics are recomputed on
SMALLEST, LARGEST = 1e-8, 1e8  # of a loss whose logarithm is drawn
LOG, ACCURACY = "log10 of the loss", "accuracy"


class Surface(NamedTuple):
    """Loss (mean cross-entropy, nats) and accuracy (in [0, 1]) around a network, float64.

    Attributes:
      loss, accuracy: `[directions, points]`.
      plane_loss, plane_accuracy: `[points, points]`, in the plane of the first two directions.
    """

    loss: np.ndarray
    accuracy: np.ndarray
    plane_loss: np.ndarray
    plane_accuracy: np.ndarray


def section(runs: Sequence[Opened], options: Options) -> list[html.Block]:
    """Curves of loss and accuracy against the distance, with bands of one standard deviation over directions;
    the loss along each direction; the plane; tables.

    Raises:
      Lacking: no run has labels and a classifier.
    """
    names = short_names([run.name for run in runs])
    options = dataclasses.replace(options, samples=min(options.samples or IMAGES, IMAGES))
    runs, notes = trained(runs, functools.partial(lacks_classifier, options=options))
    notes += alone(runs, "the landscape")
    found = {}
    for run in runs:
        for kind, surface in surfaces(run, options).items():
            found.setdefault(kind, {})[names[run.name]] = surface
    at, figures = distances(options), []
    for kind, of_kind in found.items():
        ending = kind.split()[-1]
        for what, percent in ((LOG, False), (ACCURACY, True)):
            lines = {
                name: [(at, line) for line in _lines(surface, what)] for name, surface in of_kind.items()
            }
            title, name = f"{what.capitalize()}, {kind}", f"landscape-{what.split()[-1]}-{ending}"
            figures += curves(lines, title=title, axis="distance", percent=percent, name=name)
    figures.append(_planes(found))
    for kind, of_kind in found.items():
        for number, (name, surface) in enumerate(of_kind.items(), 1):
            each = {f"direction {i}": [(at, line)] for i, line in enumerate(_lines(surface, LOG), 1)}
            title, ending = f"{LOG.capitalize()}, {kind}: {name}", kind.split()[-1]
            figures += curves(each, title=title, axis="distance", name=f"landscape-run{number}-{ending}")
    tables = [_table(found, at, what) for what in (ACCURACY, LOSS)]
    blocks = [html.Heading("Landscape"), html.Lead(_lead(options)), html.Figures(figures), *tables]
    return [*blocks, *([html.Notes(notes)] if notes else [])]


def surfaces(run: Run, options: Options) -> dict[str, Surface]:
    """The surface by `scoring.KEPT` and, if the network has BatchNorm, by `scoring.RECOMPUTED`.

    All points are one program. Networks of the same shapes move along the same draws, each scaled to its own
    filters.
    """
    evaluate, params, arguments, kinds, count = scored(run, options, seen=IMAGES)
    at = distances(options)
    number, length = max(options.draws, 2), len(at)  # a plane needs two
    draw = jax.jit(filter_normalised_direction)
    keys = [jax.random.fold_in(jax.random.key(options.seed), i) for i in range(number)]
    lines, plane = np.zeros((number, length, number)), np.zeros((length, length, number))
    for i in range(number):
        lines[i, :, i] = at
    plane[..., 0], plane[..., 1] = at[:, None], at
    points = np.concatenate([lines.reshape(-1, number), plane.reshape(-1, number)])
    sums = landscape(evaluate, params, [draw(key, params) for key in keys], points, arguments)
    loss, accuracy = (np.asarray(sums[name], np.float64).T / count for name in (LOSS, RIGHT))
    split = number * length
    return {
        kind: Surface(
            *(x[i, :split].reshape(number, length) for x in (loss, accuracy)),
            *(x[i, split:].reshape(length, length) for x in (loss, accuracy)),
        )
        for i, kind in enumerate(kinds)
    }


def distances(options: Options) -> np.ndarray:
    """Of the points of a line, float64 `[points]`, from -1 to 1 with 0 in the middle."""
    return np.linspace(-1, 1, options.points)


def _logarithm(loss: np.ndarray) -> np.ndarray:
    """log10 between -8 and 8; 8 where the loss is not finite."""
    return np.log10(np.clip(np.nan_to_num(loss, nan=LARGEST, posinf=LARGEST), SMALLEST, LARGEST))


def _lines(surface: Surface, what: str) -> np.ndarray:
    return {LOG: _logarithm(surface.loss), LOSS: surface.loss, ACCURACY: surface.accuracy}[what]


def _table(found, at: np.ndarray, what: str) -> html.Details:
    factor, title = (100, "Accuracy, %") if what == ACCURACY else (1, "Loss")
    rows = [
        [f"{name}, {kind}", *([*map(float, factor * lines)] for lines in _lines(surface, what).T)]
        for kind, of_kind in found.items()
        for name, surface in of_kind.items()
    ]
    table = Table([f"{title}, at distance", *(f"{distance:g}" for distance in at)], rows, digits=2)
    return html.Details(f"{title}: mean ± standard deviation over the directions", table)


def _planes(found) -> html.Figure:
    """A row of two heat maps for each run and kind, in colours of the same range."""
    maps = {
        f"{name}, {kind}": {LOG: _logarithm(surface.plane_loss), ACCURACY: surface.plane_accuracy}
        for kind, of_kind in found.items()
        for name, surface in of_kind.items()
    }
    ends = {}
    for what in (LOG, ACCURACY):
        values = np.stack([of_row[what] for of_row in maps.values()])
        ends[what] = {"low": values.min(), "high": values.max()}
    rows = {
        row: {what: coloured(values, **ends[what]) for what, values in of_row.items()}
        for row, of_row in maps.items()
    }
    caption = (
        f"Black to pale yellow: {LOG} from {ends[LOG]['low']:.3g} to {ends[LOG]['high']:.3g}, accuracy from "
        f"{ends[ACCURACY]['low']:.1%} to {ends[ACCURACY]['high']:.1%}, in all rows. Each direction goes from "
        "distance -1 to 1; the trained network is in the middle."
    )
    title = "Plane of the first two directions"
    return pictures(rows, [LOG, ACCURACY], title=title, caption=caption, name="landscape-planes")


def _lead(options: Options) -> str:
    return (
        f"Mean cross-entropy and accuracy on at most {IMAGES} images of `{options.split}` when the network "
        f"that the run serves moves along {max(options.draws, 2)} random directions. At distance 1 each "
        "filter has moved by its own length; scales and biases stay (Li et al., arXiv 1712.09913, and their "
        "code with `--xnorm filter --xignore biasbn`). A wide valley is a flat minimum. Bands are ± one "
        "standard deviation over the directions. BatchNorm's statistics are kept as they were trained, or "
        f"recomputed at each point on at most {IMAGES} images of the training split, without augmentation. "
        "`--points` and `--draws` set how many points and directions are measured."
    )
