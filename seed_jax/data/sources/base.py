"""The contract of a source, and the splits, subsets and helpers that all sources share."""

import errno
import hashlib
import os
import sys
from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import NamedTuple, Protocol

import numpy as np
from etils import epath

from seed_jax.data.images import BadImage
from seed_jax.errors import UserError

SPLITS = ("train", "val", "test", "all")
EXTENSIONS = (".jpg", ".jpeg", ".png", ".webp", ".bmp", ".tif", ".tiff", ".gif")


class Record(NamedTuple):
    """One item of a source.

    Attributes:
      image: encoded bytes, or uint8 `[H, W, 3]`.
      id: a stable, non-negative int64.
      label: class index below 2**31, or -1 for no label.
      targets: further arrays by name; all records of a source have the same names, shapes and dtypes.
        Spatial targets use the coordinates of the whole upright image and are the same for all views.
    """

    image: bytes | np.ndarray
    id: int
    label: int
    targets: Mapping[str, np.ndarray] = MappingProxyType({})


class Source(Protocol):
    """Random access to the N images of a dataset.

    `source[i]` raises IndexError for `i >= N`, `BadImage` when the image cannot be read, and `UserError` when
    a whole shard is missing or unreadable.

    Attributes:
      num_classes: 0 without labels.
      class_names: empty when the classes have no names.
      splits: int8 `[N]`, the index into `SPLITS` of each image's own split; -1 for an image in no split.
      special: number of FIFOs, sockets and devices that a folder has and the source leaves out; else 0.

    Methods:
      name: what messages call image `i`; ends in its file name if it has one.
      ids: int64 `[N]`.
      labels: int64 `[N]`, -1 for no label.
      fingerprint: a short hash of the data.
    """

    num_classes: int
    class_names: Sequence[str]
    splits: np.ndarray
    special: int

    def __len__(self) -> int: ...
    def __getitem__(self, i: int) -> Record: ...
    def name(self, i: int) -> str: ...
    def ids(self) -> np.ndarray: ...
    def labels(self) -> np.ndarray: ...
    def fingerprint(self) -> str: ...


class Subset:
    """The records of another source at `indices`, unchanged."""

    def __init__(self, source: Source, indices: np.ndarray):
        self.source = source
        self.indices = np.asarray(indices)
        self.num_classes = source.num_classes
        self.class_names = source.class_names
        self.splits = source.splits[self.indices]
        self.special = source.special

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


class WithTargets(Subset):
    """All records of another source with further targets, which replace those of the same name.

    Args:
      targets: by name, `[N, ...]`.
      known: bool `[N]`, whether a record has them; another record is a `BadImage`. None for all.
    """

    def __init__(self, source: Source, targets: Mapping[str, np.ndarray], known: np.ndarray | None = None):
        super().__init__(source, np.arange(len(source)))
        self.targets, self.known = dict(targets), known

    def __getitem__(self, i):
        if self.known is not None and not self.known[i]:
            raise BadImage("it could not be read when its targets were computed")
        record, own = super().__getitem__(i), {name: rows[i] for name, rows in self.targets.items()}
        return record._replace(targets={**record.targets, **own})


class Strings(Sequence):
    """Short strings stored in two arrays, in a third of a list's memory.

    Unlike a list it does not compare by content and cannot be sliced.

    Args:
      blob: uint8, the encoded strings joined.
      ends: int64 `[N]`, where each string ends in `blob`.
    """

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
    """Open a file to read bytes, through epath if its path is in a bucket."""
    return epath.Path(path).open("rb") if "://" in path else open(path, "rb")


def bucket_errors() -> tuple[type[Exception], ...]:
    """The exceptions that reading a bucket raises: OSError, and gcsfs's own (for a 401) if it is in use."""
    gcsfs = sys.modules.get("gcsfs.retry")
    return (OSError, gcsfs.HttpError) if gcsfs else (OSError,)


def check_local(key: str, folder: str | os.PathLike) -> None:
    """Raise `UserError` for a folder in a bucket, which array_record would take for a local folder `gs:`."""
    if "://" in str(folder):
        raise UserError(
            f"{key}: {folder} is in a bucket, but ArrayRecord files must be readable through a local path: "
            "pack into a local folder and copy it to and from the bucket, or mount the bucket (gcsfuse)."
        )


def unreadable(name: str, error: Exception) -> BadImage | UserError:
    """The exception to raise for an image that cannot be read: `BadImage` if only this file is at fault,
    `UserError` if the disk or the network is.
    """
    number = getattr(error, "errno", None)  # exceptions of a bucket's file system have no errno
    of_the_file = (FileNotFoundError, PermissionError, IsADirectoryError, NotADirectoryError)
    if isinstance(error, of_the_file) or number in (errno.ELOOP, errno.ENAMETOOLONG):
        return BadImage(error.strerror or str(error))
    cause = (
        f"{errno.errorcode.get(number, number)}: {error.strerror}" if number else " ".join(str(error).split())
    )
    return UserError(
        f"data.dir: {name} cannot be read ({cause}): fix the disk, the network or "
        "the limits of the system, and start again."
    )


def as_label(value, where: str) -> int:
    """A number, or its text, as a label; -1 for any negative number.

    Args:
      where: where the value is stored, for the error.

    Raises:
      UserError: the value is not a whole number below 2**31 (batches store labels as int32).
    """
    try:
        label = int(value)
        fits = label < 2**31 and (label == value or not isinstance(value, float))
    except (TypeError, ValueError, OverflowError):
        fits = False
    if not fits:
        raise UserError(
            f"data.dir: {where} holds no whole number below 2**31 as label but {value!r:.40}: number the "
            "classes from 0, and use -1 for images without label."
        )
    return max(label, -1)


def in_common(source: Source, other: Source) -> int:
    """How many images of a source are also in another one, by their ids."""
    return int(np.isin(source.ids(), other.ids()).sum())


def digest(*chunks: bytes) -> str:
    """A hash of the joined bytes, 16 hexadecimal digits."""
    state = hashlib.blake2b(digest_size=8)
    for chunk in chunks:
        state.update(chunk)
    return state.hexdigest()


def path_id(path: str) -> int:
    """The id of an image from its name within the source: 63 bits of a hash."""
    return int.from_bytes(hashlib.blake2b(os.fsencode(path), digest_size=8).digest(), "big") >> 1


def scramble(ids: np.ndarray) -> np.ndarray:
    """Hash each id to a well-mixed uint64 (splitmix64)."""
    z = np.asarray(ids).astype(np.uint64) + np.uint64(0x9E3779B97F4A7C15)
    z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return z ^ (z >> np.uint64(31))


def split_of(ids: np.ndarray) -> np.ndarray:
    """The split of each id, int8: 0 train (70 %), 1 val (10 %), 2 test (20 %), by a hash of the id."""
    tenth = (scramble(ids) % np.uint64(10)).astype(np.int64)
    return np.searchsorted([7, 8], tenth, side="right").astype(np.int8)


def own_splits(names: Sequence[str]) -> set[str]:
    """The splits among `names` (of train, val and test), if train and another one are there; else empty.

    A dataset with such names comes with its own splits.
    """
    splits = set(names) & set(SPLITS[:3])
    return splits if "train" in splits and len(splits) > 1 else set()


def hold_out_val(test: np.ndarray) -> np.ndarray:
    """The splits of a dataset that comes with train and test only, int8 `[N]`; ids are indices.

    A hash of the id holds a tenth of the training images out as val; 'train+val' is all of them.

    Args:
      test: bool `[N]`, which images are the dataset's own test images.
    """
    train, val = SPLITS.index("train"), SPLITS.index("val")
    held_out = split_of(np.arange(len(test))) == val
    return np.where(test, SPLITS.index("test"), np.where(held_out, val, train)).astype(np.int8)


def take_split(source: Source, split: str) -> Source:
    """The images of one split of a source, or of several joined by +; 'all' returns the source itself."""
    if split == "all":
        return source
    parts = [SPLITS.index(part) for part in split.split("+")]
    return Subset(source, np.flatnonzero(np.isin(source.splits, parts)))
