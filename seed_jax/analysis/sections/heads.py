"""The heads of transformers: how far they look, how alike, how much it depends on the query; average maps."""

import itertools
import math
import re
from collections.abc import Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from tqdm import tqdm

from seed_jax.analysis import (
    attention_distance,
    attention_nmi,
    coloured,
    diagonal_mass,
    head_cosine,
    mean_attention,
)
from seed_jax.analysis.runs import Opened, Options
from seed_jax.analysis.sections.needs import at_most, having, lacks_teacher, short_names
from seed_jax.models.network import Joined, Network, with_attention
from seed_jax.report import html
from seed_jax.report.dots import dots
from seed_jax.report.pictures import COLUMNS, pictures
from seed_jax.report.tables import Table

IMAGES = 64  # that are measured, at most
AT_ONCE = 8  # all weights of a base network for an image are 22 MB
RADIUS = 1
SIDE = 256  # of a map; larger ones are made smaller
TEACHER = "teacher"
MEASURES = {  # title and the highest value
    "distance": ("Attention distance, px", None),
    "cosine": ("Cosine between heads", 1.0),
    "information": ("Mutual information of query and key", 1.0),
    "near": (f"Attention at most {RADIUS} patch away", 1.0),
}
LEAD = (
    "Each dot is a head, each line the mean over the heads of a layer, on at most {images} images of "
    "`{split}`. Distance: pixels of the image that the network gets, between a query and what it looks at. "
    "Cosine: of a head's rows with those of the other heads of its layer. Mutual information: normalised; "
    "near 0 all queries look at the same keys. The share near the query counts its own patch and {around} "
    "around it. Tokens that are not patches are left out. Maps are means over images and heads, a row for "
    "each query, each scaled to its own range: a diagonal is the query's own place, a column a key that all "
    "queries look at. Wei et al. (arXiv 2205.14141) compare networks so and released no code; Park et al. "
    "(arXiv 2305.00729) have the mutual information."
)


class Block(NamedTuple):
    """How the tokens of a block lie.

    Attributes:
      grid: rows and columns of the patches that attend to each other.
      pixels: between two neighbours.
      prefix: tokens before the patches.
    """

    grid: tuple[int, int]
    pixels: int
    prefix: int


class Measured(NamedTuple):
    """What `measured` returns.

    Attributes:
      heads: float `[heads]` by key of `MEASURES` and layer; a layer of one head has no cosine.
      maps: float `[N, N]` by layer, for at most `COLUMNS` layers.
    """

    heads: dict[str, dict[int, np.ndarray]]
    maps: dict[int, np.ndarray]


def section(runs: Sequence[Opened], options: Options) -> list[html.Block]:
    """Dots by layer, average maps and a table for each run, of first and last step and teacher, and for each
    weights file.

    Raises:
      Lacking: no network or teacher has attention weights.
    """
    names = short_names([run.name for run in runs])
    runs, notes = having(runs, _lacks)
    figures, tables = [], []
    for number, run in enumerate(runs, 1):
        name, rows = names[run.name], rows_of(run, options)
        notes += _notes(run, [*rows])
        for measure, (title, highest) in MEASURES.items():
            series = {row: of_row.heads[measure] for row, of_row in rows.items() if of_row.heads[measure]}
            if series:
                shown = {"title": f"{title}: {name}", "name": f"heads-run{number}-{measure}"}
                figures.append(dots(series, highest=highest, **shown))
        figures += _pictures({row: of_row.maps for row, of_row in rows.items()}, name, number)
        tables.append(html.Details(f"{name}: mean ± standard deviation over the heads", _table(rows)))
    lead = LEAD.format(images=IMAGES, split=options.split, around=(2 * RADIUS + 1) ** 2 - 1)
    blocks = [html.Heading("Attention heads"), html.Lead(lead), html.Figures(figures), *tables]
    return [*blocks, *([html.Notes(notes)] if notes else [])]


def rows_of(run: Opened, options: Options) -> dict[str, Measured]:
    """What is measured of a run's student at its first and its last step and of its teacher, by 'step 78' and
    'teacher', or of 'weights'; networks without attention weights are left out.
    """
    images = run.drawn(options.split, min(options.samples or IMAGES, IMAGES))
    rows = {}
    if (network := with_attention(run.network)) is not None:
        measure = measured(network, images)
        for row in tqdm(at_most([*run.rows], 2), f"{run.name}: heads", unit="step", delay=1):
            rows[row] = measure(run.variables(run.rows[row]))
    if run.teacher is not None and (network := with_attention(run.teacher.network)) is not None:
        rows[TEACHER] = measured(network, images)(run.teacher.variables)
    return rows


def measured(network: Network, images: np.ndarray):
    """The function from variables of a network with attention weights to `Measured`, compiled once.

    Args:
      images: uint8 `[N, H, W, 3]`; after the first 8, those that do not fill a batch of 8 are left out.
    """
    size = min(AT_ONCE, len(images))
    batches = images[: len(images) // size * size].reshape(-1, size, *images.shape[1:])

    @jax.jit
    def means(variables, batches):
        def of_batch(batch):
            features, _ = network.apply(variables, batch.astype(jnp.float32) / 255, False)
            blocks = blocks_of(network, features, batch.shape[1])
            shown = at_most([*blocks], COLUMNS)
            found = {n: of_heads(features[f"attention{n}"], block) for n, block in blocks.items()}
            return found, {n: of_map(features[f"attention{n}"], blocks[n]) for n in shown}

        return jax.tree.map(lambda x: x.mean(axis=0), jax.lax.map(of_batch, batches))

    def run(variables):
        layers, maps = jax.device_get(means(variables, batches))
        by_measure = {name: {n: layers[n][name] for n in layers if name in layers[n]} for name in MEASURES}
        return Measured(by_measure, maps)

    return run


def blocks_of(network: Network, features, side: int) -> dict[int, Block]:
    """How the tokens lie, by the number of the block, from 1.

    Args:
      network: of an architecture with the fields `patch`, and `depths` if it has windows.
      features: what it returns, or the shapes.
      side: of the images, pixels.
    """
    network = _backbone(network)
    patch, side, blocks = network.module.patch, network.size or side, {}
    numbers = [int(found[1]) for name in features if (found := re.fullmatch(r"attention(\d+)", name))]
    for number in sorted(numbers):
        shape = features[f"attention{number}"].shape
        if len(shape) == 5:
            ends = itertools.accumulate(network.module.depths)
            merged = sum(number > end for end in ends)  # each merging doubles the distance
            blocks[number] = Block((math.isqrt(shape[-1]),) * 2, patch * 2**merged, 0)
        else:
            grid = (side // patch,) * 2
            blocks[number] = Block(grid, patch, network.prefix_tokens)
    return blocks


def of_heads(attention, block: Block) -> dict[str, jax.Array]:
    """The measures of each head, float32 `[heads]`.

    Args:
      attention: float `[B, heads, T, T]`, or of windows `[B, windows, heads, N, N]`.
    """
    attention = _joined(attention)
    grid, pixels, prefix = block
    found = {
        "distance": attention_distance(attention, grid=grid, patch_size=pixels, prefix_tokens=prefix),
        "information": attention_nmi(attention, prefix_tokens=prefix),
        "near": diagonal_mass(attention, grid=grid, radius=RADIUS, prefix_tokens=prefix),
    }
    if attention.shape[1] > 1:
        found["cosine"] = head_cosine(attention, prefix_tokens=prefix)
    return found


def of_map(attention, block: Block) -> jax.Array:
    """The mean over images, windows and heads, float32 `[n, n]`, n at most `SIDE`; `attention` as above."""
    shown = mean_attention(_joined(attention), prefix_tokens=block.prefix)
    if len(shown) <= SIDE:
        return shown
    return jax.image.resize(shown, (SIDE, SIDE), "linear")


def _joined(attention):
    """Windows are images of their own."""
    return attention.reshape(-1, *attention.shape[-3:])


def _lacks(run: Opened) -> str:
    taught = run.needs_teacher
    has = with_attention(run.network) is not None
    if not has and not taught:
        return "has a network without attention weights"
    if reason := lacks_teacher(run):
        return reason
    if not has and with_attention(run.teacher.network) is None:
        return "has a student and a teacher without attention weights"
    return ""


def _notes(run: Opened, rows: list[str]) -> list[str]:
    notes, windowed = [], []
    networks = {
        "student" if run.needs_teacher else "network": run.network,
        TEACHER: run.teacher and run.teacher.network,
    }
    for who, network in networks.items():
        if network is None:
            continue
        if (network := with_attention(network)) is None:
            notes.append(f"{run.name} has a {who} without attention weights.")
        elif _has_windows(network):
            windowed.append(who)
    if windowed:
        notes.append(
            f"{run.name} has windows in its {' and its '.join(windowed)}: heads are measured inside windows, "
            "so distances end at the side of a window. The zeros that fill the last window of a map count as "
            "patches, and so do pairs that a shifted window masks."
        )
    return notes


def _has_windows(network: Network) -> bool:
    return hasattr(_backbone(network).module, "window")


def _backbone(network: Network) -> Network:
    while isinstance(network, Joined):
        network = network.backbone
    return network


def _pictures(maps, name: str, number: int) -> list:
    """A figure of the maps of networks with the same layers."""
    groups = {}
    for row, of_row in maps.items():
        groups.setdefault(tuple(of_row), {})[row] = {f"layer {n}": coloured(x) for n, x in of_row.items()}
    return [
        pictures(
            rows,
            [f"layer {n}" for n in layers],
            title=f"Average attention: {name}",
            name=f"heads-run{number}-maps" + (f"-more{i}" if i else ""),
        )
        for i, (layers, rows) in enumerate(groups.items())
    ]


def _table(rows: dict[str, Measured]) -> Table:
    columns = [
        (title, row, of_row.heads[measure])
        for measure, (title, _) in MEASURES.items()
        for row, of_row in rows.items()
        if of_row.heads[measure]
    ]
    layers = sorted({layer for _, _, values in columns for layer in values})
    cells = [
        [str(layer), *([*map(float, values[layer])] if layer in values else None for _, _, values in columns)]
        for layer in layers
    ]
    return Table(["layer", *(f"{title}, {row}" for title, row, _ in columns)], cells, digits=2)
