"""Time and memory of the SEED loss and its gradient, queues from 4,096 to 1,048,576.

python -m experiments.benchmarks.loss
python -m experiments.benchmarks.loss --devices 8   8 fake devices on a CPU
"""

import argparse
import re
import sys

import jax

from experiments.benchmarks import parts
from experiments.benchmarks.timing import device, median_ms
from seed_jax import parallel
from seed_jax.methods.seed import Seed
from seed_jax.report.tables import Table

SIZES = [4_096, 16_384, 65_536, 262_144, 1_048_576]
COLLECTIVE = re.compile(
    r"= .*\b(all-gather|all-reduce|all-to-all|collective-permute|reduce-scatter)(-start)?\("
)


def main(arguments=None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m experiments.benchmarks.loss", description=__doc__.split("\n", 1)[0]
    )
    parser.add_argument("--batch", type=int, default=256)
    parser.add_argument("--dim", type=int, default=128)
    parser.add_argument("--devices", type=int, default=1)
    options = parser.parse_args(arguments)
    if options.devices > 1 and jax.config.jax_platforms in (None, "", "cpu"):
        jax.config.update("jax_num_cpu_devices", options.devices)
    parallel.start()
    mesh = parallel.make_mesh(jax.devices()[: options.devices])
    with jax.set_mesh(mesh):
        rows = [_row(options, mesh, size) for size in SIZES]
    print(
        Table(["K", "ms", "queue MiB a device", "temporaries MiB a device", "collectives"], rows).markdown()
    )
    print(f"\nB = {options.batch}, D = {options.dim}, fp32, {device(mesh)}.")
    return 0


def _row(options, mesh, size):
    part = parts.loss(Seed(), mesh, options.batch, options.dim, size)
    lines = part.program.as_text().splitlines()
    found = sorted(m.group(1) for m in map(COLLECTIVE.search, lines) if m)
    return [
        f"{size:,}",
        median_ms(part.call, 5),
        size * options.dim * 4 / mesh.size / 2**20,
        part.program.memory_analysis().temp_size_in_bytes / 2**20,
        ", ".join(f"{found.count(kind)} {kind}" for kind in dict.fromkeys(found)) or "none",
    ]


if __name__ == "__main__":
    sys.exit(main())
