"""Packs: ArrayRecord shards written by `python -m seed_jax.data pack`."""

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
    """A pack: images in ArrayRecord shards, with the ids, labels, splits and names of the packed source.

    `root` is a folder with the shards (one encoded image per record), `index.npz` and `metadata.json`. Raises
    `UserError` when it is not a finished pack.
    """

    def __init__(self, root: str):
        from grain import sources as grain_sources

        check_local("data.dir", root)
        self.root = str(root)
        try:
            with open(os.path.join(root, METADATA), encoding="utf-8") as file:
                self.metadata = json.load(file)
            if not isinstance(self.metadata, dict) or not self.metadata.keys() >= _KEYS:
                raise ValueError(f"its {METADATA} was not written by a pack")
        except (OSError, ValueError) as error:
            command = f"`python -m seed_jax.data pack SOURCE {root}`"
            fix = f"run {command}, which also resumes a stopped pack"
            if not isinstance(error, OSError):
                fix = f"copy it again, or remove it and run {command}"
            raise UserError(f"data.dir: {root} is not a finished pack ({error}): {fix}.") from None
        index = cache.load(os.path.join(root, INDEX))
        listed = self.metadata["shards"]  # [name, records, bytes]; old packs have no bytes
        paths = [os.path.join(root, name) for name, *_ in listed]
        damaged = [os.path.join(root, INDEX)] if index is None else []
        damaged += [
            path for path, (_, _, *size) in zip(paths, listed, strict=True) if not is_whole(path, *size)
        ]
        if damaged:
            raise UserError(
                f"data.dir: {damaged[0]} is missing or incomplete: copy {root} again, or remove it and "
                "pack again."
            )
        shards = [_Shard(path, 0, count, count) for path, (_, count, *_) in zip(paths, listed, strict=True)]
        self.records, self.shards = grain_sources.ArrayRecordDataSource(shards), shards
        self._ids, self._labels = index["ids"], index["labels"]
        self.names = Strings(index["blob"], index["ends"])
        self.splits = index["part"] if (index["part"] >= 0).any() else split_of(self._ids)
        self.num_classes = self.metadata["num_classes"]
        self.class_names, self.special = tuple(self.metadata["class_names"]), 0

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
        """A hash of the packed source's fingerprint, the ids of the images and their `short_side`."""
        source, side = self.metadata["fingerprint"], self.metadata["short_side"]
        return digest(f"{source} {side} {self.metadata['images']}".encode(), self._ids)


def read(records, shards, i: int) -> bytes:
    """The bytes of record `i`.

    Args:
      records: a grain data source of the records of all shards.
      shards: objects with `filename`, `skip` and `take` (the records to read from the file).

    Raises:
      BadImage: the record is damaged, but its shard is complete.
      UserError: the shard is missing, cut short or cannot be read.
    """
    try:
        if record := records[i]:
            return record
        error = "an empty record"  # reading a file that was cut short after it was opened also ends here
    except (ValueError, IndexError, RuntimeError) as caught:
        error = str(caught)
    shard = shards[np.searchsorted(np.cumsum([s.take for s in shards]), i, side="right")]
    # The message of a failed system call: "pread() failed: Input/output error; reading ...".
    if "() failed: " in error or _count(shard.filename) < shard.skip + shard.take:
        raise UserError(
            f"data.dir: the shard {shard.filename} is missing, cut short or unreadable ({error}): copy it "
            "again or repair the disk, and start again."
        )
    raise BadImage(error)


def _count(path) -> int:
    """The number of records in a shard; 0 for a file that is not ArrayRecord."""
    from array_record.python.array_record_module import ArrayRecordReader

    try:
        return ArrayRecordReader(str(path)).num_records()
    except RuntimeError:
        return 0


def is_whole(path: str | os.PathLike, size: int | None = None) -> bool:
    """Whether the file exists and has `size` bytes (None: any size)."""
    try:
        return os.path.getsize(path) == size or size is None
    except OSError:
        return False


@dataclasses.dataclass(frozen=True)
class _Shard:
    """The records of one file, as grain takes them: it need not open a thousand shards to count records."""

    filename: str
    skip: int
    take: int
    examples_in_shard: int
