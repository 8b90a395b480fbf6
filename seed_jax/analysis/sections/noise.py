"""Accuracy against Gaussian noise on the weights, with BatchNorm's statistics kept and recomputed."""

import functools
from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np
from tqdm import tqdm

from seed_jax.analysis import noisy, recomputed_statistics
from seed_jax.analysis.runs import Opened, Options, having, labelled, lacks_classes, short_names
from seed_jax.analysis.sections.figures import curves
from seed_jax.analysis.weight_noise import STATISTICS
from seed_jax.report import html
from seed_jax.report.tables import Table

KEPT, RECOMPUTED = "statistics kept", "statistics recomputed"
SEEN = 2000  # images that statistics are recomputed on, at most: all draws keep them on the device


def section(runs: Sequence[Opened], options: Options) -> list[html.Block]:
    """Curves of accuracy against sigma with bands of one standard deviation over draws, and a table.

    Raises:
      Lacking: no run has labels and a classifier.
    """
    names = short_names([run.name for run in runs])
    runs, notes = having(runs, functools.partial(_lacks, options=options))
    notes += [
        f"{run.name} also answers by all views of an image; noise is measured for the image alone."
        for run in runs
        if "aggregated_logits" in run.entries(*run.served)
    ]
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


def accuracies(run: Opened, options: Options) -> dict[str, np.ndarray]:
    """Accuracy of the network that a run serves, float64 `[sigmas, draws]`, in [0, 1].

    By `KEPT` and, if it has BatchNorm, by `RECOMPUTED`. One program serves all sigmas and draws.
    """
    network, variables = run.served
    params = variables["params"]
    model_state = {name: tree for name, tree in variables.items() if name != "params"}
    size = min(run.config.data.batch_size, len(run.train))
    scored = labelled(run, options)
    # Batches of the run's size, so that BatchNorm's groups divide them.
    seen = run.images("train", max(size, min(options.samples or SEEN, SEEN))).image
    batches = seen[: len(seen) // size * size].reshape(-1, size, *seen.shape[1:])
    labels = scored.label
    padding = -len(labels) % size
    images = np.pad(scored.image, ((0, padding), (0, 0), (0, 0), (0, 0))).reshape(-1, *batches.shape[1:])
    labels = np.pad(labels, (0, padding), constant_values=-1).reshape(-1, size)
    kinds = [KEPT, *([RECOMPUTED] if STATISTICS in model_state else [])]
    keys = jax.random.split(jax.random.key(0), size)  # for dropout while the statistics are recomputed

    def apply(params, state, images, train):
        x = images.astype(jnp.float32) / 255
        return network.apply({"params": params, **state}, x, train, keys if train else None)

    @jax.jit
    def right(params, state, key, sigma, images, labels, batches):
        changed = noisy(key, params, sigma, relative=not options.absolute)

        def count(state):
            def add(total, batch):
                features, _ = apply(changed, state, batch[0], False)
                return total + (features["logits"].argmax(axis=1) == batch[1]).sum(), None

            return jax.lax.scan(add, jnp.int32(0), (images, labels))[0]

        if RECOMPUTED not in kinds:
            return jnp.stack([count(state)])
        anew = recomputed_statistics(lambda s, batch: apply(changed, s, batch, True)[1], state, batches)
        return jnp.stack([count(state), count(anew)])

    placed = jax.device_put((images, labels, batches))
    counts = np.zeros((len(kinds), len(options.sigmas), options.draws))
    draws = [(i, j) for i, sigma in enumerate(options.sigmas) for j in range(options.draws if sigma else 1)]
    for i, j in tqdm(draws, f"{run.name}: noise", unit="draw", delay=1):
        key = jax.random.fold_in(jax.random.key(options.seed), j)
        one = np.asarray(right(params, model_state, key, jnp.float32(options.sigmas[i]), *placed))
        counts[:, i, j:] = one[:, None]  # the only draw of sigma 0 stands for all
    return dict(zip(kinds, counts / len(scored.label), strict=True))


def _lacks(run: Opened, options: Options) -> str:
    if not run.given.num_classes:
        return "has data without labels, so there is no accuracy to measure"
    found = run.entries(*run.served)
    if "logits" not in found or found["logits"].shape[1] != run.given.num_classes:
        return "has no classifier of its data's classes, so there is no accuracy to measure"
    return lacks_classes(run, options)
