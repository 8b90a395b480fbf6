"""Time and memory of loading a ResNet-50 `.pth`, compared with reading its bytes and transposing its filters.

python -m experiments.benchmarks.weights             writes the file first, which needs PyTorch
python -m experiments.benchmarks.weights FILE.pth
"""

import argparse
import sys
import tempfile
import tracemalloc
from pathlib import Path

import numpy as np

from experiments.benchmarks.timing import median_ms
from seed_jax import models, parallel, weights
from seed_jax.report.tables import Table
from seed_jax.weights import families, loading, naming, parity, recognition


def main(arguments=None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m experiments.benchmarks.weights", description=__doc__.split("\n", 1)[0]
    )
    parser.add_argument("file", nargs="?", type=Path)
    parser.add_argument("--repeats", type=int, default=5)
    options = parser.parse_args(arguments)
    parallel.start()
    with tempfile.TemporaryDirectory() as directory:
        _compare(options.file or _written(Path(directory, "resnet50.pth")), options.repeats)
    return 0


def _compare(path, repeats):
    network = weights.recognise(path).network()
    found = recognition.read(path, None)
    tensors = [np.array(tensor) for tensor in found.tensors.values()]

    def transpose():
        return [np.ascontiguousarray(tensor.T) for tensor in tensors if tensor.ndim > 1]

    bytes_ms, transpose_ms = (median_ms(call, repeats) for call in (path.read_bytes, transpose))
    floor = bytes_ms + transpose_ms
    load_ms = median_ms(lambda: weights.load(path, network), repeats)
    trace_ms = median_ms(lambda: loading.trace(network), repeats)
    tracemalloc.start()
    weights.load(path, network)
    peak, size = tracemalloc.get_traced_memory()[1], path.stat().st_size
    rows = [
        ["reading the bytes", bytes_ms, None],
        ["transposing", transpose_ms, None],
        ["load", load_ms, load_ms / floor],
        ["tracing the network, once a process", trace_ms, None],
    ]
    print(Table(["part", "ms", "times bytes and transposes"], rows, digits=2).markdown())
    print(
        f"\nfile {size / 2**20:.1f} MiB, mapped; allocated at most {peak / 2**20:.1f} MiB; together "
        f"{1 + peak / size:.2f} times the file."
    )


def _written(path) -> Path:
    import torch

    network = models.Joined(models.create("resnet50", num_classes=1000), {})
    leaves = naming.leaves(loading.shapes(network))
    table = families.NAMINGS[0]
    state = {}
    for leaf, shape in leaves.items():
        shape = naming.to_torch(table, leaf, np.broadcast_to(np.float32(0), shape)).shape
        name = table.to_torch(leaf, leaves)
        state[name] = torch.from_numpy(parity.draw(name, shape))
    torch.save(state, path)
    return path


if __name__ == "__main__":
    sys.exit(main())
