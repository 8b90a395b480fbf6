"""Print what a run will need as tables; `seed_jax/train/plan.py` finds the numbers."""

import dataclasses
from collections.abc import Sequence

from seed_jax.report.tables import Table

RATES = (100, 1_000, 10_000)  # images per second to show times for, when the user passes none
UTILISATION = 0.4  # assumed share of the peak FLOP/s that training reaches


@dataclasses.dataclass(frozen=True)
class Memory:
    """Bytes of one kind.

    Attributes:
      name: what needs them.
      total: summed over all devices.
      per_device: on each device.
      where: how they are spread over the devices, in words.
    """

    name: str
    total: int
    per_device: int
    where: str


@dataclasses.dataclass(frozen=True)
class Plan:
    """The numbers to print.

    Attributes:
      images: of the training split.
      batch_size: over all devices.
      teacher_flops: of the forward, per image with all its views.
      student_flops: of forward and backward, per image with all its views.
      teacher_images: views that the teacher sees of an image in a step.
      memory: one entry per kind.
      notes: sentences printed below the tables.
      offline_images: images that the teacher sees before the training.
      offline_flops: of the teacher's forward over them, in all.
    """

    images: int
    batch_size: int
    devices: int
    steps_per_epoch: int
    steps: int
    student_parameters: int
    teacher_parameters: int
    teacher_flops: float
    student_flops: float
    teacher_images: float
    memory: tuple[Memory, ...]
    notes: tuple[str, ...]
    offline_images: int = 0
    offline_flops: float = 0.0

    @property
    def step_flops(self) -> float:
        return self.batch_size * (self.teacher_flops + self.student_flops)

    @property
    def device_bytes(self) -> int:
        return sum(row.per_device for row in self.memory)


def text(p: Plan, *, images_per_second: float | None = None, tflops: float | None = None) -> str:
    """The plan as text, in Markdown tables.

    Args:
      p: the numbers.
      images_per_second: speed to show the time for; None shows the times for `RATES`.
      tflops: peak TFLOP/s of one device, to estimate the time from; None leaves this estimate out.
    """
    total = p.steps * p.batch_size
    run = Table(
        ["run", ""],
        [
            ["images, training", f"{p.images:,}"],
            ["batch, all devices", f"{p.batch_size:,}"],
            [f"batch, each of {p.devices} devices", f"{p.batch_size // p.devices:,}"],
            ["steps per epoch", f"{p.steps_per_epoch:,}"],
            ["steps", f"{p.steps:,}"],
            ["parameters, student", f"{p.student_parameters:,}"],
            ["parameters, teacher", f"{p.teacher_parameters:,}"],
            ["FLOP per image, teacher forward", _flop(p.teacher_flops)],
            ["FLOP per image, student forward and backward", _flop(p.student_flops)],
            ["FLOP per step", _flop(p.step_flops)],
            ["FLOP, whole run", _flop(p.offline_flops + p.steps * p.step_flops)],
        ],
    )
    memory = [[row.name, _memory(row.total), _memory(row.per_device), row.where] for row in p.memory]
    total_bytes = sum(row.total for row in p.memory)
    memory.append(["sum", _memory(total_bytes), _memory(p.device_bytes), ""])
    times = [
        [f"at {rate:,.0f} images/s", _duration(total / rate)]
        for rate in ([images_per_second] if images_per_second else RATES)
    ]
    if tflops:
        seconds = p.steps * p.step_flops / (UTILISATION * tflops * 1e12 * p.devices)
        times.append(
            [f"at {UTILISATION:.0%} of {p.devices} x {tflops:g} TFLOP/s, an assumption", _duration(seconds)]
        )
    before = f"Before the training, the teacher sees {p.offline_images:,} images: {_flop(p.offline_flops)}. "
    before += "The search in what it finds is not counted."
    notes = (
        *p.notes,
        *([before] if p.offline_images else []),
        "A multiply-add is two FLOP. Colour, blur and the loop over the queue are not counted.",
        "Memory is an estimate: it counts what automatic differentiation keeps before XLA fuses operations; "
        "it does not count the teacher's temporaries, copies for communication, and probes.",
    )
    tables = (
        run,
        Table(["memory", "all devices", "per device", "where"], memory),
        Table(["time, without probes", ""], times),
    )
    return "\n\n".join([*(table.aligned() for table in tables), *notes])


def _memory(count: int) -> str:
    return _in_units(count, 2**10, ("B", "KiB", "MiB", "GiB", "TiB"), digits=1)


def _flop(count: float) -> str:
    return _in_units(count, 10**3, ("FLOP", "kFLOP", "MFLOP", "GFLOP", "TFLOP", "PFLOP", "EFLOP", "ZFLOP"))


def _in_units(count: float, factor: int, units: Sequence[str], digits: int = 2) -> str:
    """A count in the unit, each `factor` times the one before, that leaves a number from 1 to `factor`.

    >>> _in_units(2_360_000, 1000, ("FLOP", "kFLOP", "MFLOP", "GFLOP"))
    '2.36 MFLOP'
    """
    *smaller, largest = units
    for unit in smaller:
        if round(count, digits) < factor:
            return f"{count:.{digits if unit != units[0] else 0}f} {unit}"
        count /= factor
    return f"{count:,.{digits}f} {largest}"


def _duration(seconds: float) -> str:
    if seconds < 0.1:
        return "< 0.1 s"
    for unit, length, limit in (("s", 1, 60), ("min", 60, 60), ("h", 3600, 72)):
        if round(seconds / length, 1) < limit:
            return f"{seconds / length:.1f} {unit}"
    return f"{seconds / 86400:,.1f} days"
