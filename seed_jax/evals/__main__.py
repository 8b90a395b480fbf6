"""`python -m seed_jax.evals WORKDIR…`: kNN and linear accuracy of runs on their test split."""

import argparse
import sys

from absl import logging

from seed_jax import parallel
from seed_jax.errors import command
from seed_jax.evals.final import SPLITS, evaluate
from seed_jax.report.tables import Table


@command
def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m seed_jax.evals", description=__doc__.split(": ", 1)[1])
    parser.add_argument("workdir", nargs="+", help="the --workdir of a run")
    parser.add_argument("--best", action="store_true", help="the best checkpoint by probe, not the last")
    parser.add_argument("--dir", default="", help="where the data lies now, if it has moved")
    parser.add_argument(
        "--split", choices=SPLITS, default="test", help="what is reported: data.test or data.val"
    )
    options = parser.parse_args(arguments)
    logging.set_verbosity(logging.WARNING)
    parallel.start()
    rows = []
    for workdir in options.workdir:
        found = evaluate(workdir, best=options.best, dir=options.dir, split=options.split)
        size = f"{found['parameters']:,}"
        rows.append([workdir, size, found["knn"], found["linear"], found.get("top1")])
    columns = [f"{what}, {options.split} %" for what in ("kNN", "linear probe", "classifier")]
    print(Table(["run", "parameters", *columns], rows).markdown())
    return 0


if __name__ == "__main__":
    sys.exit(main())
