"""Accuracy over the epochs, a line for each way to train, from the results of the comparison.

    ./run.sh python -m experiments.longer_training.figure                          the committed results
    ./run.sh python -m experiments.longer_training.figure runs/longer_training     yours

It writes epochs.svg beside them.
"""

import argparse
import sys
from pathlib import Path

from experiments.longer_training.compare import EPOCHS, WAYS, row
from seed_jax.data import files
from seed_jax.errors import UserError, command
from seed_jax.report import html, plots

RESULTS = Path(__file__).parent / "results"


@command
def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "folder", type=Path, nargs="?", default=RESULTS, help="default: the committed results"
    )
    folder = parser.parse_args(arguments).folder
    rows = {each["name"]: each for each in files.read_json(folder / "results.json")["rows"]}
    lines = {}
    for way in WAYS:
        found = [rows.get(row(way, count)) for count in EPOCHS]
        if None in found:
            raise UserError(f"{folder} lacks rows of '{way}': run the full form of the comparison first.")
        scores = [[score / 100 for score in each["scores"]["top1"]] for each in found]
        lines[way] = [(EPOCHS, of_seed) for of_seed in zip(*scores, strict=True)]
    figure = plots.curves(
        lines, title="top-1 of the student, test split", axis="epochs", percent=True, name="epochs"
    )
    html.save(folder, [figure])
    print(folder / "epochs.svg")
    return 0


if __name__ == "__main__":
    sys.exit(main())
