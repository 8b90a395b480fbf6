"""Where each stage looks: overlays of student and teacher, from the start of the run to its end."""

from collections.abc import Sequence
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from PIL import Image
from tqdm import tqdm

from seed_jax.analysis import overlay
from seed_jax.analysis.runs import Opened, Options
from seed_jax.analysis.sections.figures import STAGE
from seed_jax.analysis.sections.needs import at_most, having, lacks_teacher, short_names
from seed_jax.data import files
from seed_jax.errors import UserError
from seed_jax.losses import attention_map
from seed_jax.models.network import stage_maps
from seed_jax.report import html
from seed_jax.report.pictures import COLUMNS, pictures

STEPS = 4  # rows of a picture: the first and the last step, and two between them
SIDE = 128  # pixels; smaller pictures are enlarged by a whole factor
IMAGE, TEACHER = "image", "teacher"
LEAD = (
    "The attention map of a stage is the sum of the squares of its channels (Zagoruyko and Komodakis, arXiv "
    "1612.03928), enlarged to the image and scaled to its own range: bright is where the stage is most "
    "active. Compare places, not brightness."
)


def section(runs: Sequence[Opened], options: Options) -> list[html.Block]:
    """Overlays of every stage, as figures and as PNG files in `options.out / "attention"`.

    The rows are steps of the run and its teacher, or `weights`. Maps that the method adds, such as those of a
    self-teacher, are next to those of the stages.

    Raises:
      Lacking: no run has a network of maps and a teacher that can be read, if it needs one.
      UserError: a file cannot be written.
    """
    names = short_names([run.name for run in runs])
    runs, notes = having(runs, _lacks)
    figures = []
    for number, run in enumerate(runs, 1):
        name = names[run.name]
        images = run.drawn(options.split, options.images)
        for i, tiles in enumerate(tiles_of(run, images)):
            _write(options.out / "attention" / name, i, tiles)
            first = next(iter(tiles))
            tiles[first] = {IMAGE: images[i]} | tiles[first]
            figures += _figures(tiles, f"{name}, image {i}", f"attention-run{number}-image{i}")
    blocks = [html.Heading("Attention"), html.Lead(LEAD), html.Figures(figures)]
    return [*blocks, *([html.Notes(notes)] if notes else [])]


def tiles_of(run: Opened, images: np.ndarray) -> list[dict[str, dict[str, np.ndarray]]]:
    """The overlays of each image, uint8 `[H, W, 3]` by row ('step 78', 'teacher', 'weights') and entry.

    Args:
      images: uint8 `[N, H, W, 3]`.
    """
    maps, program = {}, _program(run.network, _maps(run))
    for row in tqdm(at_most([*run.rows], STEPS), f"{run.name}: attention", unit="step", delay=1):
        maps[row] = program(run.variables(run.rows[row]), images)
    if run.teacher is not None:
        found = run.entries(run.teacher.network, run.teacher.variables)
        maps[TEACHER] = _program(run.teacher.network, _stages(found))(run.teacher.variables, images)
    return [
        {
            row: {entry: overlay(image, of_row[entry][i]) for entry in of_row}
            for row, of_row in maps.items()
            if of_row
        }
        for i, image in enumerate(images)
    ]


def _lacks(run: Opened) -> str:
    if not _maps(run):
        return "has a network without maps [B, H, W, C], so there is no attention to show"
    return lacks_teacher(run)


def _maps(run: Opened) -> list[str]:
    """The stages, and the maps that the parts of the method add."""
    found = run.entries(run.network, run.abstract)
    stages = _stages(found)
    others = [name for name, x in found.items() if name not in stages and len(x.shape) == 4]
    if not others:
        return stages
    backbone = {name: trees["backbone"] for name, trees in run.abstract.items() if "backbone" in trees}
    own = run.entries(run.network.backbone, backbone)
    return stages + [name for name in others if name not in own]


def _stages(entries) -> list[str]:
    stem = [name for name in ("stem",) if name in entries and len(entries[name].shape) == 4]
    return stem + stage_maps(entries)


def _program(network, entries: list[str]):
    """`(variables, images) -> {entry: maps [N, h, w]}`, compiled once for all steps."""

    @jax.jit
    def maps(variables, images):
        features, _ = network.apply(variables, images.astype(jnp.float32) / 255, False)
        return {entry: attention_map(features[entry]) for entry in entries}

    def in_order(variables, images):
        found = jax.device_get(maps(variables, images))
        return {entry: found[entry] for entry in entries}

    return in_order


def _figures(tiles, title: str, name: str) -> list:
    """A figure of the image and its stages; then, if the method adds maps of its own, figures of those."""
    entries = {entry for row in tiles.values() for entry in row}
    stages = sorted(filter(STAGE.fullmatch, entries), key=lambda entry: (entry != "stem", entry))
    added = [entry for row in tiles.values() for entry in row if entry not in (IMAGE, *stages)]
    added = list(dict.fromkeys(added))
    groups = [[IMAGE, *stages], *(added[begin : begin + COLUMNS] for begin in range(0, len(added), COLUMNS))]
    return [
        pictures(
            {row: of_row for row, of_row in tiles.items() if of_row.keys() & {*group}},
            group,
            title=title,
            name=f"{name}-more{i}" if i else name,
        )
        for i, group in enumerate(groups)
    ]


def _write(folder: Path, number: int, tiles) -> None:
    for row, of_row in tiles.items():
        for entry, picture in of_row.items():
            path = folder / f"image{number}-{row.replace(' ', '')}-{entry}.png"
            factor = max(1, -(-SIDE // len(picture)))
            try:
                path.parent.mkdir(parents=True, exist_ok=True)
                with files.whole(path) as file:
                    Image.fromarray(picture.repeat(factor, 0).repeat(factor, 1)).save(file, "png")
            except OSError as error:
                raise UserError(
                    f"--out: {path} cannot be written ({error.strerror}): use another folder."
                ) from error
