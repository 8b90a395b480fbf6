"""What a source is: the contract, the splits and the subsets that all sources share."""

import errno
import hashlib
import os
import sys
from collections.abc import Sequence
from typing import NamedTuple, Protocol

import numpy as np
from etils import epath

from seed_jax.data.images import BadImage
from seed_jax.errors import UserError

SPLITS = ("train", "val", "test", "all")
EXTENSIONS = (".jpg", ".jpeg", ".png", ".webp", ".bmp", ".tif", ".tiff", ".gif")


class Record(NamedTuple):
    """One image: encoded bytes or uint8 `[H, W, 3]`, a stable non-negative int64 id, a label (-1: none)."""

    image: bytes | np.ndarray
    id: int
    label: int


class Source(Protocol):
    """Random access to images.

    `name(i)` is for messages and ends in the file's name where there is one, `labels()` is int64 `[N]`
    (-1: none), `ids()` int64 `[N]`, `num_classes` 0 when unlabelled, `class_names` empty when they have none,
    `fingerprint()` a short hash of the data. `part` is int8 `[N]`, the index into `SPLITS` of each image's
    own split (-1: in none of them).
    """

    num_classes: int
    class_names: Sequence[str]
    part: np.ndarray

    def __len__(self) -> int: ...
    def __getitem__(self, i: int) -> Record: ...
    def name(self, i: int) -> str: ...
    def ids(self) -> np.ndarray: ...
    def labels(self) -> np.ndarray: ...
    def fingerprint(self) -> str: ...


class Subset:
    """The samples `indices` of another source, with their ids."""

    def __init__(self, source: Source, indices: np.ndarray):
        self.source = source
        self.indices = np.asarray(indices)
        self.num_classes = source.num_classes
        self.class_names = source.class_names
        self.part = source.part[self.indices]

    def __len__(self):
        return len(self.indices)

    def __getitem__(self, i):
        return self.source[int(self.indices[i])]

    def name(self, i):
        return self.source.name(int(self.indices[i]))

    def ids(self):
        return self.source.ids()[self.indices]

    def labels(self):
        return self.source.labels()[self.indices]

    def fingerprint(self):
        return digest(self.source.fingerprint().encode(), self.indices.astype(np.int64))


class Strings(Sequence):
    """A million short strings in two arrays, a third of the memory of a list; compares and slices as none."""

    def __init__(self, blob: np.ndarray, ends: np.ndarray):
        self.blob, self.ends = blob, ends

    @classmethod
    def of(cls, strings: Sequence[str]) -> "Strings":
        encoded = [os.fsencode(s) for s in strings]
        lengths = np.fromiter(map(len, encoded), np.int64, len(encoded))
        return cls(np.frombuffer(b"".join(encoded), np.uint8), np.cumsum(lengths))

    def __len__(self):
        return len(self.ends)

    def __getitem__(self, i):
        i = range(len(self.ends))[i]
        start = self.ends[i - 1] if i else 0
        return os.fsdecode(self.blob[start : self.ends[i]].tobytes())


def open_file(path: str):
    """A file opened to read its bytes, through epath where it lies in a bucket."""
    return epath.Path(path).open("rb") if "://" in path else open(path, "rb")


def bucket_errors() -> tuple[type[Exception], ...]:
    """What reading a bucket raises: OSErrors, and where gcsfs is used one of its own, such as for a 401."""
    gcsfs = sys.modules.get("gcsfs.retry")
    return (OSError, gcsfs.HttpError) if gcsfs else (OSError,)


def check_local(key: str, folder: str | os.PathLike) -> None:
    """Raises `UserError` for a folder in a bucket: to array_record `gs:` is a local folder."""
    if "://" in str(folder):
        raise UserError(
            f"{key}: {folder} is in a bucket, and ArrayRecord files are read and written on local disks: "
            "pack into a local folder and copy it to and from the bucket, or mount the bucket (gcsfuse)."
        )


def unreadable(name: str, error: Exception) -> BadImage | UserError:
    """What to raise for an image that cannot be read: `BadImage` if that is the file's fault alone."""
    number = getattr(error, "errno", None)  # what a bucket's file system raises has none
    of_the_file = (FileNotFoundError, PermissionError, IsADirectoryError, NotADirectoryError)
    if isinstance(error, of_the_file) or number in (errno.ELOOP, errno.ENAMETOOLONG):
        return BadImage(str(error))
    cause = (
        f"{errno.errorcode.get(number, number)}: {error.strerror}" if number else " ".join(str(error).split())
    )
    return UserError(
        f"data.dir: {name} cannot be read ({cause}): mend the disk, the network or "
        "the limits of the system, and start again."
    )


def as_label(value, where: str) -> int:
    """A number, or its text, as a label: -1 for any below 0.

    Raises `UserError`, which says `where` it stands, for what is not whole or not below 2**31 (batches hold
    labels as int32).
    """
    try:
        label = int(value)
        fits = label < 2**31 and (label == value or not isinstance(value, float))
    except (TypeError, ValueError, OverflowError):
        fits = False
    if not fits:
        raise UserError(
            f"data.dir: {where} holds no whole number below 2**31 as label but {value!r:.40}: number the "
            "classes from 0 on, and use -1 for none."
        )
    return max(label, -1)


def digest(*parts: bytes) -> str:
    """16 hexadecimal digits of the parts joined."""
    state = hashlib.blake2b(digest_size=8)
    for part in parts:
        state.update(part)
    return state.hexdigest()


def path_id(path: str) -> int:
    """The id of an image by its name within its source: 63 bits of a hash."""
    return int.from_bytes(hashlib.blake2b(os.fsencode(path), digest_size=8).digest(), "big") >> 1


def scramble(ids: np.ndarray) -> np.ndarray:
    """A well-mixed uint64 of each id (splitmix64)."""
    z = np.asarray(ids).astype(np.uint64) + np.uint64(0x9E3779B97F4A7C15)
    z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return z ^ (z >> np.uint64(31))


def split_of(ids: np.ndarray) -> np.ndarray:
    """The split of each id, int8: 0 train (70 %), 1 val (10 %), 2 test (20 %), by a hash of the id."""
    tenth = (scramble(ids) % np.uint64(10)).astype(np.int64)
    return np.searchsorted([7, 8], tenth, side="right").astype(np.int8)


def own_parts(names: Sequence[str]) -> set[str]:
    """Those of train, val and test among names, if train and another are: a set that has its own splits."""
    found = set(names) & set(SPLITS[:3])
    return found if "train" in found and len(found) > 1 else set()


def take_split(source: Source, split: str) -> Source:
    """The part `split` of a source; 'all' is the source itself."""
    if split == "all":
        return source
    return Subset(source, np.flatnonzero(source.part == SPLITS.index(split)))
