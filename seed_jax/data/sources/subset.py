"""A share of a source, for training on 1 % or 10 % of the labels or images."""

import re

import numpy as np
from etils import epath

from seed_jax.data.sources.base import Source, Subset, bucket_errors, scramble
from seed_jax.errors import UserError


def subset(source: Source, spec: str, seed: int = 0) -> Subset:
    """`spec` of a source: a percentage such as '1%' or '1%@3', or a file with one image file's name a line.

    A percentage is taken of each class (at least one image), or of all where there are no labels, by a hash
    of (seed, id): the same images whatever their order and form, and 1 % is part of 10 %. The seed is the one
    after the @, or else `seed`. A list names files with or without their folders, as SimCLR's 1percent.txt.
    Raises `UserError`.
    """
    if match := re.fullmatch(r"(\d+(?:\.\d+)?) ?%(?:@(\d{1,18}))?", spec):
        share = float(match[1]) / 100
        if not 0 < share <= 1:
            raise UserError(f"data.subset is {spec!r}; a percentage lies above 0 and is at most 100%.")
        return Subset(source, np.sort(_share(source.ids(), source.labels(), share, int(match[2] or seed))))
    try:
        wanted = {line.strip() for line in epath.Path(spec).read_text().splitlines() if line.strip()}
    except (*bucket_errors(), UnicodeDecodeError, ImportError) as error:
        raise UserError(
            f"data.subset: {spec} is no percentage such as '1%' or '1%@3', and cannot be read as a list of "
            f"files ({error})."
        ) from None
    depth = 1 + max((name.count("/") for name in wanted), default=0)
    source.labels()  # what must read its records for labels and names then reads each once, and keeps both
    found = [i for i in range(len(source)) if not wanted.isdisjoint(_endings(source.name(i), depth))]
    if not found:
        raise UserError(f"data.subset: none of the {len(wanted)} names in {spec} is in the data.")
    ours = {ending for i in found for ending in _endings(source.name(i), depth)}
    if lost := sorted(wanted - ours):
        raise UserError(
            f"data.subset: {len(lost)} of the {len(wanted)} names in {spec} are not in the data, such as "
            f"{lost[0]}; complete the data, or use the list of this split."
        )
    return Subset(source, np.array(found))


def _share(ids, labels, share, seed):
    rank = scramble(scramble(ids) ^ np.uint64(seed))
    order = np.lexsort((rank, labels))
    _, first, counts = np.unique(labels[order], return_index=True, return_counts=True)
    within = np.arange(len(order)) - np.repeat(first, counts)
    keep = np.maximum(1, np.floor(counts * share + 0.5)).astype(np.int64)
    return order[within < np.repeat(keep, counts)]


def _endings(name: str, depth: int) -> list[str]:
    """'c', 'b/c', 'a/b/c' of 'x/a/b/c' at depth 3."""
    levels = name.rsplit("/", depth)[-depth:]
    return ["/".join(levels[-n:]) for n in range(1, len(levels) + 1)]
