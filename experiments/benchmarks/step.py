"""Where the time and the memory of a SEED step go.

    python -m experiments.benchmarks.step                          ResNet-50 to MobileNetV3-Large, 224 px
    python -m experiments.benchmarks.step --size 64 --batch 64
    python -m experiments.benchmarks.step --devices 8 --batch 256  8 fake devices on a CPU
    python -m experiments.benchmarks.step --profile                by kind of layer too

The parts are timed as programs of their own, so their sum may differ from the step, in which XLA fuses
across them. The FLOPs of the networks, which XLA counts, and of the loss are set against a matrix product
measured on the same device.
"""

import argparse
import sys
import time

import jax
from absl import logging

from experiments.benchmarks import parts, profile_layers, profile_trace
from experiments.benchmarks.quiet import Others, load
from experiments.benchmarks.timing import ceiling, device, median_ms, page_faults, peak_memory
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
        print(_measure(options, mesh, possible))
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
    parser.add_argument("--profile", action="store_true", help="the time by kind of layer too")
    return parser.parse_args(arguments)


def _measure(options, mesh, possible):
    raw = config.default("seed")
    raw.student.model = options.student
    raw.teacher.model, raw.teacher.weights = options.teacher, "random"
    raw.method.queue_size = options.queue
    raw.data.batch_size, raw.data.image_size = options.batch, options.size
    raw.train.steps, raw.train.precision, raw.train.bn_group = 1000, options.precision, 0
    run = parts.start(config.resolve(raw), mesh)
    made, times, others, before = parts.parts(run), {}, Others(), load()

    def measure(part):
        with others:
            times[part.name] = median_ms(part.call, options.repeats)

    whole = next(made)
    measure(whole)
    faults = page_faults()
    jax.block_until_ready(whole.call())
    faults = page_faults() - faults
    for part in (*made, parts.optimizer(run)):
        measure(part)
    began = time.perf_counter()
    for _ in range(options.repeats):
        next(run.host)
    times["input (host, overlapped)"] = (time.perf_counter() - began) / options.repeats * 1e3

    whole_ms = times["step"]
    rows = [[name, ms, 100 * ms / whole_ms, 1e3 * options.batch / ms] for name, ms in times.items()]
    temporaries = whole.program.memory_analysis().temp_size_in_bytes
    said = [
        Table(["part", "ms", "share %", "images/s"], rows).markdown(),
        f"{options.teacher} -> {options.student}, {options.size} px, batch {options.batch}, "
        f"K = {options.queue:,}, {options.precision}, {device(mesh)}. "
        f"{whole.flops / whole_ms / 1e9:.3f} of {possible:.3f} TFLOP/s (matrix product). "
        f"Temporaries {temporaries / 2**20:.0f} MiB a device, peak {peak_memory()}, "
        f"{faults:,} page faults in a step.",
    ]
    if options.profile:
        said.append(_profile(run, whole, times, options.repeats, others))
    said.append(f"Before: {before}; afterwards: {load()}; {others} during the timings.")
    return "\n\n".join(said)


def _profile(run, whole, times, repeats, others) -> str:
    run.host.close()  # its threads would prepare batches during the timings
    networks = parts.networks(run)
    if jax.default_backend() != "cpu":
        return profile_trace.table(whole, networks, repeats)
    timed, whole_ms = [], {}
    for name, network in networks.items():
        short = name.partition(" forward")[0]
        timed += profile_layers.time_calls(short, network, repeats, others)
        whole_ms[short] = times[name]
    return profile_layers.tables(timed, whole_ms, times["step"])


if __name__ == "__main__":
    sys.exit(main())
