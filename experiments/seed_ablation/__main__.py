"""SEED with one setting changed at a time: three seeds, a table with intervals, a plot for each setting.

    python -m experiments.seed_ablation                    on both data sets; finished runs are not run again
    python -m experiments.seed_ablation scattered          on one of them, scattered or fashion
    python -m experiments.seed_ablation --quick            tries the code
    python -m experiments.seed_ablation --plots FOLDER     only the plots, from FOLDER/results.json

It is `./run.sh compare experiments/seed_ablation/DATA`, whose other flags it takes, and then the plots.
"""

import statistics
import sys
from pathlib import Path

from experiments.seed_ablation.comparison import AXES, IMAGES, row
from seed_jax.compare import __main__ as compare
from seed_jax.data import files
from seed_jax.errors import UserError, command
from seed_jax.report import html, plots

HERE = Path(__file__).parent
OUT = Path("runs/seed_ablation")


@command
def main(arguments: list[str] | None = None) -> int:
    arguments = sys.argv[1:] if arguments is None else arguments
    if {"-h", "--help"} & {*arguments}:
        print(__doc__)
        return 0
    if arguments[:1] == ["--plots"]:
        if len(arguments) != 2:
            raise UserError(
                "--plots takes one folder, as in --plots experiments/seed_ablation/results/scattered."
            )
        return draw(Path(arguments[1]))
    if any(argument.partition("=")[0] == "--out" for argument in arguments):
        raise UserError(f"--out is not a flag of this command, which writes to {OUT}: use ./run.sh compare.")
    of = [arguments[0]] if arguments and arguments[0] in IMAGES else list(IMAGES)
    flags = arguments[1:] if arguments and arguments[0] in IMAGES else arguments
    return max(_run(data, flags) for data in of)


def _run(data: str, flags: list[str]) -> int:
    folder = OUT / (f"{data}-quick" if "--quick" in flags else data)
    code = compare.main([str(HERE / data), *flags])
    if "--plan" not in flags and (folder / "results.json").exists():
        draw(folder)
    return code


def draw(folder: Path) -> int:
    """Write a plot of kNN for each setting that has at least two finished values, and print their paths."""
    rows = {each["name"]: each for each in files.read_json(folder / "results.json")["rows"]}
    figures = []
    for name, axis in AXES.items():
        values = sorted((axis.own, *axis.others))
        lanes = [
            plots.Lane(f"{value:g}", scores, f"{statistics.mean(scores):.1f}")
            for value in values
            if (scores := rows.get(row(name, value), {}).get("scores", {}).get("knn"))
        ]
        if len(lanes) > 1:
            title = f"kNN of the student by {name}, test split, %"
            figures.append(
                plots.lanes(lanes, title=title, line=None, name="-".join(name.replace("'", "").split()))
            )
    html.save(folder, figures)
    for figure in figures:
        print(folder / f"{figure.name}.svg")
    return 0


if __name__ == "__main__":
    sys.exit(main())
