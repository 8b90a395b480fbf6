"""CIFAR-10 and CIFAR-100 (https://www.cs.toronto.edu/~kriz/cifar.html), python and binary versions."""

import dataclasses
import io
import os

import numpy as np
from etils import epath

from seed_jax.data import inert_pickle
from seed_jax.data.sources.archives import contents, damaged, kept
from seed_jax.data.sources.arrays import Arrays
from seed_jax.data.sources.base import hold_out_val
from seed_jax.errors import UserError

PIXELS = 3 * 32 * 32  # bytes of an image: the red, the green and the blue plane


@dataclasses.dataclass(frozen=True)
class Release:
    """What the files of a data set are called.

    Attributes:
      archive: official names begin with it.
      folders: what the python and the binary archive unpack to.
      train, test: batches; all of train together have five times the images of test.
      meta, names: python: the file with the names of the classes, and their key in it.
      text: binary: the file with the names, one a line.
      labels: python: the key of the labels in a batch.
      column, columns: binary: which of the bytes before an image is its label.
      classes: how many there are.
    """

    archive: str
    folders: tuple[str, str]
    train: tuple[str, ...]
    test: str
    meta: str
    names: str
    text: str
    labels: str
    column: int
    columns: int
    classes: int


CIFAR10 = Release(
    archive="cifar-10",
    folders=("cifar-10-batches-py", "cifar-10-batches-bin"),
    train=tuple(f"data_batch_{n}" for n in range(1, 6)),
    test="test_batch",
    meta="batches.meta",
    names="label_names",
    text="batches.meta.txt",
    labels="labels",
    column=0,
    columns=1,
    classes=10,
)
CIFAR100 = Release(
    archive="cifar-100",
    folders=("cifar-100-python", "cifar-100-binary"),
    train=("train",),
    test="test",
    meta="meta",
    names="fine_label_names",
    text="fine_label_names.txt",
    labels="fine_labels",
    column=1,
    columns=2,
    classes=100,
)
COARSE = dataclasses.replace(
    CIFAR100,
    names="coarse_label_names",
    text="coarse_label_names.txt",
    labels="coarse_labels",
    column=0,
    classes=20,
)
ARCHIVES = {
    f"{release.archive}-{version}.tar.gz": name
    for name, release in (("cifar10", CIFAR10), ("cifar100", CIFAR100))
    for version in ("python", "binary")
}


@kept
def cifar10(place: str) -> Arrays:
    """CIFAR-10: 60,000 images of 32 x 32 in 10 classes.

    Ids count the images of data_batch_1 to 5, then those of test_batch. test_batch is the split test; a tenth
    of the others is val.

    Args:
      place: cifar-10-python.tar.gz or cifar-10-binary.tar.gz, a folder with it, or the folder it unpacks to.

    Raises:
      UserError: a file is missing, cut short, damaged or of another kind.
    """
    return _read(place, CIFAR10)


@kept
def cifar100(place: str) -> Arrays:
    """CIFAR-100 with its 100 fine labels: 60,000 images of 32 x 32; ids and splits as for CIFAR-10.

    Args and errors as for `cifar10`, with cifar-100-python.tar.gz and cifar-100-binary.tar.gz.
    """
    return _read(place, CIFAR100)


@kept
def cifar100_coarse(place: str) -> Arrays:
    """CIFAR-100 with its 20 coarse labels, else as `cifar100`."""
    return _read(place, COARSE)


def _read(place: str, release: Release) -> Arrays:
    official = f"{release.archive}-python.tar.gz or {release.archive}-binary.tar.gz"
    if not epath.Path(place).exists():
        raise UserError(
            f"data.dir: there is no {place}: download {official} from "
            "https://www.cs.toronto.edu/~kriz/cifar.html."
        )
    for archive in (f"{release.archive}-{version}.tar.gz" for version in ("python", "binary")):
        if (epath.Path(place) / archive).exists():
            place = os.fspath(epath.Path(place) / archive)
            break
    batches = (*release.train, release.test)
    python, binary = {*batches, release.meta}, {*(f"{batch}.bin" for batch in batches), release.text}
    found = contents(place, python | binary)
    pickled = bool(python & found.keys())
    if missing := sorted((python if pickled else binary) - found.keys()):
        raise UserError(
            f"data.dir: {place} has no file {missing[0]}: use {official}, complete, or the folder "
            f"{' or '.join(release.folders)} that it unpacks to."
        )
    read, ending = (_pickled_batch, "") if pickled else (_binary_batch, ".bin")
    parts = []
    for batch in batches:
        try:
            parts.append(read(found.pop(batch + ending), release))
        except (ValueError, TypeError, IndexError, AttributeError) as error:
            raise damaged(os.path.join(place, batch + ending), error) from None
    _check_counts(place, ending, release, [len(images) for images, _ in parts])
    images = np.concatenate([images for images, _ in parts]).reshape(-1, 3, 32, 32)
    images = np.ascontiguousarray(images.transpose(0, 2, 3, 1))
    images.flags.writeable = False  # `kept` hands it out again
    labels = np.concatenate([labels for _, labels in parts])
    test = np.arange(len(images)) >= len(images) - len(parts[-1][0])
    names = _names(place, found, release, pickled)
    return Arrays(os.path.basename(place.rstrip("/")), images, labels, names, hold_out_val(test))


def _binary_batch(content: bytes, release: Release) -> tuple[np.ndarray, np.ndarray]:
    """Images uint8 `[N, 3072]` and labels `[N]`; raises ValueError."""
    row = release.columns + PIXELS
    if len(content) % row:
        raise ValueError(f"{len(content):,} bytes are no multiple of the {row:,} of an image")
    rows = np.frombuffer(content, np.uint8).reshape(-1, row)
    return rows[:, release.columns :], _checked(rows[:, release.column].tolist(), release)


def _pickled_batch(content: bytes, release: Release) -> tuple[np.ndarray, np.ndarray]:
    """As `_binary_batch`; also raises what an unexpected pickle leads to."""
    batch = _unpickled(content, {"data", release.labels})
    _, shape, dtype, fortran, pixels = batch["data"].state
    if dtype.args[0] not in ("u1", "|u1") or fortran:
        raise ValueError(f"its data is of dtype {dtype.args[0]:.10}, not u1")
    if isinstance(pixels, str):  # Python 2 wrote bytes as a string
        pixels = pixels.encode("latin-1")
    images = np.frombuffer(pixels, np.uint8).reshape(shape)
    labels = batch[release.labels]
    if images.shape[1:] != (PIXELS,) or len(labels) != len(images):
        raise ValueError(f"its data is of shape {list(images.shape)}, with {len(labels):,} labels")
    return images, _checked(labels, release)


def _checked(labels: list, release: Release) -> np.ndarray:
    for label in labels:
        if type(label) is not int or not 0 <= label < release.classes:
            raise ValueError(f"it has the label {label!r:.20}, not one of 0 to {release.classes - 1}")
    return np.array(labels, np.int64)


def _check_counts(place: str, ending: str, release: Release, counts: list[int]) -> None:
    """Raise `UserError` if a batch has too few images: a file may be cut between two of them."""
    shares = [5 // len(release.train)] * len(release.train) + [1]
    whole = max(1, *(count // share for count, share in zip(counts, shares, strict=True)))
    expected = [share * whole for share in shares]
    for batch, count, right in zip((*release.train, release.test), counts, expected, strict=True):
        if count != right:
            file = os.path.join(place, batch + ending)
            raise damaged(file, f"it has {count:,} images, and by the other files it must have {right:,}")


def _names(place: str, found: dict[str, bytes], release: Release, pickled: bool) -> tuple[str, ...]:
    file = release.meta if pickled else release.text
    try:
        if pickled:
            names = _unpickled(found[file], {release.names})[release.names]
        else:
            names = found[file].decode().split()
        if len(names) != release.classes or not all(isinstance(name, str) for name in names):
            raise ValueError(f"it has {len(names)} names of classes, not {release.classes}")
    except (ValueError, TypeError) as error:
        raise damaged(os.path.join(place, file), error) from None
    return tuple(names)


def _unpickled(content: bytes, keys: set[str]) -> dict:
    """The dict that is pickled; raises ValueError if it is none with these keys."""
    tree = inert_pickle.load(io.BytesIO(content), {}, lambda identity: None)
    if type(tree) is not dict or not keys <= tree.keys():
        raise ValueError(f"it is no dict with {' and '.join(sorted(keys))}")
    return tree
