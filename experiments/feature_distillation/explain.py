"""What the paper explains FD's gain by, over the seeds of the comparison: heads and landscape.

    ./run.sh python -m experiments.feature_distillation.explain                     runs/feature_distillation
    ./run.sh python -m experiments.feature_distillation.explain FOLDER OUT          writes OUT/explain.json

Heads: the standard deviation over the heads of a block of the attention distance, pixels, before fine-tuning.
Landscape: the share of the accuracy that the fine-tuned network keeps half a filter's length away, mean over
five random directions and both signs. Differences are to MoCo v3, with Student's t interval over the seeds.
"""

import argparse
import sys
from pathlib import Path

import numpy as np

from experiments.feature_distillation.compare import FD, TEACHER
from seed_jax.analysis.runs import Options, open_run
from seed_jax.analysis.sections import heads, landscape
from seed_jax.compare import cells, spec
from seed_jax.compare.interval import interval
from seed_jax.errors import UserError, command
from seed_jax.report.tables import Table

ROWS = (TEACHER, FD, "FD, absolute positions", "FD, the teacher's network")
HALF = 0.5  # of a filter's length


@command
def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folder", type=Path, nargs="?", default=Path("runs/feature_distillation"))
    parser.add_argument("out", type=Path, nargs="?", help="default: the folder of the runs")
    options = parser.parse_args(arguments)
    spreads = {row: _of_seeds(options.folder, row, spread_of_distance) for row in ROWS}
    kept = {row: _of_seeds(options.folder, f"{row}, fine-tuned", accuracy_kept) for row in ROWS}
    found = {"spread of the attention distance, px": spreads, "share of the accuracy kept": kept}
    out = options.out or options.folder
    cells.write(out / "explain.json", {what: _plain(rows) for what, rows in found.items()})
    blocks = [f"block {n + 1}" for n in range(spreads[TEACHER].shape[1])]
    print(_table("spread of the attention distance, px", blocks, spreads, 1, "{:.2f}"))
    print(_table("accuracy kept, %", ["half a filter away"], kept, 100, "{:.1f}"))
    print(out / "explain.json")
    return 0


def _of_seeds(folder: Path, row: str, measure) -> np.ndarray:
    """What `measure` says of the run of each seed, float64 `[seeds, values]`."""
    runs = sorted((folder / spec.slug(row)).glob("seed*"))
    if not runs:
        raise UserError(f"{folder} has no run of '{row}': run the comparison first.")
    return np.array([measure(run) for run in runs])


def spread_of_distance(run: Path) -> list[float]:
    """By block, of 64 images of the test split."""
    opened = open_run(run)
    rows = heads.rows_of(opened, Options(run, split="test"))
    last = rows[[name for name in rows if name != heads.TEACHER][-1]]
    return [float(of_block.std()) for of_block in last.heads["distance"].values()]


def accuracy_kept(run: Path) -> list[float]:
    """Of 500 images of the test split."""
    options = Options(run, split="test", samples=landscape.IMAGES)
    (surface,) = landscape.surfaces(open_run(run), options).values()
    at = landscape.distances(options)
    whole = surface.accuracy[:, at == 0].mean()
    return [float(surface.accuracy[:, np.abs(at) == HALF].mean() / whole)]


def _table(title: str, columns: list[str], rows: dict[str, np.ndarray], factor: float, form: str) -> str:
    lines = []
    for row, values in rows.items():
        cells = []
        for n in range(len(columns)):
            of_row, of_teacher = factor * values[:, n, None], factor * rows[TEACHER][:, n, None]
            cell = f"{form.format(of_row.mean())} ± {form.format(of_row.std(ddof=1))}"
            if row != TEACHER:
                mean, low, high = interval(of_row, of_teacher)
                cell += f" ({form.format(mean)}: {form.format(low)} to {form.format(high)})"
            cells.append(cell)
        lines.append([row, *cells])
    return f"{title}\n\n{Table(['row', *columns], lines).markdown()}\n"


def _plain(rows: dict[str, np.ndarray]) -> dict[str, list]:
    return {row: values.round(6).tolist() for row, values in rows.items()}


if __name__ == "__main__":
    sys.exit(main())
