"""What is in a source: counts, classes, sizes, formats, and what cannot be read."""

from collections import Counter
from concurrent.futures import ThreadPoolExecutor

import numpy as np

from seed_jax.data import images
from seed_jax.data.sources import Source

SAMPLE = 2_000  # images whose headers are read
NAMED = 100  # unreadable images that are listed


def inspect(source: Source, *, everything: bool = False, workers: int = 1) -> str:
    """A report in text: of all ids and labels, and of the headers of 2,000 images spread over the source.

    With `everything` each image is decoded in full, which finds those that are broken past their header.
    """
    count = len(source)
    looked = range(count) if everything else np.unique(np.linspace(0, count - 1, SAMPLE).astype(int)).tolist()
    with ThreadPoolExecutor(workers) as pool:
        seen = list(pool.map(lambda i: _look(source, i, everything), looked))
    bad = [(i, s) for i, s in zip(looked, seen, strict=True) if isinstance(s, images.BadImage)]
    good = [s for s in seen if not isinstance(s, images.BadImage)]
    ids, times = np.unique(source.ids(), return_counts=True)
    lines = [f"{count:,} images", *_classes(source), f"fingerprint {source.fingerprint()}"]
    twice = ids[times > 1]
    if len(twice):
        lines.append(
            f"{len(twice):,} ids occur more than once, such as {twice[0]}: their views will be the same"
        )
    how = "decoded" if everything else "headers read"
    lines += ["", f"{len(looked):,} of {count:,} images {how}"]
    if good:
        width, height = np.array([s[:2] for s in good]).T
        for what, values in (("width", width), ("height", height), ("short side", np.minimum(width, height))):
            low, first, half, third, high = np.percentile(values, [0, 25, 50, 75, 100]).astype(int)
            lines.append(f"{what:<10} {low} to {high}, median {half}, half of them {first} to {third}")
        kinds = Counter(" ".join(s[2:]) for s in good).most_common()
        lines.append("formats    " + ", ".join(f"{kind}: {n:,}" for kind, n in kinds))
    lines.append(f"unreadable {len(bad):,}")
    lines += [f"  {source.name(i)}: {error}" for i, error in bad[:NAMED]]
    if len(bad) > NAMED:
        lines.append(f"  and {len(bad) - NAMED:,} more")
    return "\n".join(lines)


def _look(source, i, everything):
    """(width, height, format, mode), or the BadImage that it is."""
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
