"""K-means and nearest neighbours of random embeddings, timed, and by arithmetic what they take for ImageNet.

    python -m experiments.benchmarks.offline
    python -m experiments.benchmarks.offline --images 20000 --clusters 100

The work of the seeds and of an iteration grows as images x clusters, that of neighbours as the square of the
images. Each is compiled before it is timed.
"""

import argparse
import sys
import time

import numpy as np
from absl import logging

from experiments.benchmarks import quiet
from experiments.benchmarks.timing import device, peak_memory
from seed_jax import parallel
from seed_jax.analysis.kmeans import kmeans
from seed_jax.analysis.nearest import nearest
from seed_jax.errors import UserError, command
from seed_jax.report.tables import Table

COMPILED_WITH = 20_000  # images: enough for the blocks in which neighbours are searched


@command
def main(arguments: list[str] | None = None) -> int:
    o = _parse(arguments)
    logging.set_verbosity(logging.ERROR)
    parallel.start()
    mesh, others = parallel.make_mesh(), quiet.Others()
    x = np.random.default_rng(0).standard_normal((o.images, o.dim), np.float32)
    x /= np.linalg.norm(x, axis=1, keepdims=True)

    def seconds(call):
        began = time.perf_counter()
        with others:
            call()
        return time.perf_counter() - began

    def cluster(iterations, centres=None):
        return kmeans(x, o.clusters, mesh=mesh, centres=centres, iterations=iterations)

    centres = cluster(0).centres
    nothing = seconds(lambda: cluster(0, centres))
    seeds = seconds(lambda: cluster(0)) - nothing
    if not cluster(o.iterations, centres).moved:
        raise UserError(f"k-means converges in less than {o.iterations} iterations: use fewer --iterations.")
    iteration = (seconds(lambda: cluster(o.iterations, centres)) - nothing) / o.iterations
    nearest(x[:COMPILED_WITH], x[:COMPILED_WITH], mesh=mesh, k=o.neighbours, others=True)
    search = seconds(lambda: nearest(x, x, mesh=mesh, k=o.neighbours, others=True))

    of_pairs = (o.planned / o.images) * (o.planned_clusters / o.clusters)
    header = ["", f"s, {o.images:,} images, measured", f"s, {o.planned:,} images, by arithmetic"]
    rows = [
        [f"seeds of {o.clusters:,} and {o.planned_clusters:,} clusters", seeds, seeds * of_pairs],
        ["one iteration", iteration, iteration * of_pairs],
        [f"{o.neighbours} neighbours of all", search, search * (o.planned / o.images) ** 2],
    ]
    print(Table(header, rows, digits=2).markdown())
    bytes_each = 4 * o.dim * o.planned / 2**30
    print(
        f"\n{device(mesh)}, {o.dim} numbers each; peak {peak_memory()}; {others}. The {o.planned:,} are "
        f"{bytes_each:.2f} GiB on the host and {bytes_each / mesh.size:.2f} GiB on each device."
    )
    return 0


def _parse(arguments):
    parser = argparse.ArgumentParser(
        prog="python -m experiments.benchmarks.offline",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--images", type=int, default=100_000, help="default: 100,000")
    parser.add_argument("--dim", type=int, default=128, help="width of the embeddings; default: 128")
    parser.add_argument("--clusters", type=int, default=1000, help="default: 1000")
    parser.add_argument("--iterations", type=int, default=5, help="of k-means; default: 5")
    parser.add_argument("--neighbours", type=int, default=5, help="default: 5")
    parser.add_argument("--planned", type=int, default=1_281_167, help="images to plan for: ImageNet's")
    parser.add_argument("--planned-clusters", type=int, default=3000, help="default: 3000")
    options = parser.parse_args(arguments)
    for name in ("images", "dim", "clusters", "iterations", "neighbours", "planned", "planned_clusters"):
        if (value := getattr(options, name)) < 1:
            raise UserError(f"--{name.replace('_', '-')} is {value}: use 1 or more.")
    return options


if __name__ == "__main__":
    sys.exit(main())
