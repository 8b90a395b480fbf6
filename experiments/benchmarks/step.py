"""Where the time and the memory of a SEED step go.

    python -m experiments.benchmarks.step                          ResNet-50 to MobileNetV3-Large, 224 px
    python -m experiments.benchmarks.step --size 64 --batch 64
    python -m experiments.benchmarks.step --devices 8 --batch 256  8 fake devices on a CPU

The parts are timed as programs of their own, so their sum may differ from the step, in which XLA fuses
across them. The FLOPs of the networks, which XLA counts, and of the loss are set against a matrix product
measured on the same device.
"""

import argparse
import sys
import time

import jax
from absl import logging

from experiments.benchmarks import parts
from experiments.benchmarks.timing import ceiling, device, median_ms, peak_memory
from seed_jax import config, parallel
from seed_jax.report.tables import Table


def main(arguments=None) -> int:
    options = _parse(arguments)
    logging.set_verbosity(logging.ERROR)
    if options.devices > 1 and jax.config.jax_platforms in (None, "", "cpu"):
        jax.config.update("jax_num_cpu_devices", options.devices)
    parallel.start()
    mesh = parallel.make_mesh(jax.devices()[: options.devices])
    possible = ceiling(options.precision, 2048 if jax.default_backend() == "cpu" else 8192) * mesh.size
    with jax.set_mesh(mesh):
        rows, note = _measure(options, mesh, possible)
    print(Table(["part", "ms", "share %", "images/s"], rows).markdown())
    print(f"\n{note}")
    return 0


def _parse(arguments):
    parser = argparse.ArgumentParser(
        prog="python -m experiments.benchmarks.step",
        description=__doc__.split("\n", 1)[0],
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    parser.add_argument("--teacher", default="resnet50")
    parser.add_argument("--student", default="mobilenetv3_large")
    parser.add_argument("--size", type=int, default=224, help="side of a view, pixels")
    parser.add_argument("--batch", type=int, default=16, help="over all devices")
    parser.add_argument("--queue", type=int, default=65_536)
    parser.add_argument("--devices", type=int, default=1)
    parser.add_argument("--precision", default="fp32", choices=["fp32", "bf16"])
    parser.add_argument("--repeats", type=int, default=5)
    return parser.parse_args(arguments)


def _measure(options, mesh, possible):
    raw = config.default("seed")
    raw.student.model = options.student
    raw.teacher.model, raw.teacher.weights = options.teacher, "random"
    raw.method.queue_size = options.queue
    raw.data.batch_size, raw.data.image_size = options.batch, options.size
    raw.train.steps, raw.train.precision, raw.train.bn_group = 1000, options.precision, 0
    run = parts.start(config.resolve(raw), mesh)
    made, times = parts.parts(run), {}
    whole = next(made)
    times[whole.name] = median_ms(whole.call, options.repeats)
    times |= {part.name: median_ms(part.call, options.repeats) for part in made}
    began = time.perf_counter()
    for _ in range(options.repeats):
        next(run.host)
    times["input (host, overlapped)"] = (time.perf_counter() - began) / options.repeats * 1e3

    whole_ms = times["step"]
    rows = [[name, ms, 100 * ms / whole_ms, 1e3 * options.batch / ms] for name, ms in times.items()]
    temporaries = whole.program.memory_analysis().temp_size_in_bytes
    note = (
        f"{options.teacher} -> {options.student}, {options.size} px, batch {options.batch}, "
        f"K = {options.queue:,}, {options.precision}, {device(mesh)}. "
        f"{whole.flops / whole_ms / 1e9:.3f} of {possible:.3f} TFLOP/s (matrix product). "
        f"Temporaries {temporaries / 2**20:.0f} MiB a device, peak {peak_memory()}."
    )
    return rows, note


if __name__ == "__main__":
    sys.exit(main())
