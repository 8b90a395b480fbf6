"""ArrayRecord shards as `python -m seed_jax.data pack` writes them."""

import dataclasses
import json
import os

import numpy as np

from seed_jax.data.images import BadImage
from seed_jax.data.sources import cache
from seed_jax.data.sources.base import Record, Strings, check_local, digest, split_of
from seed_jax.errors import UserError

METADATA, INDEX = "metadata.json", "index.npz"
_KEYS = {"shards", "images", "num_classes", "class_names", "fingerprint", "short_side"}


class ArrayRecord:
    """A packed source: its images in ArrayRecord shards, with the ids, labels, splits and names they had.

    `root` holds the shards (one encoded image a record), `index.npz` and `metadata.json`. Raises `UserError`
    when it is not a finished pack.
    """

    def __init__(self, root: str):
        from grain import sources as grain_sources

        check_local("data.dir", root)
        self.root = str(root)
        try:
            with open(os.path.join(root, METADATA), encoding="utf-8") as file:
                self.metadata = json.load(file)
            if not isinstance(self.metadata, dict) or not self.metadata.keys() >= _KEYS:
                raise ValueError(f"its {METADATA} is that of something else")
        except (OSError, ValueError) as error:
            way_out = "which goes on where it stopped"
            if not isinstance(error, OSError):
                way_out = "after removing what is there, or copy it again"
            raise UserError(
                f"data.dir: {root} is no finished pack ({error}); write it with `python -m seed_jax.data "
                f"pack SOURCE {root}`, {way_out}."
            ) from None
        index = cache.load(os.path.join(root, INDEX))
        listed = self.metadata["shards"]  # [name, records, bytes], the last since packs have it
        paths = [os.path.join(root, name) for name, *_ in listed]
        lost = [os.path.join(root, INDEX)] if index is None else []
        lost += [path for path, (_, _, *size) in zip(paths, listed, strict=True) if not is_whole(path, *size)]
        if lost:
            raise UserError(
                f"data.dir: {lost[0]} is missing or not whole; copy {root} again, or remove it and "
                "pack it again."
            )
        shards = [_Shard(path, 0, count, count) for path, (_, count, *_) in zip(paths, listed, strict=True)]
        self.records, self.shards = grain_sources.ArrayRecordDataSource(shards), shards
        self._ids, self._labels = index["ids"], index["labels"]
        self.names = Strings(index["blob"], index["ends"])
        self.part = index["part"] if (index["part"] >= 0).any() else split_of(self._ids)
        self.num_classes = self.metadata["num_classes"]
        self.class_names = tuple(self.metadata["class_names"])

    def __len__(self):
        return len(self._ids)

    def __getitem__(self, i):
        number = int(self._ids[i])
        return Record(read(self.records, self.shards, int(i)), number, int(self._labels[i]))

    def name(self, i):
        return f"{self.root}/{self.names[i]}"

    def ids(self):
        return self._ids

    def labels(self):
        return self._labels

    def fingerprint(self):
        """Of the source that was packed, its images' ids and the size they were given."""
        source, side = self.metadata["fingerprint"], self.metadata["short_side"]
        return digest(f"{source} {side} {self.metadata['images']}".encode(), self._ids)


def read(records, shards, i: int) -> bytes:
    """Record `i` of a data source of ArrayRecord `shards` (`filename`, `skip`, `take` of each).

    Raises:
      BadImage: the record is damaged, and its shard is whole.
      UserError: the shard is missing, cut short or cannot be read.
    """
    try:
        if record := records[i]:
            return record
        error = "an empty record"  # which is also what a file gives that was cut short after it was opened
    except (ValueError, IndexError, RuntimeError) as caught:
        error = str(caught)
    shard = shards[np.searchsorted(np.cumsum([s.take for s in shards]), i, side="right")]
    # A system call that fails reads as "pread() failed: Input/output error; reading ...".
    if "() failed: " in error or _count(shard.filename) < shard.skip + shard.take:
        raise UserError(
            f"data.dir: the shard {shard.filename} is missing, cut short or unreadable ({error}): copy it "
            "again or mend the disk, and start again."
        )
    raise BadImage(error)


def _count(path) -> int:
    """How many records a shard has; 0 for a file that is none."""
    from array_record.python.array_record_module import ArrayRecordReader

    try:
        return ArrayRecordReader(str(path)).num_records()
    except RuntimeError:
        return 0


def is_whole(path: str | os.PathLike, size: int | None = None) -> bool:
    """Whether there is a file of this size, or of any."""
    try:
        return os.path.getsize(path) == size or size is None
    except OSError:
        return False


@dataclasses.dataclass(frozen=True)
class _Shard:
    """Which records of a file to read, so that a thousand shards need not be opened to be counted."""

    filename: str
    skip: int
    take: int
    examples_in_shard: int
