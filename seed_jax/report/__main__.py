"""`python -m seed_jax.report WORKDIR…`: print the metrics of each run and write its `report.html`."""

import argparse
import sys

from seed_jax.errors import command
from seed_jax.report.runs import run_report, run_table


@command
def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m seed_jax.report", description=__doc__.split(": ", 1)[1])
    parser.add_argument("workdir", nargs="+", help="the --workdir of a run")
    for workdir in parser.parse_args(arguments).workdir:
        print(run_table(workdir).markdown())
        print(f"\n{run_report(workdir)}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
