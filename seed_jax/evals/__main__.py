"""`python -m seed_jax.evals WORKDIR…`: accuracies of runs on the test split."""

import argparse
import sys

from absl import logging

from seed_jax import parallel
from seed_jax.errors import command
from seed_jax.evals.final import SPLITS, evaluate
from seed_jax.report.tables import SCORES, Table


@command
def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m seed_jax.evals", description=__doc__.split(": ", 1)[1])
    parser.add_argument("workdir", nargs="+", help="the --workdir of a run")
    parser.add_argument(
        "--best",
        action="store_true",
        help="use the checkpoint with the best score during training (default: the newest)",
    )
    parser.add_argument("--dir", default="", help="the new folder of the data, if it has moved")
    parser.add_argument(
        "--split",
        choices=SPLITS,
        default="test",
        help="the split to measure on, data.test or data.val (default: test)",
    )
    options = parser.parse_args(arguments)
    logging.set_verbosity(logging.WARNING)
    parallel.start()
    results = [
        evaluate(workdir, best=options.best, dir=options.dir, split=options.split)
        for workdir in options.workdir
    ]
    names = list(SCORES) + sorted({name for scores in results for name in scores} - {*SCORES, "parameters"})
    names = [name for name in names if any(name in scores for scores in results)]
    rows = [
        [workdir, f"{scores['parameters']:,}", *(scores.get(name) for name in names)]
        for workdir, scores in zip(options.workdir, results, strict=True)
    ]
    columns = [f"{SCORES.get(name, name)}, {options.split} %" for name in names]
    print(Table(["run", "parameters", *columns], rows).aligned())
    return 0


if __name__ == "__main__":
    sys.exit(main())
