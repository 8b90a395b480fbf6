"""Our step of SEED and PyTorch's in turn, each in processes of its own: times, and their ratio.

    python -m experiments.benchmarks.paired                224 px, batch 16, and 64 px, batch 64
    python -m experiments.benchmarks.paired --only 64      one size
    python -m experiments.benchmarks.paired --tiny         small networks, to try the code

Both sides take the same weights and images. The losses of their first two steps must agree, or nothing is
timed any further. glibc uses huge pages on both sides. Needs torch (tests/requirements.txt).
"""

import argparse
import dataclasses
import importlib
import importlib.util
import json
import os
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

from experiments.benchmarks import quiet
from experiments.benchmarks.paired import work as work_lib
from seed_jax.errors import UserError, command
from seed_jax.report.tables import Table

ROOT = Path(__file__).parents[3]
SIDES = ("ours", "theirs")
HUGE_PAGES = {"GLIBC_TUNABLES": "glibc.malloc.hugetlb=1"}
TOLERANCES = (1e-4, 1e-3)  # of the first two losses, relative; the second has been through an update


@command
def main(arguments: list[str] | None = None) -> int:
    options = _parse(arguments)
    if importlib.util.find_spec("torch") is None:
        raise UserError(
            "This benchmark compares with PyTorch, which is not installed: "
            "use pip install -r tests/requirements.txt."
        )
    works = work_lib.TINY if options.tiny else work_lib.FULL
    works = [work for work in works if options.only in (None, work.size)]
    if not works:
        raise UserError(f"--only is {options.only}: use 224 or 64.")
    found = {"processor": quiet.processor(), "works": []}
    with tempfile.TemporaryDirectory() as folder:
        for work in works:
            found["works"].append(_measure(work, Path(folder), options))
            _write(options.out, found)
    print(f"\n{page(found)}\nWritten to {options.out}/paired.json and paired.md.")
    return 0


def _parse(arguments):
    parser = argparse.ArgumentParser(
        prog="python -m experiments.benchmarks.paired",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--rounds", type=int, default=3, help="default: 3")
    parser.add_argument("--repeats", type=int, default=5, help="timings of a part in a round; default: 5")
    parser.add_argument("--only", type=int, metavar="SIZE", help="side of the images, pixels; default: both")
    parser.add_argument("--tiny", action="store_true", help="small networks")
    parser.add_argument("--out", type=Path, default=Path("runs/paired"), help="default: runs/paired")
    return parser.parse_args(arguments)


def _measure(work: work_lib.Work, folder: Path, options) -> dict:
    print(f"{work}:", flush=True)
    described = json.dumps(dataclasses.asdict(work))
    importlib.import_module(f"{__package__}.theirs").write(
        work, folder
    )  # not at the top, since it needs torch
    rounds = []
    for number in range(1, options.rounds + 1):
        print(f"  round {number}, {quiet.load()}", flush=True)
        measured = {}
        for side in SIDES:
            measured[side] = _child(side, described, folder, options.repeats)
            ms, others = measured[side]["ms"]["step"], measured[side]["others"]["step"]
            print(f"    {side}: a step takes {ms:.1f} ms; {quiet.told(others)}", flush=True)
        if number == 1:
            print(f"  {agreement(measured)}", flush=True)
        rounds.append(measured)
    return {"work": dataclasses.asdict(work), "rounds": rounds}


def _child(side: str, *arguments) -> dict:
    """What a process of one side measures."""
    environment = os.environ | HUGE_PAGES | {"PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-m", f"{__package__}.{side}", *map(str, arguments)]
    ended = subprocess.run(command, env=environment, cwd=ROOT, capture_output=True, text=True, check=False)
    if ended.returncode:
        raise UserError(f"The process that times {side} failed: {ended.stderr.strip()}")
    return json.loads(ended.stdout.splitlines()[-1])


def agreement(measured: dict) -> str:
    """The sentence about the losses of a round.

    Raises:
      UserError: they differ by more than `TOLERANCES`.
    """
    both = [measured[side]["losses"] for side in SIDES]
    errors = [abs(a - b) / abs(b) for a, b in zip(*both, strict=True)]
    said = ", ".join(
        f"{a:.6f} and {b:.6f} (relative error {error:.0e}, tolerance {allowed:.0e})"
        for a, b, error, allowed in zip(*both, errors, TOLERANCES, strict=True)
    )
    if not all(error <= allowed for error, allowed in zip(errors, TOLERANCES, strict=True)):
        raise UserError(f"Both sides do not do the same work: losses of the first steps are {said}.")
    return f"same work: losses of the first steps, ours and PyTorch's, are {said}"


def page(found: dict) -> str:
    """The results as Markdown: a table for each size, medians over the rounds with minimum and maximum."""
    said = []
    for result in found["works"]:
        work, rounds = work_lib.Work(**result["work"]), result["rounds"]
        rows = []
        for name in work_lib.PARTS:
            ours, theirs = ([r[side]["ms"][name] for r in rounds] for side in SIDES)
            ratios = [b / a for a, b in zip(ours, theirs, strict=True)]
            speeds = [1e3 * work.batch / ms for ms in ours]
            torch_speeds = [1e3 * work.batch / ms for ms in theirs]
            rows.append(
                [name, _span(ours), _span(theirs), _span(ratios, 2), _span(speeds), _span(torch_speeds)]
            )
        header = ["part", "ours, ms", "PyTorch, ms", "times faster", "ours, images/s", "PyTorch, images/s"]
        taken = [share for r in rounds for side in SIDES for share in r[side]["others"].values()]
        worst = None if None in taken else max(taken)
        versions = ", ".join(rounds[0][side]["versions"] for side in SIDES)
        said.append(
            f"{work}; {len(rounds)} rounds; {found['processor']}; {versions}; during a timing "
            f"{quiet.told(worst)} at most; {agreement(rounds[0])}:\n\n"
            f"{Table(header, rows).markdown()}\n"
        )
    return "\n".join(said)


def _span(values, digits=1) -> str:
    middle, low, high = (f"{f(values):.{digits}f}" for f in (statistics.median, min, max))
    return middle if len(values) == 1 else f"{middle} ({low} to {high})"


def _write(folder: Path, found: dict) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "paired.json").write_text(json.dumps(found, indent=2) + "\n")
    (folder / "paired.md").write_text(page(found))


if __name__ == "__main__":
    sys.exit(main())
