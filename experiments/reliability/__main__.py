"""Is it the same run after a crash, on any number of devices, in any number of processes?

    python -m experiments.reliability          SEED and MoCo, the committed table
    python -m experiments.reliability --quick  SEED alone, fewer kills

Real processes of `main.py` train the tests' tiny network on the embedded digits. They are killed, stopped,
resumed and spread over devices and processes, and what they leave is compared with an uninterrupted run on
8 devices: network, train state (optimizer, queue, averages, step) and every logged number. The exit code is
1 if any limit is missed.
"""

import argparse
import os
import random
import signal
import sys
import tempfile
import time
from collections.abc import Callable, Iterable
from pathlib import Path

from tqdm import tqdm

from experiments.reliability.processes import (
    EVERY,
    Processes,
    after,
    differences,
    half_written,
    newest_checkpoint,
    rows,
    writing,
)
from seed_jax.report.tables import Table

METHODS = {"SEED": "seed", "MoCo v2": "moco"}
STEPS = 60  # of the runs that are killed: long enough to hit a random moment
SHORT = 20  # of the runs on other devices
CLOSE = 1e-5  # for sums in another order
DEATH_SECONDS = 60.0

Compared = tuple[dict[str, float], float]  # the largest difference of each part, and the limit


def main(arguments=None) -> int:
    options = _parse(arguments)
    chosen = dict(list(METHODS.items())[:1]) if options.quick else METHODS
    checks = {
        f"{name}, {title}": (check, variant)
        for name, variant in chosen.items()
        for title, check in CHECKS.items()
    }
    began, table, missed = time.time(), [], 0
    with tempfile.TemporaryDirectory() as folder:
        os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", f"{folder}/xla")
        os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0.2")
        bar = tqdm(checks.items(), unit="check", dynamic_ncols=True, file=sys.stdout)
        for title, (check, variant) in bar:
            bar.set_description(title)
            found, limit = check(Path(folder) / variant, variant, 1 if options.quick else 3)
            good = all(value <= limit for value in found.values())  # NaN is not
            missed += not good
            compared = ", ".join(f"{part} {value:.2g}" for part, value in found.items())
            table.append([title, compared, f"{limit:g}" if limit else "bitwise", "yes" if good else "NO"])
            text = _text(table, missed, time.time() - began)
            if options.out:
                options.out.write_text(text)
    print(f"\n{text}")
    return 1 if missed else 0


def _text(table, missed: int, seconds: float) -> str:
    lines = Table(["check", "largest difference", "limit", "kept"], table).markdown()
    return f"{lines}\n\n{len(table)} checks, {missed} missed, {seconds / 60:.1f} minutes.\n"


def _parse(arguments):
    parser = argparse.ArgumentParser(
        prog="python -m experiments.reliability", description=__doc__.split("\n", 1)[0]
    )
    parser.add_argument("--quick", action="store_true", help="SEED alone, one random kill")
    parser.add_argument("--out", type=Path, help="write the table to this file too")
    return parser.parse_args(arguments)


def _whole(folder: Path, variant: str, steps: int) -> Path:
    """The uninterrupted run on 8 devices; it is made once."""
    directory = folder / f"whole{steps}"
    if not directory.exists():
        _finish(directory, variant, steps)
    return directory


def _finish(directory: Path, variant: str, steps: int, **options) -> None:
    with Processes(directory, variant, steps, **options) as running:
        codes = running.wait()
        if any(codes):
            raise RuntimeError(f"{directory.name} ended with {codes}:\n{running.said()[-3000:]}")
        _require_going_on(running)


def _require_going_on(running: Processes) -> None:
    if not running.went_on():
        raise RuntimeError(
            f"{running.workdir.name} did not go on from step {running.begun}:\n{running.said()[-3000:]}"
        )


def _interrupt(directory, variant, steps, happened: Callable, number, *, count: int = 1, **options) -> None:
    """Start the run, send a signal to its last process, and see that it ended as it should, unfinished."""
    with Processes(directory, variant, steps, count=count, **options) as running:
        sent = running.when(happened, number, process=count - 1)
        if not sent:
            raise RuntimeError(f"{directory.name}: its moment never came:\n{running.said()[-3000:]}")
        codes = running.wait()
        if (directory / "checkpoints" / str(steps)).exists():
            raise RuntimeError(f"{directory.name} was finished before the signal came: use more STEPS.")
        if codes != [-number if number == signal.SIGKILL else 0] * count:
            raise RuntimeError(f"{directory.name} ended with {codes}:\n{running.said()[-3000:]}")
        _require_going_on(running)


def _interrupted(folder, variant, name, moments: Iterable[Callable], number, **options) -> Compared:
    """A run that got a signal at each of the moments and was started again, against the whole one."""
    directory = folder / name
    for happened in moments:
        _interrupt(directory, variant, STEPS, happened, number, **options)
    if not newest_checkpoint(directory):
        raise RuntimeError(f"{name} has no checkpoint to go on from: interrupt it later.")
    _finish(directory, variant, STEPS, **options)
    limit = CLOSE if options else 0.0
    return differences(_whole(folder, variant, STEPS), directory, STEPS), limit


def kills(folder, variant, repeats) -> Compared:
    moments = random.Random(repeats)

    def each():
        for _ in range(repeats):
            path = folder / "killed"
            seen = rows(path)[-1]["step"] if path.exists() else 0
            first = 1 if seen else 2 * EVERY + 1  # the checkpoint of step 5 is finished then
            yield after(seen + moments.randint(first, STEPS // (repeats + 2)))

    return _interrupted(folder, variant, "killed", each(), signal.SIGKILL)


def kill_while_writing(folder, variant, repeats) -> Compared:
    def each():
        for _ in range(min(2, repeats)):
            yield writing()
            if not half_written(folder / "half-written"):
                raise RuntimeError("the kill came after the checkpoint was written: run the check again.")

    return _interrupted(folder, variant, "half-written", each(), signal.SIGKILL)


def stops(folder, variant, repeats) -> Compared:
    moments = [after(step) for step in (8, 38)[:repeats]]
    return _interrupted(folder, variant, "stopped", moments, signal.SIGTERM)


def stops_of_one_of_two(folder, variant, repeats) -> Compared:
    del repeats
    return _interrupted(folder, variant, "stopped-two", [after(2)], signal.SIGTERM, count=2)


def other_devices(count: int):
    def check(folder, variant, repeats) -> Compared:
        del repeats
        directory = folder / f"devices{count}"
        _finish(directory, variant, SHORT, devices=count)
        return differences(_whole(folder, variant, SHORT), directory, SHORT), CLOSE

    return check


def resumed_on_other_devices(folder, variant, repeats) -> Compared:
    """8, then 2, then 1."""
    del repeats
    directory = folder / "fewer-and-fewer"
    for devices, until in ((8, 3), (2, 10)):
        _interrupt(directory, variant, SHORT, after(until), signal.SIGTERM, devices=devices)
    _finish(directory, variant, SHORT, devices=1)
    return differences(_whole(folder, variant, SHORT), directory, SHORT), CLOSE


def two_processes(folder, variant, repeats) -> Compared:
    del repeats
    directory = folder / "two"
    _finish(directory, variant, SHORT, count=2)
    return differences(_whole(folder, variant, SHORT), directory, SHORT), CLOSE


def one_of_two_dies(victim: int):
    def check(folder, variant, repeats) -> Compared:
        """Seconds until the other one has ended; infinity if it took its end for a success."""
        del repeats
        with Processes(folder / f"dead{victim}", variant, 100_000, count=2) as running:
            if not running.when(newest_checkpoint, signal.SIGKILL, process=victim):
                raise RuntimeError(f"no checkpoint came:\n{running.said()[-3000:]}")
            began = time.monotonic()
            codes = running.wait(timeout=2 * DEATH_SECONDS)
            seconds = time.monotonic() - began
        return {"seconds": seconds if codes[1 - victim] else float("inf")}, DEATH_SECONDS

    return check


CHECKS = {
    "SIGKILL at random moments, resumed": kills,
    "SIGKILL during the checkpoint's write, resumed": kill_while_writing,
    "SIGTERM, resumed": stops,
    "1 device against 8": other_devices(1),
    "2 devices against 8": other_devices(2),
    "8, then 2, then 1 device, resumed": resumed_on_other_devices,
    "2 processes against 1": two_processes,
    "SIGTERM to one of 2 processes, resumed": stops_of_one_of_two,
    "process 1 of 2 dies": one_of_two_dies(1),
    "process 0 of 2 dies": one_of_two_dies(0),
}


if __name__ == "__main__":
    sys.exit(main())
