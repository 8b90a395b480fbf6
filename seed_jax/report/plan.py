"""What a run will need, as tables; `seed_jax/plan.py` finds the numbers."""

import dataclasses

from seed_jax.report.tables import Table

RATES = (1_000, 4_000, 16_000)  # images a second, where none is given
UTILISATION = 0.4


@dataclasses.dataclass(frozen=True)
class Memory:
    """Bytes of one kind, over all devices and on each of `devices`."""

    name: str
    total: int
    per_device: int
    where: str


@dataclasses.dataclass(frozen=True)
class Plan:
    """The numbers that are printed; FLOPs are an image's, forward and backward, all its views."""

    images: int
    batch_size: int
    devices: int
    steps_per_epoch: int
    steps: int
    student_parameters: int
    teacher_parameters: int
    teacher_flops: float
    student_flops: float
    memory: tuple[Memory, ...]
    notes: tuple[str, ...]

    @property
    def step_flops(self) -> float:
        return self.batch_size * (self.teacher_flops + self.student_flops)

    @property
    def device_bytes(self) -> int:
        return sum(row.per_device for row in self.memory)


def text(p: Plan, *, images_per_second: float | None = None, tflops: float | None = None) -> str:
    """The plan as it is printed."""
    total = p.steps * p.batch_size
    run = Table(
        ["run", ""],
        [
            ["images, training", f"{p.images:,}"],
            ["batch, all devices", f"{p.batch_size:,}"],
            [f"batch, each of {p.devices} devices", f"{p.batch_size // p.devices:,}"],
            ["steps an epoch", f"{p.steps_per_epoch:,}"],
            ["steps", f"{p.steps:,}"],
            ["parameters, student", f"{p.student_parameters:,}"],
            ["parameters, teacher", f"{p.teacher_parameters:,}"],
            ["GFLOP an image, teacher forward", f"{p.teacher_flops / 1e9:.2f}"],
            ["GFLOP an image, student forward and backward", f"{p.student_flops / 1e9:.2f}"],
            ["TFLOP a step", f"{p.step_flops / 1e12:.2f}"],
            ["EFLOP the run", f"{p.steps * p.step_flops / 1e18:.2f}"],
        ],
    )
    memory = [[row.name, _mib(row.total), _mib(row.per_device), row.where] for row in p.memory]
    total_bytes = sum(row.total for row in p.memory)
    memory.append(["sum", _mib(total_bytes), _mib(p.device_bytes), ""])
    times = [
        [f"at {rate:,.0f} images/s", _duration(total / rate)]
        for rate in ([images_per_second] if images_per_second else RATES)
    ]
    if tflops:
        seconds = p.steps * p.step_flops / (UTILISATION * tflops * 1e12 * p.devices)
        times.append(
            [f"at {UTILISATION:.0%} of {p.devices} x {tflops:g} TFLOP/s, an assumption", _duration(seconds)]
        )
    notes = (
        *p.notes,
        "A multiply-add is two FLOP. Colour, blur and the loop over the queue are not counted.",
        "Memory is an estimate: what automatic differentiation keeps, before XLA fuses; the teacher's "
        "temporaries, copies for communication and probes are not in it.",
    )
    tables = (
        run,
        Table(["memory, MiB", "all devices", "a device", "where"], memory),
        Table(["time, without probes", ""], times),
    )
    return "\n\n".join([*(table.markdown() for table in tables), *notes])


def _mib(count: int) -> str:
    return f"{count / 2**20:,.1f}"


def _duration(seconds: float) -> str:
    return f"{seconds / 3600:,.1f} h" if seconds >= 3600 else f"{seconds / 60:,.1f} min"
