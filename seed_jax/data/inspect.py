"""Describe a source: counts, classes, sizes, formats, and images that are unreadable, flat or repeated."""

from collections import Counter, defaultdict
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple

import numpy as np

from seed_jax.data import images
from seed_jax.data.sources import Source
from seed_jax.data.sources.base import digest

SAMPLE = 2_000  # number of images that are decoded
NAMED = 100  # at most this many unreadable images are named
EXAMPLES = 3  # flat and repeated images that are named


def inspect(source: Source, *, everything: bool = False, workers: int = 1) -> str:
    """A text report on a source.

    The report covers the ids and labels of all images, and the pixels of 2,000 images spread evenly over the
    source. Pixels are compared as a run with a white `data.background` sees them.

    Args:
      everything: decode every image.
      workers: number of threads.
    """
    count = len(source)
    indices = range(count) if everything else _sample(count)
    with ThreadPoolExecutor(workers) as pool:
        results = list(pool.map(lambda i: _look(source, i), indices))
    bad = [(i, r) for i, r in zip(indices, results, strict=True) if isinstance(r, images.BadImage)]
    good = {i: r for i, r in zip(indices, results, strict=True) if not isinstance(r, images.BadImage)}
    ids, occurrences = np.unique(source.ids(), return_counts=True)
    lines = [f"{count:,} images", *_classes(source), f"fingerprint {source.fingerprint()}"]
    if source.special:
        lines.append(f"{source.special:,} FIFOs, sockets and devices are left out")
    repeated = ids[occurrences > 1]
    if len(repeated):
        lines.append(
            f"{len(repeated):,} ids occur more than once, for example {repeated[0]}: images that share an id "
            "get the same random crops"
        )
    lines += ["", f"{len(indices):,} of {count:,} images decoded"]
    if good:
        width, height = np.array([look.size for look in good.values()]).T
        for name, values in (("width", width), ("height", height), ("short side", np.minimum(width, height))):
            low, first, half, third, high = np.percentile(values, [0, 25, 50, 75, 100]).astype(int)
            lines.append(f"{name:<10} {low} to {high}, median {half}, quartiles {first} and {third}")
        kinds = Counter(look.kind for look in good.values()).most_common()
        lines.append("formats    " + ", ".join(f"{kind}: {n:,}" for kind, n in kinds))
    lines += _warnings(source, good)
    too_many = images.too_many_bad(len(bad), len(indices))
    share = f"{100 * len(bad) / len(indices):.3g} % of these images, and a run skips at most "
    share = f" ({share}{100 * images.BAD_SHARE:g} %): repair or remove them" if too_many else ""
    lines.append(f"unreadable {len(bad):,}{share}")
    lines += [f"  {source.name(i)}: {error}" for i, error in bad[:NAMED]]
    if len(bad) > NAMED:
        lines.append(f"  and {len(bad) - NAMED:,} more")
    return "\n".join(lines)


def repeated(sources: Sequence[Source], *, workers: int = 1) -> list[list[str]]:
    """The names of images with the same pixels, a list for each group of them.

    Of each source, 2,000 evenly spaced images are compared. Unreadable images and images of one flat colour
    are left out.

    Args:
      sources: of different images.
      workers: number of threads.
    """
    looks, images_of = {}, [(source, i) for source in sources for i in _sample(len(source))]
    with ThreadPoolExecutor(workers) as pool:
        for n, look in enumerate(pool.map(lambda image: _look(*image), images_of)):
            if isinstance(look, _Look):
                looks[n] = look
    return [[source.name(i) for source, i in (images_of[n] for n in group)] for group in _groups(looks)]


def _sample(count: int) -> list[int]:
    return np.unique(np.linspace(0, count - 1, SAMPLE).astype(int)).tolist()


class _Look(NamedTuple):
    """What the report needs of an image: (width, height) in pixels, format and mode, digest, flatness."""

    size: tuple[int, int]
    kind: str
    digest: str
    flat: bool


def _look(source, i) -> _Look | images.BadImage:
    """A `_Look` at image `i`; a returned `BadImage` if it cannot be read."""
    try:
        picture = images.open_image(source[i].image)
        kind = f"{picture.format or 'array'} {picture.mode}"
        pixels = images.load_rgb(picture)
        size = pixels.shape[1::-1]
        flat = bool((pixels == pixels[0, 0]).all())
        return _Look(size, kind, digest(repr(size).encode(), np.ascontiguousarray(pixels)), flat)
    except images.BadImage as error:
        return error


def _warnings(source, looks: dict[int, _Look]) -> list[str]:
    """Lines about flat and repeated images; `looks` by index."""
    flat, repeats, lines = [i for i, look in looks.items() if look.flat], _groups(looks), []
    if flat:
        lines.append(
            f"warning: {len(flat):,} images have one flat colour, such as "
            f"{', '.join(source.name(i) for i in flat[:EXAMPLES])}: remove them, or set data.background if "
            "they have alpha"
        )
    if repeats:
        pairs = ", ".join(f"{source.name(b)} (as {source.name(a)})" for a, b, *_ in repeats[:EXAMPLES])
        lines.append(
            f"warning: {sum(len(group) - 1 for group in repeats):,} images have the same pixels as another "
            f"one, such as {pairs}: remove them, because a copy in another split makes scores too good"
        )
    return lines


def _groups(looks: dict[int, _Look]) -> list[list[int]]:
    """The keys of images with the same pixels that have no flat colour, a list for each group."""
    groups = defaultdict(list)
    for i, look in looks.items():
        if not look.flat:
            groups[look.digest].append(i)
    return [group for group in groups.values() if len(group) > 1]


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
