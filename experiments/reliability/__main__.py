"""Check that a run stays the same after crashes, on any number of devices and processes.

    python -m experiments.reliability                     all methods, the committed table
    python -m experiments.reliability --quick             SEED alone, fewer kills
    python -m experiments.reliability --only 'SIGTERM'    checks whose name contains this

Real processes of `main.py` train the tests' tiny network on the embedded digits. The checks kill, stop and
resume them, and spread them over devices and processes. Each compares the result with an uninterrupted run on
8 devices: network, train state (optimizer, queues, averages, step) and every logged number. The exit code is
1 if a limit is missed.
"""

import argparse
import os
import signal
import sys
import tempfile
import textwrap
import time
from pathlib import Path

from experiments.reliability.checks import EACH, KILLED, ONCE, Failed
from seed_jax.report.tables import Table

METHODS = {"SEED": "seed", "SEED with small patches": "patches", "MoCo v2": "moco"}
STATES = {"SwAV": "swav", "DINO": "dino", "CompRess": "compress"}  # which carry other kinds of state
CHECK_SECONDS = 30  # first guess of the time of one check


def main(arguments=None) -> int:
    options = _parse(arguments)
    # An exception, so that `Processes` kills the processes of the check under way.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    chosen = _chosen(options)
    began, table = time.time(), []
    try:
        with tempfile.TemporaryDirectory() as folder:
            os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", f"{folder}/xla")
            os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0.2")
            for done, (title, check, variant) in enumerate(chosen):
                left = (len(chosen) - done) * (time.time() - began + CHECK_SECONDS) / (done + 1)
                print(f"[{done + 1} of {len(chosen)}, {_minutes(left)} left] {title}", flush=True)
                repeats = 1 if options.quick or variant != "seed" else 3
                table.append(_row(title, check, Path(folder) / variant, variant, repeats))
                if options.out:
                    options.out.write_text(_text(table, time.time() - began))
    except KeyboardInterrupt:
        print(f"\nStopped after {len(table)} of {len(chosen)} checks.")
        return 130
    finally:
        if table:
            print(f"\n{_text(table, time.time() - began)}")
    return 1 if _missed(table) else 0


def _chosen(options) -> list:
    methods = dict(list(METHODS.items())[:1]) if options.quick else METHODS
    every = [
        (f"{name}, {title}", check, variant)
        for name, variant in methods.items()
        for title, check in (EACH | ONCE if variant == "seed" else EACH).items()
    ]
    if not options.quick:
        every += [(f"{name}, {t}", check, v) for name, v in STATES.items() for t, check in KILLED.items()]
    chosen = [check for check in every if options.only.lower() in check[0].lower()]
    if not chosen:
        names = "\n  ".join(title for title, _, _ in every)
        raise SystemExit(f"--only: no check has '{options.only}' in its name. They are\n  {names}")
    return chosen


def _row(title, check, folder, variant, repeats) -> list[str]:
    """Run a check, print its result, and return its row of the table."""
    began = time.time()
    try:
        result = check(folder, variant, repeats)
    except Failed as error:
        print("    a run failed; kept: NO\n" + textwrap.indent(str(error), "    "))
        return [title, "a run failed", "–", "–", "NO"]
    measured = ", ".join(f"{name} {value:.2g}" for name, (value, _) in result.measured.items())
    limits = dict.fromkeys(_limit(name, limit) for name, (_, limit) in result.measured.items())
    kept = "yes" if result.kept else "NO"
    print(f"    {measured}; kept: {kept} ({time.time() - began:.0f} s)")
    for sentence in result.differ:
        print("    " + sentence)
    return [title, result.compared, measured, ", ".join(limits), kept]


def _limit(name: str, limit: float) -> str:
    if name == "seconds":
        return f"{limit:g} s"
    return f"{limit:g}" if limit else "bitwise"


def _missed(table) -> int:
    return sum(row[-1] == "NO" for row in table)


def _text(table, seconds: float) -> str:
    lines = Table(["check", "compared", "largest difference", "limit", "kept"], table).markdown()
    return f"{lines}\n\n{len(table)} checks, {_missed(table)} missed, {_minutes(seconds)}.\n"


def _minutes(seconds: float) -> str:
    return f"{seconds / 60:.1f} minutes"


def _parse(arguments):
    parser = argparse.ArgumentParser(
        prog="python -m experiments.reliability", description=__doc__.split("\n", 1)[0]
    )
    parser.add_argument("--quick", action="store_true", help="SEED alone, one random kill")
    parser.add_argument("--only", default="", metavar="TEXT", help="only checks whose name contains this")
    parser.add_argument("--out", type=Path, help="also write the table to this file")
    return parser.parse_args(arguments)


if __name__ == "__main__":
    sys.exit(main())
