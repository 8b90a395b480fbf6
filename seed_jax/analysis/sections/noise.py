"""Accuracy against Gaussian noise on the weights, with BatchNorm's statistics kept and recomputed."""

import functools
from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np
from tqdm import tqdm

from seed_jax.analysis import noisy
from seed_jax.analysis.runs import Opened, Options, Run
from seed_jax.analysis.sections.figures import curves
from seed_jax.analysis.sections.needs import short_names, trained
from seed_jax.analysis.sections.scoring import KEPT, RECOMPUTED, RIGHT, alone, lacks_classifier, scored
from seed_jax.report import html
from seed_jax.report.tables import Table

SEEN = 2000  # images that statistics are recomputed on, at most: all draws keep them on the device


def section(runs: Sequence[Opened], options: Options) -> list[html.Block]:
    """Curves of accuracy against sigma with bands of one standard deviation over draws, and a table.

    Raises:
      Lacking: no run has labels and a classifier.
    """
    names = short_names([run.name for run in runs])
    runs, notes = trained(runs, functools.partial(lacks_classifier, options=options))
    notes += alone(runs, "noise")
    lines, rows = {KEPT: {}, RECOMPUTED: {}}, []
    for run in runs:
        name = names[run.name]
        for kind, shares in accuracies(run, options).items():
            lines[kind][name] = [(options.sigmas, draw) for draw in shares.T]
            rows.append([f"{name}, {kind}", *([*map(float, 100 * draws)] for draws in shares)])
    unit = "the unit of the weights" if options.absolute else "shares of each tensor's standard deviation"
    axis = "sigma" if options.absolute else "sigma / standard deviation"
    lead = (
        f"Accuracy on `{options.split}` after Gaussian noise was added to every parameter; sigma is in "
        f"{unit}, and bands are ± one standard deviation over {options.draws} draws. A flatter minimum keeps "
        "its accuracy for longer. BatchNorm's statistics are kept as they were trained, or recomputed after "
        f"the noise on at most {SEEN:,} images of the training split, without augmentation. Zhang et al. "
        "(arXiv 1905.08094) compare networks so and released no code; the unit of sigma and the "
        "statistics are choices here."
    )
    figures = []
    for kind, of_kind in lines.items():
        if of_kind:
            title = f"Accuracy, {kind}"
            figures += curves(of_kind, title=title, axis=axis, percent=True, name=f"noise-{kind.split()[-1]}")
    header = ["accuracy, %, at sigma", *(f"{sigma:g}" for sigma in options.sigmas)]
    blocks = [
        html.Heading("Noise on the weights"),
        html.Lead(lead),
        html.Figures(figures),
        Table(header, rows),
    ]
    return [*blocks, *([html.Notes(notes)] if notes else [])]


def accuracies(run: Run, options: Options) -> dict[str, np.ndarray]:
    """Accuracy of the network that a run serves, float64 `[sigmas, draws]`, in [0, 1].

    By `KEPT` and, if it has BatchNorm, by `RECOMPUTED`. One program serves all sigmas and draws.
    """
    evaluate, params, arguments, kinds, images = scored(run, options, seen=SEEN)

    @jax.jit
    def right(params, key, sigma, *arguments):
        return evaluate(noisy(key, params, sigma, relative=not options.absolute), *arguments)[RIGHT]

    counts = np.zeros((len(kinds), len(options.sigmas), options.draws))
    draws = [(i, j) for i, sigma in enumerate(options.sigmas) for j in range(options.draws if sigma else 1)]
    for i, j in tqdm(draws, f"{run.name}: noise", unit="draw", delay=1):
        key = jax.random.fold_in(jax.random.key(options.seed), j)
        one = np.asarray(right(params, key, jnp.float32(options.sigmas[i]), *arguments))
        counts[:, i, j:] = one[:, None]  # the only draw of sigma 0 stands for all
    return dict(zip(kinds, counts / images, strict=True))
