"""Where the time and the memory of a SEED step go.

    python -m experiments.benchmarks.step                          ResNet-50 to MobileNetV3-Large, 224 px
    python -m experiments.benchmarks.step --size 64 --batch 64
    python -m experiments.benchmarks.step --devices 8 --batch 256  8 fake devices on a CPU

The parts are timed as programs of their own, so their sum may differ from the step, in which XLA fuses
across them. TFLOP/s are counted by XLA's cost analysis and set against a matrix product measured on the
same device.
"""

import argparse
import sys
import time

import jax
import numpy as np
from absl import logging
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P

from experiments.benchmarks.timing import ceiling, device, median_ms, peak_memory
from seed_jax import config, parallel
from seed_jax.data import photometric
from seed_jax.data.pipeline import train_batches
from seed_jax.data.sources import Arrays
from seed_jax.losses import seed_loss
from seed_jax.methods import queue as queues
from seed_jax.report.tables import Table
from seed_jax.train import build
from seed_jax.train import teacher as teachers


def main(arguments=None) -> int:
    options = _parse(arguments)
    logging.set_verbosity(logging.ERROR)
    if options.devices > 1 and jax.config.jax_platforms in (None, "", "cpu"):
        jax.config.update("jax_num_cpu_devices", options.devices)
    parallel.start()
    mesh = parallel.make_mesh(jax.devices()[: options.devices])
    possible = ceiling(options.precision) * mesh.size
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
    c = config.resolve(raw)
    loaded = teachers.load(c.teacher, image_size=options.size, seed=1, precision=options.precision)
    given = build.make_given(c, build.Lengths(1000, 100, 100, 100), 0, loaded)
    training = build.assemble(c, mesh, given, loaded.network)
    current = parallel.jit_once(training.fresh, out_shardings=training.shardings)(None)
    teacher, student, views = loaded.network, training.student, training.views
    teacher_variables = jax.device_put(loaded.variables, parallel.replicated(mesh))

    pixels = np.random.default_rng(0).integers(0, 256, (512, 256, 256, 3), np.uint8)
    host = train_batches(Arrays("noise", pixels, None), views, options.batch, seed=0)
    batch = parallel.to_devices(mesh, next(host))
    program = training.step.lower(current, teacher_variables, batch).compile()
    flops = program.cost_analysis()["flops"]

    def whole():
        nonlocal current
        current, metrics = program(current, teacher_variables, batch)
        return metrics

    times = {"step": median_ms(whole, options.repeats)}
    x = parallel.to_devices(mesh, np.float32(pixels[: options.batch, : options.size, : options.size]) / 255)
    keys = jax.device_put(jax.random.split(jax.random.key(2), options.batch), parallel.batch_sharding(mesh))
    preset, images = views[0].photometric, batch["views"][0]
    colours = jax.jit(lambda images, keys: photometric.augment(preset, images, keys)[0])
    times[f"photometrics ({preset})"] = median_ms(lambda: colours(images, keys), options.repeats)
    times |= _parts(options, mesh, teacher, teacher_variables, student, current, x, keys)
    began = time.perf_counter()
    for _ in range(options.repeats):
        next(host)
    times["input (host, overlapped)"] = (time.perf_counter() - began) / options.repeats * 1e3

    whole_ms = times["step"]
    rows = [[name, ms, 100 * ms / whole_ms, 1e3 * options.batch / ms] for name, ms in times.items()]
    achieved = flops * mesh.size / whole_ms / 1e9
    memory = program.memory_analysis()
    note = (
        f"{options.teacher} -> {options.student}, {options.size} px, batch {options.batch}, "
        f"K = {options.queue:,}, {options.precision}, {device(mesh)}. "
        f"{achieved:.3f} of {possible:.3f} TFLOP/s (matrix product). "
        f"Temporaries {memory.temp_size_in_bytes / 2**20:.0f} MiB a device, peak {peak_memory()}."
    )
    return rows, note


def _parts(options, mesh, teacher, teacher_variables, student, current, x, keys):
    forward = jax.jit(lambda v, x: teacher.apply(v, x, False)[0]["embedding"])

    def student_loss(params, x, keys):
        variables = {"params": params, **current.model_state}
        return student.apply(variables, x, True, keys)[0]["embedding"].sum()

    backward = jax.jit(jax.grad(student_loss))
    columns = NamedSharding(mesh, P(None, parallel.DATA_AXIS))
    noise = queues.init(options.queue, options.batch, 128, start="noise", rng=jax.random.key(3))
    slots = jax.device_put(noise.slots, columns)
    embeddings = parallel.to_devices(mesh, np.asarray(noise.slots[0]))
    loss = jax.jit(jax.value_and_grad(lambda s, t, q: seed_loss(s, t, q).mean()))
    return {
        "teacher forward": median_ms(lambda: forward(teacher_variables, x), options.repeats),
        "student forward + backward": median_ms(lambda: backward(current.params, x, keys), options.repeats),
        "loss and its gradient": median_ms(lambda: loss(embeddings, embeddings, slots), options.repeats),
    }


if __name__ == "__main__":
    sys.exit(main())
