"""Subsets: training on 1 % or 10 % of the labels or images."""

import re

import numpy as np
from etils import epath

from seed_jax.data.sources.base import Source, Subset, bucket_errors, scramble
from seed_jax.errors import UserError


def subset(source: Source, spec: str, seed: int = 0) -> Subset:
    """The images of a source that `spec` names.

    Args:
      spec: a percentage, such as '1%' or '1%@3', or the path of a text file with one image file name per
        line. A percentage is taken of each class (at least one image), or of all images where there are no
        labels, by a hash of (seed, id). The order and the storage of the images do not matter, and the 1 %
        are among the 10 %. A text file names images with or without their folders, as SimCLR's 1percent.txt.
      seed: draws the percentage, unless `spec` has its own seed after the @.

    Raises:
      UserError: the percentage is not above 0 and at most 100, the file cannot be read, or the source has no
        image of a name in it.
    """
    if match := re.fullmatch(r"(\d+(?:\.\d+)?) ?%(?:@(\d{1,18}))?", spec):
        share = float(match[1]) / 100
        if not 0 < share <= 1:
            raise UserError(f"data.subset is {spec!r}: use a percentage above 0% and at most 100%.")
        return Subset(source, np.sort(_share(source.ids(), source.labels(), share, int(match[2] or seed))))
    try:
        wanted = {line.strip() for line in epath.Path(spec).read_text().splitlines() if line.strip()}
    except (*bucket_errors(), UnicodeDecodeError, ImportError) as error:
        raise UserError(
            f"data.subset: {spec} cannot be read as a list of files ({error}): use a percentage such as '1%' "
            "(or '1%@3', drawn by seed 3), or a text file with one file name per line."
        ) from None
    depth = 1 + max((name.count("/") for name in wanted), default=0)
    source.labels()  # a tfds dataset then reads its records once, for labels and for all names
    indices = [i for i in range(len(source)) if not wanted.isdisjoint(_endings(source.name(i), depth))]
    if not indices:
        raise UserError(
            f"data.subset: none of the {len(wanted)} names in {spec} is the name of an image in this split: "
            "use the list that belongs to this split."
        )
    present = {ending for i in indices for ending in _endings(source.name(i), depth)}
    if missing := sorted(wanted - present):
        raise UserError(
            f"data.subset: {len(missing)} of the {len(wanted)} names in {spec} are not in the data, for "
            f"example {missing[0]}: complete the data, or use the list of this split."
        )
    return Subset(source, np.array(indices))


def _share(ids, labels, share, seed):
    rank = scramble(scramble(ids) ^ np.uint64(seed))
    order = np.lexsort((rank, labels))
    _, first, counts = np.unique(labels[order], return_index=True, return_counts=True)
    within = np.arange(len(order)) - np.repeat(first, counts)
    keep = np.maximum(1, np.floor(counts * share + 0.5)).astype(np.int64)
    return order[within < np.repeat(keep, counts)]


def _endings(name: str, depth: int) -> list[str]:
    """The last 1 to `depth` levels of a path: 'c', 'b/c' and 'a/b/c' for 'x/a/b/c' and 3."""
    levels = name.rsplit("/", depth)[-depth:]
    return ["/".join(levels[-n:]) for n in range(1, len(levels) + 1)]
