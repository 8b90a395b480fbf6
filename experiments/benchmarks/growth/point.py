"""One point of the benchmark of growth: a SEED step and its loss, in a process of its own.

python -m experiments.benchmarks.growth.point '{"queue": 4096, "batch": 64, "devices": 1}' 5
"""

import dataclasses
import json
import resource
import sys

import jax
from absl import logging

from experiments.benchmarks import parts
from experiments.benchmarks.quiet import Others
from experiments.benchmarks.timing import median_ms
from seed_jax import config, parallel

NETWORK = "resnet18"  # of teacher and student; narrow, so that what does not grow is small
SIZE = 32  # side of a view, pixels
GROUP = 8  # images that share batch statistics, so that no device needs those of another


@dataclasses.dataclass(frozen=True)
class Point:
    """The sizes of a step: K, the images over all devices, the devices."""

    queue: int
    batch: int
    devices: int

    def __str__(self):
        return f"K = {self.queue:,}, batch {self.batch}, devices: {self.devices}"


def measure(point: Point, repeats: int) -> dict:
    """Milliseconds of the step and of the loss alone, and bytes.

    Returns:
      `step_ms` and `loss_ms`, medians; bytes of a device: `arguments` and `temporaries` of the step's
      program, `program`, their sum with the results that replace no argument; `peak`, bytes of the process
      up to the step; `others`, the share of the cores that other processes took meanwhile, None where
      unknown.
    """
    others, mesh = Others(), parallel.make_mesh(jax.devices()[: point.devices])
    with jax.set_mesh(mesh):
        run = parts.start(_config(point), mesh)
        run.host.close()  # its threads would prepare batches during the timings
        step = parts.step(run)
        with others:
            step_ms = median_ms(step.call, repeats)
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
        loss = parts.loss(run.config.method, mesh, point.batch, run.config.teacher.dim, point.queue)
        with others:
            loss_ms = median_ms(loss.call, repeats)
    memory = step.program.memory_analysis()
    return {
        "step_ms": step_ms,
        "loss_ms": loss_ms,
        "arguments": memory.argument_size_in_bytes,
        "temporaries": memory.temp_size_in_bytes,
        "program": parts.program_bytes(step.program),
        "peak": peak,
        "others": others.share,
    }


def _config(point: Point) -> config.Config:
    raw = config.default("seed")
    raw.student.model = raw.teacher.model = NETWORK
    raw.student.options = raw.teacher.options = {"width": 0.25}
    raw.teacher.weights = "random"
    raw.method.queue_size = point.queue
    raw.data.batch_size, raw.data.image_size = point.batch, SIZE
    raw.train.steps, raw.train.bn_group = 1000, GROUP
    return config.resolve(raw)


def main(arguments: list[str]) -> int:
    described, repeats = arguments
    logging.set_verbosity(logging.ERROR)
    parallel.start()
    print(json.dumps(measure(Point(**json.loads(described)), int(repeats))))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
