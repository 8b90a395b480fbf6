"""ArrayRecord shards as `python -m seed_jax.data pack` writes them."""

import dataclasses
import json
import os

from seed_jax.data.images import BadImage
from seed_jax.data.sources import cache
from seed_jax.data.sources.base import Record, Strings, check_local, digest, split_of
from seed_jax.errors import UserError

METADATA, INDEX = "metadata.json", "index.npz"


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
        except (OSError, ValueError) as error:
            raise UserError(
                f"data.dir: {root} is no finished pack ({error}); write it with `python -m seed_jax.data "
                f"pack SOURCE {root}`, which goes on where it stopped."
            ) from None
        index = cache.load(os.path.join(root, INDEX))
        paths = [os.path.join(root, name) for name, _ in self.metadata["shards"]]
        if index is None or (missing := [path for path in paths if not os.path.exists(path)]):
            lost = os.path.join(root, INDEX) if index is None else missing[0]
            raise UserError(
                f"data.dir: {lost} is missing or broken; pack {root} again, or copy the whole folder."
            )
        instructions = [
            _Instruction(path, 0, count, count)
            for path, (_, count) in zip(paths, self.metadata["shards"], strict=True)
        ]
        self.records = grain_sources.ArrayRecordDataSource(instructions)
        self._ids, self._labels = index["ids"], index["labels"]
        self.names = Strings(index["blob"], index["ends"])
        self.part = index["part"] if (index["part"] >= 0).any() else split_of(self._ids)
        self.num_classes = self.metadata["num_classes"]
        self.class_names = tuple(self.metadata["class_names"])

    def __len__(self):
        return len(self._ids)

    def __getitem__(self, i):
        number = int(self._ids[i])
        try:
            image = self.records[int(i)]
        except (ValueError, IndexError, RuntimeError) as error:
            raise BadImage(str(error)) from error
        return Record(image, number, int(self._labels[i]))

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


@dataclasses.dataclass(frozen=True)
class _Instruction:
    """Which records of a file to read, so that a thousand shards need not be opened to be counted."""

    filename: str
    skip: int
    take: int
    examples_in_shard: int
