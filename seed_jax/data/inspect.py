"""Describe a source: counts, classes, sizes, formats, and unreadable images."""

from collections import Counter
from concurrent.futures import ThreadPoolExecutor

import numpy as np

from seed_jax.data import images
from seed_jax.data.sources import Source

SAMPLE = 2_000  # number of images whose headers are read
NAMED = 100  # at most this many unreadable images are named


def inspect(source: Source, *, everything: bool = False, workers: int = 1) -> str:
    """A text report on a source.

    The report covers the ids and labels of all images, and the headers of 2,000 images spread evenly over
    the source.

    Args:
      everything: decode every image in full, which also finds images damaged after their header.
      workers: number of threads.
    """
    count = len(source)
    indices = range(count)
    if not everything:
        indices = np.unique(np.linspace(0, count - 1, SAMPLE).astype(int)).tolist()
    with ThreadPoolExecutor(workers) as pool:
        results = list(pool.map(lambda i: _look(source, i, everything), indices))
    bad = [(i, r) for i, r in zip(indices, results, strict=True) if isinstance(r, images.BadImage)]
    good = [r for r in results if not isinstance(r, images.BadImage)]
    ids, occurrences = np.unique(source.ids(), return_counts=True)
    lines = [f"{count:,} images", *_classes(source), f"fingerprint {source.fingerprint()}"]
    repeated = ids[occurrences > 1]
    if len(repeated):
        lines.append(
            f"{len(repeated):,} ids occur more than once, for example {repeated[0]}: images that share an id "
            "get the same random crops"
        )
    how = "decoded" if everything else "headers read"
    lines += ["", f"{len(indices):,} of {count:,} images {how}"]
    if good:
        width, height = np.array([r[:2] for r in good]).T
        for name, values in (("width", width), ("height", height), ("short side", np.minimum(width, height))):
            low, first, half, third, high = np.percentile(values, [0, 25, 50, 75, 100]).astype(int)
            lines.append(f"{name:<10} {low} to {high}, median {half}, quartiles {first} and {third}")
        kinds = Counter(" ".join(r[2:]) for r in good).most_common()
        lines.append("formats    " + ", ".join(f"{kind}: {n:,}" for kind, n in kinds))
    lines.append(f"unreadable {len(bad):,}")
    lines += [f"  {source.name(i)}: {error}" for i, error in bad[:NAMED]]
    if len(bad) > NAMED:
        lines.append(f"  and {len(bad) - NAMED:,} more")
    return "\n".join(lines)


def _look(source, i, everything):
    """(width, height, format, mode) of image `i`; a returned `BadImage` if it cannot be read."""
    try:
        image = source[i].image
        picture = images.open_image(image)
        kind = (picture.format or "array", picture.mode)
        size = images.load_rgb(picture).shape[1::-1] if everything else picture.size
        return (*size, *kind)
    except images.BadImage as error:
        return error


def _classes(source):
    if not source.num_classes:
        return ["no labels"]
    labels = source.labels()
    counts = np.bincount(labels[labels >= 0], minlength=source.num_classes)
    lines = [f"{source.num_classes:,} classes of {counts.min():,} to {counts.max():,} images"]
    if (labels < 0).any():
        lines.append(f"{(labels < 0).sum():,} images have no label")
    names = source.class_names or [str(n) for n in range(source.num_classes)]
    shown = list(zip(names, counts, strict=True))
    lines += [f"  {name}: {n:,}" for name, n in (shown if len(shown) <= 20 else shown[:10])]
    return lines + ([f"  and {len(shown) - 10:,} more"] if len(shown) > 20 else [])
