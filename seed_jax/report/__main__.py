"""`python -m seed_jax.report WORKDIR…`: say whether training helped, print metrics, write `report.html`."""

import argparse
import sys

from seed_jax.errors import command
from seed_jax.report.runs import run_report, run_table
from seed_jax.report.verdict import answer


@command
def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m seed_jax.report", description=__doc__.split(": ", 1)[1])
    parser.add_argument("workdir", nargs="+", help="the --workdir of a run")
    for workdir in parser.parse_args(arguments).workdir:
        sentence, scores = answer(workdir)
        print(f"{workdir}: {sentence}\n")
        if scores is not None:
            print(f"{scores.aligned()}\n")
        print(run_table(workdir).aligned())
        print(f"\n{run_report(workdir)}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
