"""Input speed: from JPEGs in memory to MoCo-v2's two uint8 crops, compared with plain PIL.

python -m experiments.benchmarks.input
python -m experiments.benchmarks.input --images 1000 --index 1280000
python -m experiments.benchmarks.input --grain
"""

import argparse
import contextlib
import dataclasses
import io
import os
import sys
import tempfile
import time
from pathlib import Path

import grain
import numpy as np
from absl import flags
from PIL import Image
from sklearn.datasets import load_sample_images

from seed_jax.data import images, pack, pipeline, rng
from seed_jax.data.pipeline import ViewSpec
from seed_jax.data.sources import Record, cache, open_source, split_of
from seed_jax.data.sources import folder as folders
from seed_jax.report.tables import Table

MOCO = (ViewSpec(count=2),)
BATCH = 32


class Memory:
    """A source of encoded images in memory, which keeps the disk out of the measurement."""

    num_classes, class_names = 0, ()

    def __init__(self, encoded):
        self.encoded = encoded
        self.splits = split_of(self.ids())

    def __len__(self):
        return len(self.encoded)

    def __getitem__(self, i):
        return Record(self.encoded[i], i, -1)

    def name(self, i):
        return str(i)

    def ids(self):
        return np.arange(len(self.encoded))


def main(arguments=None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m experiments.benchmarks.input", description=__doc__.split("\n", 1)[0]
    )
    parser.add_argument("--images", type=int, default=128, help="number of JPEGs; default: 128")
    parser.add_argument("--rounds", type=int, default=8, help="rounds of measurement; default: 8")
    parser.add_argument("--quality", type=int, default=90, help="quality of the JPEGs; default: 90")
    parser.add_argument(
        "--index", type=int, default=0, help="also time the start with a folder of this many files"
    )
    parser.add_argument(
        "--grain", action="store_true", help="compare our reading processes with grain's, and nothing else"
    )
    options = parser.parse_args(arguments)
    source = Memory(jpegs(options.images, options.quality))
    if options.grain:
        print(compare_processes(source, options.rounds).markdown())
        return 0
    small = Memory([pack.encode(image, 256) for image in source.encoded])
    runs = {
        "plain PIL": lambda: plain(source),
        "ours": lambda: ours(source),
        "plain PIL, one view": lambda: plain(source, views=1),
        "ours, one view": lambda: ours(source, views=(ViewSpec(),)),
        "ours, packed at short side 256": lambda: ours(small),
    }
    rates = cpu_rates(runs, len(source), options.rounds)
    base = [rates["plain PIL, one view" if "one view" in name else "plain PIL"] for name in rates]
    rows = [[name, f"{r:.0f}", r / b] for (name, r), b in zip(rates.items(), base, strict=True)]
    print(Table(["pipeline", "images/s of CPU time", "ratio"], rows).markdown())
    print()
    rows = [[f"{n} threads", f"{wall_rate(source, n):.0f}"] for n in (1, 2)]
    rows += [[f"{n} processes of one thread", f"{wall_rate(source, 1, n):.0f}"] for n in (1, 2)]
    print(Table(["ours", "images/s of wall time"], rows).markdown())
    size = np.mean([len(image) for image in source.encoded]) / 1000
    print(f"\n{len(source)} JPEGs of 500 x 375, {size:.0f} kB on average.")
    if options.index:
        found = start(options.index)
        print(
            f"Start with {options.index:,} files: {found.start_ms / 1e3:.1f} s and "
            f"{found.index / 2**20:.0f} MiB; the first time {found.first_ms / 1e3:.1f} s more, plus the time "
            "to list the folders."
        )
    return 0


def jpegs(count: int, quality: int) -> list[bytes]:
    """`count` JPEGs of 500x375, cut from scikit-learn's two photographs (640x427) enlarged to 960x640."""
    photographs = [Image.fromarray(x).resize((960, 640)) for x in load_sample_images().images]
    encoded = []
    for n in range(count):
        left, top = rng.host_generator(0, n, 0, 0).integers(0, (461, 266))
        out = io.BytesIO()
        cut = photographs[n % 2].crop((left, top, left + 500, top + 375))
        cut.save(out, "JPEG", quality=quality)
        encoded.append(out.getvalue())
    return encoded


def plain(source, views=2):
    """The work of torchvision's loader, RandomResizedCrop and RandomHorizontalFlip, in PIL."""
    random = np.random.default_rng(0)
    for start in range(0, len(source), BATCH):
        batch = np.empty((min(BATCH, len(source) - start), views, 224, 224, 3), np.uint8)
        for row in range(len(batch)):
            picture = Image.open(io.BytesIO(source[start + row].image)).convert("RGB")
            for view in range(views):
                u, flip = random.random(images.NUMBERS), random.random() < 0.5
                left, top, w, h = images.crop_box(*picture.size, u, (0.2, 1.0), (3 / 4, 4 / 3))
                crop = picture.crop((left, top, left + w, top + h))
                crop = crop.resize((224, 224), Image.Resampling.BILINEAR)
                crop = crop.transpose(Image.Transpose.FLIP_LEFT_RIGHT) if flip else crop
                batch[row, view] = np.asarray(crop)


def ours(source, views=MOCO):
    """The work of our pipeline on the host: decode, crop and resize."""
    bad = pipeline.BadImages(source)
    for start in range(0, len(source), BATCH):
        indices = range(start, min(start + BATCH, len(source)))
        pipeline._train_batch(source, indices, views, 0, 0, bad)


def cpu_rates(runs, count, repeats) -> dict[str, float]:
    """Images per second of this process's CPU time, the best of `repeats` rounds; the runs alternate."""
    best = dict.fromkeys(runs, float("inf"))
    for _ in range(repeats):
        for name, run in runs.items():
            began = time.process_time()
            run()
            best[name] = min(best[name], time.process_time() - began)
    return {name: count / seconds for name, seconds in best.items()}


def wall_rate(source, threads, workers=0, batches=24) -> float:
    """Images per second of wall time with `threads` threads (per worker), after the first batches."""
    iterator = pipeline.train_batches(source, MOCO, BATCH, 0, threads=threads, workers=workers)
    for _ in range(threads + 2):
        next(iterator)
    began = time.perf_counter()
    for _ in range(batches):
        next(iterator)
    return batches * BATCH / (time.perf_counter() - began)


def compare_processes(source, rounds, batches=16) -> Table:
    """Our reading processes and grain's, one thread each, in alternating turns of `batches` batches.

    All are open at once; while one is measured the others wait with full buffers. Raises AssertionError when
    their first batches are not the same to the bit.
    """
    flags.FLAGS.mark_as_parsed()  # grain's workers read an absl flag
    expected = [Batches(source)(n)["views"][0] for n in range(4)]
    names, iterators, starts, rates = [], [], [], []
    for workers in (1, 2):
        for name, begin in (("ours", by_ours), ("grain's", by_grain)):
            began = time.perf_counter()
            iterator = begin(source, workers)
            views = [next(iterator)["views"][0]]
            starts.append(time.perf_counter() - began)
            views += [next(iterator)["views"][0] for _ in range(3)]
            np.testing.assert_array_equal(views, expected)
            names.append(f"{name}, {workers}")
            iterators.append(iterator)
            rates.append([])
    for _ in range(rounds):
        for iterator, measured in zip(iterators, rates, strict=True):
            for _ in range(8):
                next(iterator)  # empties the buffers
            began = time.perf_counter()
            for _ in range(batches):
                next(iterator)
            measured.append(batches * BATCH / (time.perf_counter() - began))
    for iterator in iterators:
        iterator.close()
    rows = [
        [name, *(f"{f(measured):.0f}" for f in (np.median, min, max)), f"{start:.1f}"]
        for name, measured, start in zip(names, rates, starts, strict=True)
    ]
    return Table(["processes", "images/s, median", "min", "max", "s to the first batch"], rows)


def by_ours(source, workers):
    return pipeline.train_batches(source, MOCO, BATCH, 0, threads=1, workers=workers)


def by_grain(source, workers):
    """One element per batch: worker `w` computes the batches `w`, `w + workers`, ..."""
    read = grain.ReadOptions(num_threads=1, prefetch_buffer_size=2)  # as our pipeline with one thread
    batches = grain.MapDataset.range(sys.maxsize).map(Batches(source)).to_iter_dataset(read)
    return iter(batches.mp_prefetch(grain.MultiprocessingOptions(num_workers=workers)))


class Batches:
    """Batch `n` as our pipeline computes it; can be pickled before its first call."""

    def __init__(self, source):
        self.source, self.batch = source, None

    def __call__(self, n):
        if self.batch is None:
            bad = pipeline.BadImages(self.source)
            self.batch = pipeline._train_rows(self.source, MOCO, BATCH, 0, "drop", images.WHITE, {}, (), bad)
        return self.batch(n)


@dataclasses.dataclass(frozen=True)
class Start:
    """Milliseconds to open a folder whose listing is cached and to draw the first epoch's order, the fastest
    of three; milliseconds to index the listing, once; bytes of the index.
    """

    start_ms: float
    first_ms: float
    index: int


def start(count: int) -> Start:
    """The start with a folder of `count` files in 1,000 classes.

    The class folders exist; the files exist only in the cached listing.
    """
    with tempfile.TemporaryDirectory() as place, _cache_home(Path(place, "cache")):
        root = Path(place, "data")
        names = ["", *(f"n{n:08}" for n in range(1000))]
        mtimes = []
        for name in reversed(names):
            (root / name).mkdir(parents=True, exist_ok=True)
            os.utime(root / name, (1e9, 1e9))
            mtimes.append(int(1e18))
        files = [(f"n{n % 1000:08}/n{n % 1000:08}_{n}.JPEG", 110_000, 1 + n % 1000) for n in range(count)]
        began = time.perf_counter()
        index = folders._index(str(root), files, [], names, [])
        first_s = time.perf_counter() - began
        cache.save(cache.user_file("folder", str(root)), mtimes=np.array(mtimes), **index)
        del files, index
        times = []
        for _ in range(3):
            began = time.perf_counter()
            source = open_source("imagefolder", "train", dir=str(root))
            source.fingerprint()
            rng.host_generator(0, 0, 0, -1).permutation(len(source))
            times.append(time.perf_counter() - began)
        full = source.source
        memory = full.paths.blob.nbytes + sum(
            x.nbytes for x in (full.paths.ends, full.ids(), full.labels(), full.splits, source.indices)
        )
    return Start(1e3 * min(times), 1e3 * first_s, memory)


@contextlib.contextmanager
def _cache_home(folder: Path):
    """A context in which the user's cache folder is this one."""
    before = os.environ.get("XDG_CACHE_HOME")
    os.environ["XDG_CACHE_HOME"] = str(folder)
    try:
        yield
    finally:
        del os.environ["XDG_CACHE_HOME"]
        if before is not None:
            os.environ["XDG_CACHE_HOME"] = before


if __name__ == "__main__":
    sys.exit(main())
