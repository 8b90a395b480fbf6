"""The checks. Each starts real processes, disturbs them, and compares the result with an undisturbed run."""

import dataclasses
import random
import shutil
import signal
import time
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path

from PIL import Image

from experiments.reliability.processes import (
    EVERY,
    PASS,
    Processes,
    after,
    contents,
    differences,
    explain,
    half_written,
    newest_checkpoint,
    rows,
    writing,
)
from seed_jax.data.sources.embedded import digits

STEPS = 60  # of interrupted runs: enough for a random moment
SHORT = 20  # of runs on other devices
LONG = 100_000  # of runs that must fail
CLOSE = 1e-5  # for sums in a different order
DEATH_SECONDS = 60.0  # from the death of a process to the end of the others
DISK_SECONDS = 90.0  # from a failed write to the end of all processes

# Windows, probes and checkpoints at different steps. The small patches slow the steps down, so that a signal
# can arrive at any of them.
UNEVEN = {
    "method.patches": 6,
    "log.every_steps": 7,
    "train.checkpoint_epochs": 10 / PASS,
    "evals.every_epochs": 6 / PASS,
    "evals.names": "knn",
    "evals.bank_size": 64,
}
# Each process writes more than LIMIT bytes of a noise queue, which does not compress. All other files of a
# run are smaller.
LARGE_QUEUE = {"method.queue_size": 1024, "teacher.dim": 512, "method.queue_start": "noise"}
LIMIT = 500_000


class Failed(Exception):
    """A run did not do what it should, so there is nothing to compare."""


@dataclasses.dataclass(frozen=True)
class Result:
    """The result of a check.

    Attributes:
      compared: what was compared, in words.
      measured: name to the measured value and its limit.
      differ: a sentence for each difference above its limit.
    """

    compared: str
    measured: dict[str, tuple[float, float]]
    differ: list[str]

    @property
    def kept(self) -> bool:
        return all(value <= limit for value, limit in self.measured.values())  # False for NaN


def compare(one: Path, other: Path, steps: int, limit: float, how: str = "") -> Result:
    """Compare two runs at step `steps`; `how` is added to the words of what was compared."""
    measured = {name: (value, limit) for name, value in differences(one, other, steps).items()}
    result = Result(contents(one, steps) + how, measured, [])
    return result if result.kept else dataclasses.replace(result, differ=explain(one, other, steps, limit))


def whole(folder: Path, variant: str, steps: int, name: str = "whole", **options) -> Path:
    """The workdir of the uninterrupted run on 8 devices, which is run at the first call."""
    directory = folder / f"{name}{steps}"
    if newest_checkpoint(directory) != steps:
        finish(directory, variant, steps, **options)
    return directory


def finish(directory: Path, variant: str, steps: int, **options) -> None:
    """Start or resume a run and wait until it succeeds."""
    with Processes(directory, variant, steps, **options) as running:
        codes = running.wait()
        if any(codes):
            raise Failed(f"{directory.name} ended with {codes}:\n{running.said()[-3000:]}")
        _require_going_on(running)


def _require_going_on(running: Processes) -> None:
    if not running.went_on():
        raise Failed(
            f"{running.workdir.name} did not go on from step {running.begun}:\n{running.said()[-3000:]}"
        )


def interrupt(directory, variant, steps, happened: Callable, number, *, count: int = 1, **options) -> None:
    """Start a run, send a signal to its last process, and check that it ends unfinished, as it should."""
    with Processes(directory, variant, steps, count=count, **options) as running:
        sent = running.when(happened, number, process=count - 1)
        if not sent:
            raise Failed(f"{directory.name}: the moment for the signal never came:\n{running.said()[-3000:]}")
        codes = running.wait()
        if (directory / "checkpoints" / str(steps)).exists():
            raise Failed(f"{directory.name} finished before the signal: increase STEPS.")
        if codes != [-number if number == signal.SIGKILL else 0] * count:
            raise Failed(f"{directory.name} ended with {codes}:\n{running.said()[-3000:]}")
        _require_going_on(running)


def interrupted(folder, variant, name, moments: Iterable[Callable], number, *, like="whole", **options):
    """Interrupt and resume a run at each of the moments, and compare it with the uninterrupted run."""
    directory, ends = folder / name, []
    for happened in moments:
        interrupt(directory, variant, STEPS, happened, number, **options)
        ends.append(newest_checkpoint(directory) if number == signal.SIGTERM else rows(directory)[-1]["step"])
    if not newest_checkpoint(directory):
        raise Failed(f"{name} has no checkpoint to resume from: interrupt it later.")
    finish(directory, variant, STEPS, **options)
    how = f"; {number.name} at steps {', '.join(map(str, ends))}"
    settings = options.get("settings")
    undisturbed = whole(folder, variant, STEPS, like, settings=settings)
    return compare(undisturbed, directory, STEPS, CLOSE if options.get("count", 1) > 1 else 0.0, how)


def random_moments(directory: Path, repeats: int, first: int):
    """Moments drawn at random, each later in the run than the one before; the first after step `first`."""
    random_numbers = random.Random(repeats)
    for _ in range(repeats):
        step = rows(directory)[-1]["step"] if directory.exists() else first
        step += random_numbers.randint(1, STEPS // (repeats + 2))
        yield after(step, random_numbers.uniform(0, 0.5))


def kills(folder, variant, repeats) -> Result:
    moments = random_moments(folder / "killed", repeats, first=2 * EVERY)
    return interrupted(folder, variant, "killed", moments, signal.SIGKILL)


def kill_while_writing(folder, variant, repeats) -> Result:
    def each():
        for _ in range(min(2, repeats)):
            yield writing()
            if not half_written(folder / "half-written"):
                raise Failed("the kill came after the write of the checkpoint: run the check again.")

    return interrupted(folder, variant, "half-written", each(), signal.SIGKILL)


def stops(folder, variant, repeats) -> Result:
    moments = [after(step) for step in (8, 38)[:repeats]]
    return interrupted(folder, variant, "stopped", moments, signal.SIGTERM)


def stops_of_one_of_two(folder, variant, repeats) -> Result:
    del repeats
    return interrupted(folder, variant, "stopped-two", [after(2)], signal.SIGTERM, count=2)


def uneven(number: signal.Signals):
    """A run with windows, probes and checkpoints at different steps, interrupted at random moments."""

    def check(folder, variant, repeats) -> Result:
        name = f"uneven-{number.name}"
        moments = random_moments(folder / name, repeats, first=14)
        options = {"like": "uneven", "settings": UNEVEN}
        return interrupted(folder, variant, name, moments, number, **options)

    return check


def other_devices(count: int):
    def check(folder, variant, repeats) -> Result:
        del repeats
        directory = folder / f"devices{count}"
        finish(directory, variant, SHORT, devices=count)
        return compare(whole(folder, variant, SHORT), directory, SHORT, CLOSE)

    return check


def resumed_on_other_devices(folder, variant, repeats) -> Result:
    """The same run on 8, then 2, then 1 devices."""
    del repeats
    directory, ends = folder / "fewer-and-fewer", []
    for devices, until in ((8, 3), (2, 10)):
        interrupt(directory, variant, SHORT, after(until), signal.SIGTERM, devices=devices)
        ends.append(newest_checkpoint(directory))
    finish(directory, variant, SHORT, devices=1)
    how = f"; SIGTERM at steps {ends[0]}, {ends[1]}"
    return compare(whole(folder, variant, SHORT), directory, SHORT, CLOSE, how)


def two_processes(folder, variant, repeats) -> Result:
    del repeats
    directory = folder / "two"
    finish(directory, variant, SHORT, count=2)
    return compare(whole(folder, variant, SHORT), directory, SHORT, CLOSE)


def _ended(running: Processes, limit: float, codes: Mapping[int, int]) -> float:
    """Wait until all processes have ended, and return the seconds this took.

    Args:
      codes: process to the exit code it must have.

    Raises:
      Failed: a process still runs after `limit` seconds, has exit code 0, or has not its code in `codes`.
    """
    began = time.monotonic()
    ends = running.wait(timeout=limit)
    seconds = time.monotonic() - began
    what = f"still ran and was killed after {limit:g} s" if seconds >= limit else f"ended with {ends}"
    if seconds >= limit or 0 in ends or any(ends[i] != code for i, code in codes.items()):
        said = "\n".join(f"process {i} said\n{running.said(i)[-2000:]}" for i in range(len(ends)))
        raise Failed(f"{running.workdir.name} {what}; {said}")
    return seconds


def one_of_two_dies(victim: int):
    def check(folder, variant, repeats) -> Result:
        """Measure the seconds until the other process has ended."""
        del repeats
        with Processes(folder / f"dead{victim}", variant, LONG, count=2) as running:
            if not running.when(newest_checkpoint, signal.SIGKILL, process=victim):
                raise Failed(f"no checkpoint came:\n{running.said()[-3000:]}")
            seconds = _ended(running, DEATH_SECONDS, {victim: -signal.SIGKILL})
        return Result("the other ends, exit code not 0", {"seconds": (seconds, DEATH_SECONDS)}, [])

    return check


def images_of_one_of_two_vanish(folder, variant, repeats) -> Result:
    del repeats
    source, count = digits(), 160
    for process in (0, 1):
        images = folder / f"images{process}"
        images.mkdir(parents=True)
        for i in range(count):
            Image.fromarray(source[i].image).save(images / f"{i}.png")
    settings = {"data.source": "folder", "data.dir": folder / "images{process}", "data.train": "all"}
    settings["train.checkpoint_epochs"] = EVERY / (count // 16)
    with Processes(folder / "blind", variant, LONG, count=2, settings=settings) as running:
        if not running.reached(newest_checkpoint):
            raise Failed(f"no checkpoint came:\n{running.said()[-3000:]}")
        shutil.rmtree(folder / "images1")
        seconds = _ended(running, DEATH_SECONDS, {})
        if "images of a split cannot be read" not in running.said(1):
            raise Failed(f"process 1 does not say that its images are missing:\n{running.said(1)[-3000:]}")
    return Result("process 1 says so; both end, exit code not 0", {"seconds": (seconds, DEATH_SECONDS)}, [])


def full_disk(victims: tuple[int, ...], count: int = 1):
    """Let writes of these processes fail after the first checkpoint, then resume the run with free space."""

    def check(folder, variant, repeats) -> Result:
        del repeats
        directory = folder / f"full{count}-{'-'.join(map(str, victims))}"
        options = {"settings": LARGE_QUEUE}
        with Processes(directory, variant, STEPS, count=count, **options) as running:
            if not running.reached(newest_checkpoint):
                raise Failed(f"no checkpoint came:\n{running.said()[-3000:]}")
            for process in victims:
                running.limit_files(LIMIT, process)
            seconds = _ended(running, DISK_SECONDS, dict.fromkeys(victims, 1))
            if not any("cannot be written" in running.said(i) for i in victims):
                raise Failed(f"no process says that a write failed:\n{running.said(victims[0])[-3000:]}")
        last = newest_checkpoint(directory)
        finish(directory, variant, STEPS, count=count, **options)
        limit = CLOSE if count > 1 else 0.0
        undisturbed = whole(folder, variant, STEPS, "large", **options)
        result = compare(
            undisturbed, directory, STEPS, limit, f"; failed after the checkpoint of step {last}"
        )
        return dataclasses.replace(result, measured={**result.measured, "seconds": (seconds, DISK_SECONDS)})

    return check


# For each method and each of `STATES`; the latter have no other check.
KILLED = {"SIGKILL at random moments, resumed": kills}
# For each method.
EACH = KILLED | {
    "SIGKILL during the checkpoint's write, resumed": kill_while_writing,
    "SIGTERM, resumed": stops,
    "1 device against 8": other_devices(1),
    "2 devices against 8": other_devices(2),
    "8, then 2, then 1 device, resumed": resumed_on_other_devices,
    "2 processes against 1": two_processes,
    "SIGTERM to one of 2 processes, resumed": stops_of_one_of_two,
}
# For SEED alone: the results do not depend on the method.
ONCE = {
    "log, probe, checkpoint every 7, 6, 10 steps, SIGKILL, resumed": uneven(signal.SIGKILL),
    "log, probe, checkpoint every 7, 6, 10 steps, SIGTERM, resumed": uneven(signal.SIGTERM),
    "process 1 of 2 dies": one_of_two_dies(1),
    "process 0 of 2 dies": one_of_two_dies(0),
    "the images of process 1 of 2 vanish": images_of_one_of_two_vanish,
    "full disk, resumed": full_disk((0,)),
    "full disk of 2 processes, resumed": full_disk((0, 1), count=2),
    "full disk of process 1 of 2, resumed": full_disk((1,), count=2),
}
