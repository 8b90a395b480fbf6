"""How well the classes are apart after each stage and exit."""

import functools
from collections.abc import Sequence

import jax.numpy as jnp
import numpy as np
from tqdm import tqdm

from seed_jax.analysis import separability
from seed_jax.analysis.runs import READ, Images, Opened, Options, Run
from seed_jax.analysis.sections.figures import STAGE, curves
from seed_jax.analysis.sections.needs import labelled, lacks_classes, short_names, trained
from seed_jax.evals.features import Extractor
from seed_jax.report import html
from seed_jax.report.tables import Table


def section(runs: Sequence[Opened], options: Options) -> list[html.Block]:
    """SSE / SSB of every stage and exit of the network that a run serves, as curves and as a table.

    Raises:
      Lacking: no run has labels, or the images to measure have fewer than two classes.
    """
    names = short_names([run.name for run in runs])
    runs, notes = trained(runs, functools.partial(_lacks, options=options))
    found = {names[run.name]: values_of(run, options) for run in runs}
    entries = dict.fromkeys(entry for values in found.values() for entry in values)
    stages = [entry for entry in entries if STAGE.fullmatch(entry)]
    # A method adds its exits after the backbone's last feature, which is deeper.
    exits = [entry for entry in entries if entry not in stages]
    exits.sort(key=lambda entry: not entry.startswith("exit"))
    lead = (
        "SSE / SSB: the squared distances of pooled features from the mean of their class, over those of the "
        f"class means from the mean of all, on `{options.split}`. Lower is better separated."
    )
    figures = []
    for what, shown in (("stages", stages), ("exits", exits)):
        if len(shown) > 1:
            title, axis = f"SSE / SSB of {what}", f"{what}, as in the table"
            figures += curves(_lines(found, shown), title=title, axis=axis, name=f"separability-{what}")
    rows = [[entry, *(values.get(entry) for values in found.values())] for entry in (*stages, *exits)]
    table = Table(["SSE / SSB", *found], rows, digits=3)
    blocks = [html.Heading("Class separability"), html.Lead(lead), html.Figures(figures), table]
    return [*blocks, *([html.Notes(notes)] if notes else [])]


def values_of(run: Run, options: Options) -> dict[str, float]:
    """SSE / SSB by entry of the features: maps and tokens averaged over places, vectors as they are."""
    network, variables = run.served
    entries = [
        name
        for name, x in run.entries(network, variables).items()
        if len(x.shape) > 1 and not name.endswith("logits") and not name.startswith("preact")
    ]
    extract = Extractor(_Pooled(network, entries), run.mesh, keys=tuple(entries))
    batches = _batches(labelled(run, options), f"{run.name}: separability")
    features, labels, _ = extract(variables, batches)
    return {entry: separability(features[entry], labels) for entry in entries}


def _lines(found, entries: list[str]):
    """A line for each run that has some of the entries."""
    lines = {}
    for name, values in found.items():
        points = [(i, values[entry]) for i, entry in enumerate(entries, start=1) if entry in values]
        if points:
            lines[name] = [tuple(zip(*points, strict=True))]
    return lines


class _Pooled:
    """The network with its maps `[B, H, W, C]` and tokens `[B, T, D]` averaged over places."""

    def __init__(self, network, entries):
        self._network, self._entries = network, entries

    def apply(self, variables, x, train):
        features, state = self._network.apply(variables, x, train)
        pooled = {}
        for name in self._entries:
            entry = features[name].astype(jnp.float32)
            pooled[name] = entry.mean(axis=tuple(range(1, entry.ndim - 1)))
        return pooled, state


def _batches(images: Images, title: str):
    for begin in tqdm(range(0, len(images.label), READ), title, unit="batch", delay=1):
        image, label = images.image[begin : begin + READ], images.label[begin : begin + READ]
        padding = READ - len(label)
        yield {
            "image": np.pad(image, ((0, padding), (0, 0), (0, 0), (0, 0))),
            "label": np.pad(label, (0, padding), constant_values=-1),
            "id": np.arange(begin, begin + READ),
            "mask": np.arange(READ) < len(label),
        }


def _lacks(run: Run, options: Options) -> str:
    if run.given.num_classes < 2:
        return "has data without labels, so there are no classes to separate"
    return lacks_classes(run, options)
