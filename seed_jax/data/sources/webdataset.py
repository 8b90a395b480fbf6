"""Tar shards in WebDataset's format: files with the same name up to the first dot are one sample."""

import json
import os
import re
import tarfile
import time
from pathlib import Path

import numpy as np
from etils import epath

from seed_jax.data.sources import cache
from seed_jax.data.sources.base import (
    EXTENSIONS,
    SPLITS,
    Record,
    Strings,
    as_label,
    bucket_errors,
    digest,
    open_file,
    own_splits,
    path_id,
    split_of,
)
from seed_jax.errors import UserError


class WebDataset:
    """Images in tar shards, read at random with an index of (shard, offset, size).

    The index is built once and cached. The id of an image is a hash of its name in the shard, or of shard and
    name if several shards have the same name. The label is the number in NAME.cls, or `label` in NAME.json.
    If the words train and val or test occur in names of shards, each shard belongs to the split in its name.

    Args:
      pattern: a folder of .tar files, one .tar file, or a pattern with `*`, `?`, `{a,b}` or `{000..146}`.

    Raises:
      UserError: a shard is missing or is not an uncompressed .tar file, there is no image, or a label is not
        a whole number.
    """

    def __init__(self, pattern: str):
        self.shards = _shards(str(pattern))
        index = _cached_index(self.shards)
        self.shard, self.offset, self.size = index["shard"], index["offset"], index["size"]
        self.names, self._labels = Strings(index["blob"], index["ends"]), index["labels"]
        if not len(self.names):
            raise UserError(
                f"data.dir: none of the {len(self.shards)} shards in {pattern} contains an image: use shards "
                f"whose image files end in {' '.join(EXTENSIONS)}."
            )
        self._ids, self._fingerprint = index["ids"], str(index["fingerprint"])
        self.num_classes, self.class_names = int(self._labels.max(initial=-1)) + 1, ()
        self.special = 0
        splits = [
            set(re.split(r"[^a-z]+", os.path.basename(shard))) & set(SPLITS[:3]) for shard in self.shards
        ]
        if own_splits([split for named in splits for split in named]):
            of_shard = [SPLITS.index(min(named)) if named else -1 for named in splits]
            self.splits = np.array(of_shard, np.int8)[self.shard]
        else:
            self.splits = split_of(self._ids)

    def __len__(self):
        return len(self.names)

    def __getitem__(self, i):
        shard, size = self.shards[self.shard[i]], int(self.size[i])
        try:
            with open_file(shard) as file:
                file.seek(int(self.offset[i]))
                image = file.read(size)
        except bucket_errors() as error:
            raise _damaged(shard, error) from error
        if len(image) < size:
            raise _damaged(shard, "it is shorter than when it was indexed")
        return Record(image, int(self._ids[i]), int(self._labels[i]))

    def name(self, i):
        return f"{self.shards[self.shard[i]]}/{self.names[i]}"

    def ids(self):
        return self._ids

    def labels(self):
        return self._labels

    def fingerprint(self):
        """A hash of the names, sizes and labels of the images."""
        return self._fingerprint


def _damaged(shard: str, error) -> UserError:
    reason = " ".join(str(error).split())  # gcsfs writes several lines
    return UserError(
        f"data.dir: the shard {shard} is missing, cut short or unreadable ({reason}): copy it again, or "
        "repair the disk or the network, and start again."
    )


def _shards(pattern: str) -> list[str]:
    if epath.Path(pattern).is_dir():
        shards = [str(path) for path in epath.Path(pattern).iterdir() if path.name.endswith(".tar")]
    else:
        shards = []
        for path in expand_braces(pattern):
            folder, name = os.path.split(path)
            matches = epath.Path(folder or ".").glob(name) if re.search(r"[*?]", name) else [path]
            shards += map(str, matches)
    if not shards:
        raise UserError(f"data.dir: no .tar file matches {pattern}: use a folder of .tar files or a pattern.")
    for shard in shards:
        if not epath.Path(shard).exists():
            raise UserError(
                f"data.dir: there is no shard {shard}: complete the dataset or change the pattern."
            )
    return sorted(shards)


def expand_braces(pattern: str) -> list[str]:
    """All names that a pattern such as `x-{08..11}.tar` or `x-{a,b}.tar` stands for, as in a shell."""
    match = re.search(r"\{(\d+)\.\.(\d+)\}|\{([^{}]+)\}", pattern)
    if not match:
        return [pattern]
    first, last, words = match.groups()
    if words is not None:
        inner = words.split(",")
    else:
        inner = [str(n).zfill(len(first)) for n in range(int(first), int(last) + 1)]
    return [
        rest
        for word in inner
        for rest in expand_braces(pattern[: match.start()] + word + pattern[match.end() :])
    ]


def _cached_index(shards) -> dict[str, np.ndarray]:
    """The index, cached next to the shards, or in the user's cache if their folder is not writable."""
    began = time.time()
    sizes, times = zip(*map(_size_and_time, shards), strict=True)
    lines = zip(map(os.path.basename, shards), sizes, times, strict=True)
    state = digest(repr([cache.FORMAT, *lines]).encode())
    folder = os.path.dirname(shards[0] if "://" in shards[0] else os.path.abspath(shards[0]))
    places = [cache.user_file("webdataset", folder, *map(os.path.basename, shards))]
    if "://" not in folder:
        name = ".seed_jax_index_" + digest(*(os.path.basename(s).encode() for s in shards)) + ".npz"
        places.insert(0, Path(folder) / name)
    for place in places:
        kept = cache.load(place)
        if kept is not None and kept.get("state") == state:
            return kept
    index = _index(shards)
    index["state"] = np.array(state)
    if max(times) < began - cache.SETTLED:
        any(cache.save(place, **index) for place in places)  # stops at the first writable place
    return index


def _size_and_time(path: str) -> tuple[int, float]:
    if "://" in path:
        stat = epath.Path(path).stat()
        return stat.length, stat.mtime
    stat = os.stat(path)
    return stat.st_size, stat.st_mtime_ns / 1e9


def _index(shards) -> dict[str, np.ndarray]:
    rows, names, labels = [], [], []
    for n, shard in enumerate(shards):
        pending, label_of = [], {}
        try:
            with open_file(shard) as file, tarfile.open(fileobj=file, mode="r:") as tar:
                for member in tar:
                    if not member.isfile() or os.path.basename(member.name).startswith("."):
                        continue
                    folder, base = os.path.split(member.name)
                    key, _, extension = base.partition(".")
                    key = os.path.join(folder, key)
                    if f".{extension.lower()}" in EXTENSIONS:
                        pending.append((key, member.name, member.offset_data, member.size))
                    elif extension in ("cls", "json"):
                        label = _label(shard, member.name, tar.extractfile(member).read())
                        if label is not None:
                            label_of.setdefault(key, label)
                    tar.members.clear()  # else tarfile keeps the headers of a million members
        except (tarfile.TarError, OSError, EOFError) as error:
            raise UserError(
                f"data.dir: {shard} cannot be read as an uncompressed .tar file ({error}): "
                "download or write it again."
            ) from None
        rows += [(n, offset, size) for _, _, offset, size in pending]
        names += [name for _, name, _, _ in pending]
        labels += [label_of.get(key, -1) for key, _, _, _ in pending]
    unique = len(set(names)) == len(names)
    keys = (
        names
        if unique
        else [f"{os.path.basename(shards[r[0]])}/{x}" for r, x in zip(rows, names, strict=True)]
    )
    shard, offset, size = np.array(rows, np.int64).reshape(-1, 3).T
    strings = Strings.of(names)
    return {
        "shard": shard.astype(np.int32),
        "offset": offset,
        "size": size,
        "labels": np.array(labels, np.int64),
        "ids": np.array([path_id(key) for key in keys], np.int64),
        "blob": strings.blob,
        "ends": strings.ends,
        "fingerprint": np.array(
            digest(*(os.fsencode(f"{k}\0{s}\0{x}\0") for k, s, x in zip(keys, size, labels, strict=True)))
        ),
    }


def _label(shard, name, content: bytes) -> int | None:
    try:
        fields = {"label": content} if name.endswith(".cls") else json.loads(content)
    except ValueError as error:
        raise UserError(f"data.dir: {name} in {shard} cannot be read as JSON ({error}): fix it.") from None
    label = fields.get("label") if isinstance(fields, dict) else None
    return None if label is None else as_label(label, f"{name} in {shard}")
