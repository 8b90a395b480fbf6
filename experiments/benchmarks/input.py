"""Images a second and core from JPEGs to MoCo-v2's two uint8 crops, beside the plain PIL pipeline.

python -m experiments.benchmarks.input
python -m experiments.benchmarks.input --images 1000 --index 1280000
"""

import argparse
import io
import os
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
from PIL import Image
from sklearn.datasets import load_sample_images

from seed_jax import rng
from seed_jax.data import images, pack, pipeline
from seed_jax.data.pipeline import ViewSpec
from seed_jax.data.sources import Record, cache, open_source, split_of
from seed_jax.data.sources import folder as folders
from seed_jax.report.tables import Table

MOCO = (ViewSpec(count=2),)
BATCH = 32


class Memory:
    """Encoded images in memory, so that no disk is measured."""

    num_classes, class_names = 0, ()

    def __init__(self, encoded):
        self.encoded = encoded
        self.part = split_of(self.ids())

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
    parser.add_argument("--images", type=int, default=128)
    parser.add_argument("--rounds", type=int, default=8, help="of which the best counts")
    parser.add_argument("--quality", type=int, default=90, help="of the JPEGs")
    parser.add_argument("--index", type=int, default=0, help="time the start with so many files")
    options = parser.parse_args(arguments)
    source = Memory(jpegs(options.images, options.quality))
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
    print(Table(["ours", "images/s of the clock"], rows).markdown())
    size = np.mean([len(image) for image in source.encoded]) / 1000
    print(f"\n{len(source)} JPEGs of 500 x 375, {size:.0f} kB on average.")
    if options.index:
        print(start(options.index))
    return 0


def jpegs(count: int, quality: int) -> list[bytes]:
    """500x375 cuts of scikit-learn's two photographs (640x427), enlarged by half."""
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
    """What torchvision's loader, RandomResizedCrop and RandomHorizontalFlip do with PIL."""
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
    bad = pipeline.BadImages(source)
    for start in range(0, len(source), BATCH):
        indices = range(start, min(start + BATCH, len(source)))
        pipeline._train_batch(source, indices, views, 0, 0, bad)


def cpu_rates(runs, count, repeats) -> dict[str, float]:
    """Images a second of this process's CPU time: the best of some rounds, in which the runs take turns."""
    best = dict.fromkeys(runs, float("inf"))
    for _ in range(repeats):
        for name, run in runs.items():
            began = time.process_time()
            run()
            best[name] = min(best[name], time.process_time() - began)
    return {name: count / seconds for name, seconds in best.items()}


def wall_rate(source, threads, workers=0, batches=24) -> float:
    """Images a second of the clock, by so many threads (of each reading process), once all are busy."""
    drawn = pipeline.train_batches(source, MOCO, BATCH, 0, threads=threads, workers=workers)
    for _ in range(threads + 2):
        next(drawn)
    began = time.perf_counter()
    for _ in range(batches):
        next(drawn)
    return batches * BATCH / (time.perf_counter() - began)


def start(count: int) -> str:
    """Time and memory until the first indices of a folder of `count` files in 1,000 classes.

    The files are only in the listing that is kept; the class folders are real.
    """
    with tempfile.TemporaryDirectory() as place:
        os.environ["XDG_CACHE_HOME"] = os.path.join(place, "cache")
        root = Path(place, "data")
        names = ["", *(f"n{n:08}" for n in range(1000))]
        mtimes = []
        for name in reversed(names):
            (root / name).mkdir(parents=True, exist_ok=True)
            os.utime(root / name, (1e9, 1e9))
            mtimes.append(int(1e18))
        found = [(f"n{n % 1000:08}/n{n % 1000:08}_{n}.JPEG", 110_000, 1 + n % 1000) for n in range(count)]
        began = time.perf_counter()
        index = folders._index(str(root), found, [], names)
        first = time.perf_counter() - began
        cache.save(cache.user_file("folder", str(root)), mtimes=np.array(mtimes), **index)
        del found, index
        began = time.perf_counter()
        source = open_source("imagefolder", "train", dir=str(root))
        source.fingerprint()
        rng.host_generator(0, 0, 0, -1).permutation(len(source))
        took = time.perf_counter() - began
        full = source.source
        held = full.paths.blob.nbytes + sum(
            x.nbytes for x in (full.paths.ends, full.ids(), full.labels(), full.part, source.indices)
        )
    return (
        f"Start with {count:,} files: {took:.1f} s and {held / 2**20:.0f} MiB; the first time {first:.1f} s "
        "more than listing the folders."
    )


if __name__ == "__main__":
    sys.exit(main())
