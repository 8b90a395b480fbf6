"""Where images come from: random-access sources, one small class each.

Every source has `len(s)`, `s[i] -> Record`, `s.name(i) -> str` for messages, `s.labels() -> int array [N]`
(-1: none), `s.num_classes` (0 when unlabelled) and `s.fingerprint() -> str`, a short hash of what the data is.
"""

import difflib
import hashlib
from typing import NamedTuple, Protocol

import numpy as np
from PIL import Image

from seed_jax.errors import UserError

SPLITS = ("train", "val", "test", "all")


class Record(NamedTuple):
    """One image: encoded bytes or uint8 `[H, W, 3]`, a stable non-negative int64 id, a label (-1: none)."""

    image: bytes | np.ndarray
    id: int
    label: int


class Source(Protocol):
    num_classes: int

    def __len__(self) -> int: ...
    def __getitem__(self, i: int) -> Record: ...
    def name(self, i: int) -> str: ...
    def labels(self) -> np.ndarray: ...
    def fingerprint(self) -> str: ...


def _hash(*parts: bytes) -> str:
    digest = hashlib.blake2b(digest_size=8)
    for part in parts:
        digest.update(part)
    return digest.hexdigest()


def split_of(ids: np.ndarray) -> np.ndarray:
    """The split of each id: 0 train (70 %), 1 val (10 %), 2 test (20 %), by a hash of the id (splitmix64)."""
    z = np.asarray(ids).astype(np.uint64) + np.uint64(0x9E3779B97F4A7C15)
    z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    part = (z ^ (z >> np.uint64(31))) % np.uint64(10)
    return np.searchsorted([7, 8], part.astype(np.int64), side="right")


class Arrays:
    """Images in memory: uint8 `[N, H, W, 3]`; the id is the index."""

    def __init__(self, what: str, images: np.ndarray, labels: np.ndarray | None):
        self.what = what
        self.images = images
        self._labels = np.full(len(images), -1, np.int64) if labels is None else labels.astype(np.int64)
        self.ids = np.arange(len(images), dtype=np.int64)
        self.num_classes = int(self._labels.max(initial=-1)) + 1

    def __len__(self):
        return len(self.images)

    def __getitem__(self, i):
        return Record(self.images[i], int(i), int(self._labels[i]))

    def name(self, i):
        return f"{self.what}[{i}]"

    def labels(self):
        return self._labels

    def fingerprint(self):
        return _hash(repr(self.images.shape).encode(), np.ascontiguousarray(self.images), self._labels)


class Subset:
    """The samples `indices` of another source, with their ids."""

    def __init__(self, source: Source, indices: np.ndarray):
        self.source = source
        self.indices = np.asarray(indices)
        self.num_classes = source.num_classes

    def __len__(self):
        return len(self.indices)

    def __getitem__(self, i):
        return self.source[self.indices[i]]

    def name(self, i):
        return self.source.name(self.indices[i])

    def labels(self):
        return self.source.labels()[self.indices]

    def fingerprint(self):
        return _hash(self.source.fingerprint().encode(), self.indices.astype(np.int64))


def digits() -> Arrays:
    """scikit-learn's 1,797 handwritten digits, 8x8 of 17 grey levels, as 32x32 RGB."""
    from sklearn.datasets import load_digits

    small, labels = load_digits(return_X_y=True)
    small = np.round(small.reshape(-1, 8, 8) * (255 / 16)).astype(np.uint8)
    large = [np.asarray(Image.fromarray(x).resize((32, 32), Image.Resampling.BILINEAR)) for x in small]
    return Arrays("digits", np.repeat(np.stack(large)[..., None], 3, axis=-1), labels)


SOURCES = {"digits": digits}


def open_source(name: str, split: str, *, dir: str | None = None) -> Source:
    """The source called `name`; `split` is train (70 %), val (10 %), test (20 %), by a hash of the id, or all."""
    if name not in SOURCES:
        near = difflib.get_close_matches(name, SOURCES, 1)
        hint = f"did you mean {near[0]!r}?" if near else f"known are {', '.join(SOURCES)}."
        raise UserError(f"data.source: there is no source {name!r}; {hint}")
    if split not in SPLITS:
        raise UserError(
            f"data split {split!r} of source {name!r} is unknown; choose one of {', '.join(SPLITS)}."
        )
    source = SOURCES[name]()
    if split == "all":
        return source
    return Subset(source, np.flatnonzero(split_of(source.ids) == SPLITS.index(split)))
