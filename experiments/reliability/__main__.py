"""Is it the same run after a crash, on any number of devices, in any number of processes?

    python -m experiments.reliability                     all methods, the committed table
    python -m experiments.reliability --quick             SEED alone, fewer kills
    python -m experiments.reliability --only 'SIGTERM'    the checks that have this in their name

Real processes of `main.py` train the tests' tiny network on the embedded digits. They are killed, stopped,
resumed and spread over devices and processes, and what they leave is compared with an uninterrupted run on
8 devices: network, train state (optimizer, queues, averages, step) and every logged number. The exit code is
1 if any limit is missed.
"""

import argparse
import os
import signal
import sys
import tempfile
import textwrap
import time
from pathlib import Path

from experiments.reliability.checks import EACH, ONCE, Failed
from seed_jax.report.tables import Table

METHODS = {"SEED": "seed", "SEED with small patches": "patches", "MoCo v2": "moco"}
A_CHECK = 30  # seconds that one takes, as the first guess


def main(arguments=None) -> int:
    options = _parse(arguments)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))  # no process is left behind
    chosen = _chosen(options)
    began, table = time.time(), []
    try:
        with tempfile.TemporaryDirectory() as folder:
            os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", f"{folder}/xla")
            os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0.2")
            for done, (title, check, variant) in enumerate(chosen):
                left = (len(chosen) - done) * (time.time() - began + A_CHECK) / (done + 1)
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
    chosen = [check for check in every if options.only.lower() in check[0].lower()]
    if not chosen:
        names = "\n  ".join(title for title, _, _ in every)
        raise SystemExit(f"--only: no check has '{options.only}' in its name. They are\n  {names}")
    return chosen


def _row(title, check, folder, variant, repeats) -> list[str]:
    """Run a check, tell what it found, and return its row of the table."""
    began = time.time()
    try:
        result = check(folder, variant, repeats)
    except Failed as error:
        print("    a run failed; kept: NO\n" + textwrap.indent(str(error), "    "))
        return [title, "a run failed", "–", "–", "NO"]
    found = ", ".join(f"{part} {value:.2g}" for part, (value, _) in result.found.items())
    limits = dict.fromkeys(_limit(part, limit) for part, (_, limit) in result.found.items())
    kept = "yes" if result.kept else "NO"
    print(f"    {found}; kept: {kept} ({time.time() - began:.0f} s)")
    for sentence in result.differ:
        print("    " + sentence)
    return [title, result.compared, found, ", ".join(limits), kept]


def _limit(part: str, limit: float) -> str:
    if part == "seconds":
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
    parser.add_argument("--only", default="", metavar="TEXT", help="the checks with this in their name")
    parser.add_argument("--out", type=Path, help="write the table to this file too")
    return parser.parse_args(arguments)


if __name__ == "__main__":
    sys.exit(main())
