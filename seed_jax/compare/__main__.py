"""`seed-jax compare FILE|WORKDIR…`: compare rows over seeds, or runs that exist, on one page."""

import argparse
import dataclasses
import shlex
import sys
from pathlib import Path

from absl import logging

from seed_jax.compare import cells as cells_lib
from seed_jax.compare import spec
from seed_jax.errors import UserError, command, end_on_signals, leave, unknown

DESCRIPTION = """\
Compare methods over seeds: train every row of a comparison file for every seed, score the networks on the
test split, and write a table and a page that say which differences are shown. Interrupted, the same command
goes on; several processes with the same --out share the work.

  seed-jax compare experiments/quickstart     a file, or a folder that has compare.py
  seed-jax compare runs/a runs/b              runs that exist, without training

docs/experiments.md explains the file.
"""


@command
def main(arguments: list[str] | None = None) -> int:
    arguments = sys.argv[1:] if arguments is None else arguments
    options = _parse(arguments)
    logging.set_verbosity(logging.WARNING)
    workdirs = [path for path in options.what if (path / "config.json").exists()]
    if not workdirs:
        if len(options.what) > 1:
            raise UserError(
                f"{options.what[0]} is not the workdir of a run: name runs, or one comparison file."
            )
        return _file(options, arguments)
    if other := [path for path in options.what if path not in workdirs]:
        raise UserError(f"{other[0]} is not the workdir of a run: it has no config.json.")
    from seed_jax.compare import collect

    for flag in ("quick", "plan", "seeds", "again"):
        if getattr(options, flag):
            raise UserError(f"--{flag} is for a comparison file: runs that exist are not trained.")
    _start()
    result = collect.of_workdirs(options.what, options.baseline)
    _show(result, options.out or Path("runs/compare"), arguments)
    return 0


def _name(file: Path, quick: bool) -> Path:
    """A comparison's folder in `runs`: its path below `experiments`, or the last part alone elsewhere.

    `x.py` and `x/compare.py` are taken for one comparison.
    """
    whole = file.parent if file.name == "compare.py" else file.with_suffix("")
    *_, name = str(whole).rpartition("/experiments/")
    name = Path(name if name != str(whole) else whole.name)
    return name.with_name(f"{name.name}-quick") if quick else name


def _file(options, arguments: list[str]) -> int:
    path = options.what[0]
    path = path / "compare.py" if path.is_dir() else path
    comparison = spec.load(path, options.quick)
    if options.baseline:
        comparison = dataclasses.replace(comparison, baseline=options.baseline)
    chosen = dataclasses.replace(comparison, seeds=tuple(options.seeds or comparison.seeds))
    both = dict.fromkeys([*comparison.seeds, *chosen.seeds])
    comparison = dataclasses.replace(comparison, seeds=tuple(both))
    for name in options.again:
        if name not in {row.name for row in comparison.rows}:
            raise unknown("row in --again", name, [row.name for row in comparison.rows])
    out = options.out or Path("runs") / _name(path.resolve(), options.quick)
    cells = cells_lib.make(comparison, out)
    wanted = tuple(cell for cell in cells if cell.seed is None or cell.seed in chosen.seeds)
    # An unfinished cell goes on: it may be one that an interrupted --again has begun.
    again = [cell for cell in cells_lib.again(wanted, options.again) if cell.finished()]
    _start()
    cells_lib.refuse_other_images(comparison)
    cells_lib.refuse_changed(comparison, [cell for cell in cells if cell not in again])
    if options.plan:
        _plan(comparison, wanted, again)
        return 0
    from seed_jax.compare import collect, run

    for cell in again:
        print(f"compare: {cell}: the run before is now {cell.set_aside()}")
    failed = run.run(comparison, wanted)
    _show(collect.of_cells(comparison, cells, failed), out, arguments)
    for cell, why in failed.items():
        print(f"{cell} failed: {why}", file=sys.stderr)
    return 1 if failed else 0


def _start() -> None:
    import jax

    from seed_jax import parallel

    parallel.start()
    if jax.process_count() > 1:
        raise UserError(
            "compare uses the devices of one machine: start it without JAX_COORDINATOR_ADDRESS and "
            "SEED_JAX_MULTIHOST; several machines share the cells through the same --out."
        )


def _plan(comparison, cells, again) -> None:
    from seed_jax.compare import plan

    for cell in cells:
        if why := cells_lib.mistake(comparison, cell):
            raise UserError(f"{cell}: {why}")
    table, seconds = plan.table(comparison, cells, again)
    left = sum(not cell.finished() or cell in again for cell in cells)
    print(table.aligned())
    print(
        f"\n{left} of {len(cells)} cells to run, about {seconds / 60:.1f} min; probes and evaluations count "
        "only in rows that have a finished cell."
    )


def _show(result, out: Path, arguments: list[str]) -> None:
    """Print the table and what it shows, and write the page, which names the command."""
    from seed_jax.compare import page
    from seed_jax.report.tables import SCORES

    typed = {"command": shlex.join(["seed-jax", "compare", *arguments])}
    result = dataclasses.replace(result, provenance=typed | result.provenance)
    print(f"\n{page.scores_table(result).aligned()}\n")
    for difference in result.differences:
        print(f"{difference.row}, {SCORES.get(difference.score, difference.score)}: {difference.sentence()}")
    for row in result.rows:
        for note in row.notes:
            print(f"Not the same: {row.name}: {note}")
    for note in result.notes:
        print(note)
    cells_lib.write(out / "results.json", dataclasses.asdict(result))
    print(f"\nPage: {page.write(result, out)}")


def _parse(arguments):
    parser = argparse.ArgumentParser(
        prog="seed-jax compare",
        description=DESCRIPTION,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "what", nargs="+", type=Path, metavar="FILE|WORKDIR", help="a comparison file, or workdirs of runs"
    )
    parser.add_argument("--quick", action="store_true", help="the short form that the file defines")
    parser.add_argument("--plan", action="store_true", help="print cells, steps and time, and run no cell")
    parser.add_argument(
        "--seeds", type=int, nargs="+", default=[], help="run these seeds; the page has all that are finished"
    )
    parser.add_argument("--baseline", default="", help="the row to compare with, instead of the file's")
    parser.add_argument(
        "--again",
        nargs="+",
        default=[],
        metavar="ROW",
        help="run a row again, and the rows that depend on it; old cells are kept aside",
    )
    parser.add_argument(
        "--out", type=Path, help="folder of cells and page (default: runs/ and the path below experiments/)"
    )
    return parser.parse_args(arguments)


if __name__ == "__main__":
    end_on_signals()
    leave(main())
