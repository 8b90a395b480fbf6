"""How time and memory grow with K, the batch, the devices and the number of images.

    python -m experiments.benchmarks.growth            two minutes on two cores, four the first time
    python -m experiments.benchmarks.growth --quick    two points along each axis, to try the code

Along an axis the other sizes are K = 65,536, batch 64 and one device. Each step is measured in a process of
its own, on the CPU, with a narrow ResNet-18 as teacher and student. Its devices are fake ones that share the
cores: they show how memory is divided and whether the work stays the same, not speed. The images are names in
the index of a folder; none is read.
"""

import argparse
import dataclasses
import json
import os
import subprocess
import sys
import time
from pathlib import Path

from experiments.benchmarks import input as inputs
from experiments.benchmarks import quiet
from experiments.benchmarks.growth import page
from experiments.benchmarks.growth.point import NETWORK, SIZE, Point
from seed_jax.data import files
from seed_jax.errors import UserError, command
from seed_jax.report import html

ROOT = Path(__file__).parents[3]


@dataclasses.dataclass(frozen=True)
class Form:
    """The sizes along each axis, ascending; those of the other axes meanwhile; timings of each program."""

    base: Point
    queues: tuple[int, ...]
    batches: tuple[int, ...]
    devices: tuple[int, ...]
    images: tuple[int, ...]
    repeats: int


FULL = Form(
    base=Point(65_536, 64, 1),
    queues=(4_096, 16_384, 65_536, 262_144, 1_048_576),
    batches=(8, 16, 32, 64, 128),
    devices=(1, 2, 4, 8),
    images=(1_000, 10_000, 100_000, 1_280_000),
    repeats=5,
)
QUICK = Form(Point(1024, 16, 1), (256, 1024), (8, 16), (1, 2), (1000, 2000), 1)


@command
def main(arguments: list[str] | None = None) -> int:
    options = _parse(arguments)
    began, form = time.monotonic(), QUICK if options.quick else FULL
    axes = {
        "K": _along(form.base, "queue", form.queues),
        "batch": _along(form.base, "batch", form.batches),
        "devices": _along(form.base, "devices", form.devices),
    }
    measured = {}
    for point in dict.fromkeys(point for points in axes.values() for point in points.values()):
        measured[point] = child(point, form.repeats)
        step_ms, told = measured[point]["step_ms"], quiet.told(measured[point]["others"])
        print(f"{point}: a step takes {step_ms:.1f} ms; {told}", flush=True)
    found = {
        axis: [{"x": x, **measured[point]} for x, point in points.items()] for axis, points in axes.items()
    }
    found["images"] = [{"x": count, **dataclasses.asdict(inputs.start(count))} for count in form.images]
    results = {
        "described": f"{NETWORK}, width 0.25, as teacher and student, {SIZE} px; {form.base} where not named",
        "processor": quiet.processor(),
        "seconds": time.monotonic() - began,
        "axes": found,
    }
    said = page.page(results)
    files.write(options.out / "results.json", json.dumps(results, indent=1) + "\n")
    files.write(options.out / "table.md", said + "\n")
    html.save(options.out, [page.figure(results)])
    print(f"\n{said}\n\nWritten to {options.out}: results.json, table.md, growth.svg.")
    return 0


def _parse(arguments):
    parser = argparse.ArgumentParser(
        prog="python -m experiments.benchmarks.growth",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--quick", action="store_true", help="two points along each axis, timed once")
    parser.add_argument("--out", type=Path, default=Path("runs/growth"), help="default: runs/growth")
    return parser.parse_args(arguments)


def _along(base: Point, field: str, sizes: tuple[int, ...]) -> dict[int, Point]:
    return {size: dataclasses.replace(base, **{field: size}) for size in sizes}


def child(point: Point, repeats: int) -> dict:
    """What a process with the devices of the point measures (`point.py: measure`).

    Raises:
      UserError: the process failed.
    """
    environment = os.environ | {
        "PYTHONPATH": str(ROOT),
        "JAX_PLATFORMS": "cpu",
        "JAX_NUM_CPU_DEVICES": str(point.devices),
    }
    described = json.dumps(dataclasses.asdict(point))
    command = [sys.executable, "-m", f"{__package__}.point", described, str(repeats)]
    ended = subprocess.run(command, env=environment, cwd=ROOT, capture_output=True, text=True, check=False)
    if ended.returncode:
        raise UserError(f"The process that measures {point} failed: {ended.stderr.strip()}")
    return json.loads(ended.stdout.splitlines()[-1])


if __name__ == "__main__":
    sys.exit(main())
