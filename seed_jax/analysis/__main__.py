"""`python -m seed_jax.analysis RUN_OR_WEIGHTS…`: what networks learned and how, side by side on one page."""

import argparse
import dataclasses
import logging as python_logging
import sys
from pathlib import Path

from absl import logging

from seed_jax import parallel
from seed_jax.analysis.runs import SPLITS, Lacking, Opened, Options, open_run, open_weights
from seed_jax.analysis.sections import SECTIONS
from seed_jax.data import files
from seed_jax.errors import UserError, command, numbers, unknown
from seed_jax.evals.images import open_data
from seed_jax.report import html
from seed_jax.report.tables import Table
from seed_jax.weights import flags

EPILOG = f"""\
RUN_OR_WEIGHTS  the workdir of a run; a checkpoint (.pth, .pth.tar, .safetensors, .npz) or
                pip:efficientnet-lite0, which need --data and have the sections attention and heads alone

Sections: {", ".join(SECTIONS)}. A section that nothing given has the data for is left out with a sentence; if
--sections names it, that is an error, after the others were measured.

  python -m seed_jax.analysis runs/plain runs/self_distilled
  python -m seed_jax.analysis dino_vitbase16_pretrain.pth runs/fd_dino --data PHOTOS --sections heads
  python -m seed_jax.analysis runs/mine --sections attention --images 8
  python -m seed_jax.analysis runs/mine --sections heads,landscape --points 21

A run shows more of its training if it keeps more checkpoints (train.keep).
"""


@command
def main(arguments: list[str] | None = None) -> int:
    options, names, given = _parse(arguments)
    logging.set_verbosity(logging.WARNING)
    python_logging.getLogger().setLevel(python_logging.WARNING)
    files.claim(options.out)
    parallel.start()
    print("Reading the networks.", flush=True)
    runs = _open(given)
    blocks, lacking = [], {}
    for name in names or SECTIONS:
        print(f"{name}: measuring, which begins with a compilation.", flush=True)
        try:
            blocks += SECTIONS[name](runs, options)
        except Lacking as error:
            lacking[name] = error
    refused = UserError("\n".join(map(str, lacking.values()))) if names and lacking else None
    if refused and not blocks:
        raise refused
    left_out = [f"{name} is left out: {error}" for name, error in lacking.items()]
    notes = [*left_out, *(note for run in runs for note in run.notes)]
    if notes:
        blocks += [html.Heading("Notes"), html.Notes(notes)]
    drawn = [block.figures for block in blocks if isinstance(block, html.Figures)]
    html.save(options.out, [figure for figures in drawn for figure in figures])
    header = ["network", "method", "architecture", "shown"]
    rows = [[run.name, run.method, run.arch, ", ".join(run.rows)] for run in runs]
    title = "What the networks learned"
    page = html.compose(options.out / "report.html", title, [Table(header, rows), *blocks])
    print("\n".join([*notes, str(page)]))
    if refused:
        raise refused
    return 0


def _open(given: argparse.Namespace) -> list[Opened]:
    shown = open_data(given.data, given.dir) if given.data else None
    if shown and not given.split:
        shown = dataclasses.replace(shown, **{Options.split: "all"})
    return [
        open_run(spec, dir="" if given.data.startswith("tfds:") else given.dir, shown=shown)
        if Path(spec).is_dir()
        else open_weights(
            spec, shown=shown, arch=given.arch, form=given.form, windows=given.window, size=given.size
        )
        for spec in given.spec
    ]


def _parse(arguments) -> tuple[Options, list[str], argparse.Namespace]:
    """The options, the sections that were named, and what to open."""
    usual = Options(Path("runs/analysis"))
    parser = argparse.ArgumentParser(
        prog="python -m seed_jax.analysis",
        description=__doc__.split(": ", 1)[1],
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("spec", nargs="+", metavar="RUN_OR_WEIGHTS")
    parser.add_argument(
        "--data",
        default="",
        help="images for attention and heads: a folder of images or of tar shards, tfds:NAME, an embedded "
        "data set such as photos6 (default: those of each run)",
    )
    parser.add_argument(
        "--sections",
        default=[],
        type=lambda names: names.split(","),
        metavar="NAME,NAME",
        help=f"sections of the page, out of {', '.join(SECTIONS)} (default: all)",
    )
    parser.add_argument(
        "--dir",
        default="",
        help="the new folder of a run's data, if it has moved; with --data=tfds:NAME, the data_dir of TFDS",
    )
    flags.add(parser)
    parser.add_argument(
        "--out",
        type=Path,
        default=usual.out,
        help=f"folder of the page, its figures and the overlays (default: {usual.out})",
    )
    parser.add_argument(
        "--split",
        choices=SPLITS,
        help=f"split of the images (default: {usual.split} of a run's own, all images of --data)",
    )
    parser.add_argument(
        "--images", type=int, default=usual.images, help=f"images to draw (default: {usual.images})"
    )
    parser.add_argument(
        "--samples",
        type=int,
        default=usual.samples,
        help=f"images to measure, 0 for all (default: {usual.samples})",
    )
    parser.add_argument(
        "--sigmas",
        type=numbers,
        default=usual.sigmas,
        metavar="S,S",
        help=f"sigmas of the noise (default: {','.join(f'{sigma:g}' for sigma in usual.sigmas)})",
    )
    parser.add_argument(
        "--absolute",
        action="store_true",
        help="sigmas are in the unit of the weights (default: shares of each tensor's standard deviation)",
    )
    parser.add_argument(
        "--draws",
        type=int,
        default=usual.draws,
        help=f"draws of the noise per sigma, and directions of the landscape (default: {usual.draws})",
    )
    parser.add_argument(
        "--points",
        type=int,
        default=usual.points,
        help=f"points of the landscape along a direction, an odd number (default: {usual.points})",
    )
    parser.add_argument(
        "--seed", type=int, default=usual.seed, help=f"seed of noise and directions (default: {usual.seed})"
    )
    given = parser.parse_args(arguments)
    names = given.sections
    named = {field.name: getattr(given, field.name) for field in dataclasses.fields(Options)}
    options = Options(**named | {"split": given.split or Options.split})
    for name in names:
        if name not in SECTIONS:
            raise unknown("section in --sections", name, SECTIONS)
        if names.count(name) > 1:
            raise UserError(f"--sections names {name} twice: name each once.")
    flags.check(given, given.spec)
    for name, least in (("images", 1), ("samples", 0), ("draws", 1), ("points", 3), ("seed", 0)):
        if getattr(options, name) < least:
            raise UserError(f"--{name} is {getattr(options, name)}: use {least} or more.")
    if options.points % 2 == 0:
        raise UserError(
            f"--points is {options.points}: use an odd number, so that the network is one of them."
        )
    if options.absolute and options.sigmas == usual.sigmas:
        raise UserError("--absolute needs --sigmas in the unit of the weights, such as 0,0.01,0.02.")
    if list(options.sigmas) != sorted({*options.sigmas}) or options.sigmas[0] < 0:
        raise UserError("--sigmas must ascend from 0 or more, such as 0,0.1,0.2.")
    return options, names, given


if __name__ == "__main__":
    sys.exit(main())
