"""`python -m seed_jax.exits WORKDIR`: accuracy, size, FLOPs and time of each exit, and of leaving early."""

import argparse
import itertools
import json
import math
import sys
from pathlib import Path

import jax
import numpy as np
from absl import logging

from seed_jax import parallel
from seed_jax.analysis import separability
from seed_jax.data import files
from seed_jax.errors import UserError, command, numbers
from seed_jax.evals import final
from seed_jax.evals.base import SharedFeatures
from seed_jax.evals.top1 import correct
from seed_jax.exits import cost, page
from seed_jax.exits.adaptive import sections
from seed_jax.exits.sweep import sweep
from seed_jax.models.exits import ENSEMBLE, LOGITS, classifiers, pooled_of
from seed_jax.models.sections import Section

THRESHOLDS = (0.0, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 0.95, 0.98, 0.99, 0.999, 1.0)
EPILOG = """\
  python -m seed_jax.exits runs/byot
  python -m seed_jax.weights export runs/byot exit2.safetensors --exit 2

It writes report.html, results.json and exits.svg into --out, and prints the tables.
"""


@command
def main(arguments: list[str] | None = None) -> int:
    options = _parse(arguments)
    logging.set_verbosity(logging.WARNING)
    parallel.start()
    run, config = final.open_run(options.workdir, best=options.best, dir=options.dir)
    out = options.out or Path(options.workdir, "exits")
    files.claim(out)
    features, labels, fingerprint = _features(run, config, options)
    size, names = config.data.image_size, classifiers(features)

    print("Measuring each exit.", flush=True)
    entries = [*names, ENSEMBLE]
    separable = len(np.unique(labels)) > 1
    costs = cost.costs([Section(run.network, size, (entry,)) for entry in entries], run.variables)
    *exits, ensemble = (
        page.Measured(
            "deepest" if entry == LOGITS else entry.removesuffix("_logits"),
            correct(features[entry], labels),
            one,
            separability(features[pooled_of(entry)], labels) if separable and entry != ENSEMBLE else None,
        )
        for entry, one in zip(entries, costs, strict=True)
    )
    paid = itertools.accumulate(cost.flops(s, run.variables) for s in sections(run.network, features, size))
    policies = sweep([features[name] for name in names], labels, list(paid), options.thresholds)
    facts = {
        "run": options.workdir,
        "step": run.step,
        "split": options.split,
        "images": len(labels),
        "fingerprint": fingerprint,
        "size": size,
        "device": jax.local_devices()[0].device_kind,
    }
    _write(out, exits, ensemble, policies, facts)
    print(f"\n{page.exits_table([*exits, ensemble]).aligned()}\n")
    print(f"{page.sweep_table(policies, exits).aligned()}\n")
    print("\n".join(page.ABOUT))
    print(f"\n{out / 'report.html'}")
    return 0


def _parse(arguments):
    parser = argparse.ArgumentParser(
        prog="python -m seed_jax.exits",
        description="Cost and accuracy of each exit of a network, and what leaving early saves.",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("workdir", metavar="WORKDIR", help="the --workdir of a run of the method byot")
    parser.add_argument(
        "--best", action="store_true", help="the checkpoint with the best probe, not the last"
    )
    parser.add_argument("--dir", default="", help="the new folder of the data, if it has moved")
    parser.add_argument(
        "--split", choices=final.SPLITS, default="test", help="the split to measure on (default: test)"
    )
    parser.add_argument(
        "--thresholds",
        type=numbers,
        default=THRESHOLDS,
        metavar="T,T",
        help="confidences above which an image leaves, from 0 to 1 (default: 13 of them)",
    )
    parser.add_argument("--out", type=Path, help="folder of the page and its files (default: WORKDIR/exits)")
    options = parser.parse_args(arguments)
    for threshold in options.thresholds:
        if not 0 <= threshold <= 1:
            raise UserError(f"--thresholds has {threshold:g}: use values from 0 to 1.")
    options.thresholds = sorted({*options.thresholds})
    return options


def _features(run, config, options):
    """Logits and features of all exits on the labelled images of the split, labels, and its fingerprint."""
    source = final.open_scored(config, options.split)
    shared = SharedFeatures(run.network, run.variables, parallel.make_mesh(), config, {"queries": source})
    logits = classifiers(shared.entries)
    if len(logits) < 2 or ENSEMBLE not in shared.entries:
        raise UserError(
            f"{options.workdir} has no exits, as a run of {config.method_name}: use a run of byot."
        )
    shared.want("queries", *logits, *map(pooled_of, logits), ENSEMBLE)
    features, labels = shared.get("queries")
    known = labels >= 0
    if not known.any():
        raise UserError(f"No image of --split {options.split} has a label: use the other split.")
    return {name: x[known] for name, x in features.items()}, labels[known], source.fingerprint()


def _write(out: Path, exits, ensemble, policies, facts) -> None:
    rows = [
        {
            "name": one.name,
            "accuracy": float(one.correct.mean()),
            "interval": page.wilson(one.correct.mean(), len(one.correct)),
            **one.cost._asdict(),
            "separability": one.separability if math.isfinite(one.separability or 0) else None,
        }
        for one in [*exits, ensemble]
    ]
    swept = [
        {
            "threshold": policy.threshold,
            "accuracy": float(policy.correct.mean()),
            "interval": page.wilson(policy.correct.mean(), len(policy.correct)),
            "flops": policy.flops,
            "leave": [float(np.mean(policy.exits == number)) for number in range(len(exits))],
        }
        for policy in policies
    ]
    content = {**facts, "exits": rows, "thresholds": swept}
    files.write(out / "results.json", json.dumps(content, indent=1) + "\n")
    page.write(out / "report.html", exits, ensemble, policies, facts)


if __name__ == "__main__":
    sys.exit(main())
