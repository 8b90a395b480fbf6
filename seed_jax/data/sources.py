"""Where images come from: random-access sources, one small class each.

Every source has `len(s)`, `s[i] -> Record`, `s.name(i) -> str` for messages, `s.labels() -> int array [N]`
(-1: none), `s.num_classes` (0 when unlabelled) and `s.fingerprint() -> str`, a short hash of the data.
"""

import difflib
import hashlib
import os
import zipfile
from pathlib import Path
from typing import NamedTuple, Protocol

import numpy as np
from PIL import Image

from seed_jax import rng
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
    """Images in memory: uint8 `[N, H, W, 3]`; the id is the index, and what splits hash unless told."""

    def __init__(self, what: str, images: np.ndarray, labels: np.ndarray | None):
        self.what = what
        self.images = images
        self._labels = np.full(len(images), -1, np.int64) if labels is None else labels.astype(np.int64)
        self.split_ids = np.arange(len(images), dtype=np.int64)
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


class Folder:
    """Image files below a folder; the id is a 63-bit hash of the path relative to it.

    With `labelled`, the first level of sub-folders (below `train/`, `val/`, `test/` where there are such)
    is the class, numbered in alphabetical order. Raises `UserError` when there is no image.
    """

    def __init__(self, root: str, labelled: bool = False):
        self.root = Path(root)
        if not self.root.is_dir():
            raise UserError(f"data.dir: there is no folder {root}; give the folder that holds the images.")
        files = sorted(self._walk())
        self.paths = [path for path in files if path.lower().endswith(EXTENSIONS)]
        if not self.paths:
            found = (
                f"none of its {len(files)} files (such as {files[0]})" if files else "it is empty; no file"
            )
            raise UserError(f"data.dir: no image in {root}: {found} ends in {' '.join(EXTENSIONS)}.")
        self.split_ids = self.ids = np.array([_path_id(path) for path in self.paths], np.int64)
        tops = {path.split("/")[0] for path in self.paths if "/" in path}
        self.parts = tops & set(SPLITS[:3]) if "train" in tops and tops & {"val", "test"} else set()
        self._labels, self.num_classes = np.full(len(self.paths), -1, np.int64), 0
        if labelled:
            classes = [self._class(path) for path in self.paths]
            names, self._labels = np.unique(classes, return_inverse=True)
            self.num_classes = len(names)

    def _walk(self):
        for folder, subfolders, files in os.walk(self.root, followlinks=True):
            subfolders[:] = [name for name in subfolders if not name.startswith(".")]
            for name in files:
                if not name.startswith("."):
                    yield (Path(folder) / name).relative_to(self.root).as_posix()

    def _class(self, path):
        folders = path.split("/")[:-1]
        if self.parts and folders and folders[0] in self.parts:
            folders = folders[1:]
        if not folders:
            raise UserError(
                f"data.dir: {path} in {self.root} lies in no class folder; move it into one, or use the "
                "source 'folder', which has no labels."
            )
        return folders[0]

    def __len__(self):
        return len(self.paths)

    def __getitem__(self, i):
        try:
            image = (self.root / self.paths[i]).read_bytes()
        except OSError as error:
            raise BadImage(str(error)) from error
        return Record(image, int(self.ids[i]), int(self._labels[i]))

    def name(self, i):
        return str(self.root / self.paths[i])

    def labels(self):
        return self._labels

    def fingerprint(self):
        """Of the relative paths and the sizes of the files."""
        sizes = (f"{path}\0{(self.root / path).stat().st_size}\0" for path in self.paths)
        return _hash(*(os.fsencode(line) for line in sizes))

    def split(self, name: str) -> Source:
        """By its sub-folders train/, val/, test/ when it has train/ and another, else by a hash of the id."""
        if not self.parts or name == "all":
            return _hash_split(self, name)
        return Subset(self, np.flatnonzero([path.startswith(name + "/") for path in self.paths]))


def _path_id(path: str) -> int:
    return int.from_bytes(hashlib.blake2b(os.fsencode(path), digest_size=8).digest(), "big") >> 1


class Tfds:
    """A prepared tensorflow-datasets set, read without TensorFlow; the id is the index within the split.

    Raises `UserError` when the set or its split is unknown or not prepared.
    """

    def __init__(self, name: str, split: str, dir: str | None = None):
        import tensorflow_datasets as tfds
        from tensorflow_datasets.proto import tf_example_pb2

        self._parse = tf_example_pb2.Example.FromString
        try:
            builder = tfds.builder(name, data_dir=dir, file_format="array_record")
        except tfds.core.DatasetNotFoundError:
            raise UserError(f"data.source: tensorflow-datasets has no set {name!r}.") from None
        features = builder.info.features
        if "image" not in features:
            raise UserError(f"data.source: tfds:{name} has no feature `image`, only {', '.join(features)}.")
        if not builder.info.splits:
            where = f" --data_dir={dir}" if dir else ""
            raise UserError(
                f"data.source: tfds:{name} is not prepared in {builder.data_path}; do it once with "
                f"`pip install tensorflow-cpu && tfds build {name} --file_format=array_record{where}` "
                "(only this needs TensorFlow, training does not)."
            )
        try:
            self.records = builder.as_data_source(
                split=split, deserialize_method=tfds.decode.DeserializeMethod.RAW_BYTES
            )
        except ValueError as error:
            known = ", ".join(builder.info.splits)
            raise UserError(
                f"data split {split!r} is not in tfds:{name}, which has {known}: {error}"
            ) from None
        self.what = f"{builder.info.full_name}:{split}"
        self.num_classes = features["label"].num_classes if "label" in features else 0

    def __len__(self):
        return len(self.records)

    def _label(self, feature):
        return feature["label"].int64_list.value[0] if self.num_classes else -1

    def __getitem__(self, i):
        feature = self._parse(self.records[int(i)]).features.feature
        return Record(feature["image"].bytes_list.value[0], int(i), self._label(feature))

    def name(self, i):
        return f"{self.what}[{i}]"

    def labels(self):
        """Reads every record once, images undecoded."""
        parsed = (self._parse(self.records[i]).features.feature for i in range(len(self)))
        return np.fromiter((self._label(feature) for feature in parsed), np.int64, len(self))

    def fingerprint(self):
        """Of name, version, split and length: a prepared set does not change under its version."""
        return _hash(f"{self.what} {len(self)}".encode())


def digits() -> Arrays:
    """scikit-learn's 1,797 handwritten digits, 8x8 of 17 grey levels, as 32x32 RGB."""
    from sklearn.datasets import load_digits

    small, labels = load_digits(return_X_y=True)
    small = np.round(small.reshape(-1, 8, 8) * (255 / 16)).astype(np.uint8)
    large = [np.asarray(Image.fromarray(x).resize((32, 32), Image.Resampling.BILINEAR)) for x in small]
    return Arrays("digits", np.repeat(np.stack(large)[..., None], 3, axis=-1), labels)


def scattered() -> Arrays:
    """Each of scikit-learn's digits twice, somewhere on a black 16x16 canvas, as RGB.

    Digits are 10 to 14 pixels large and tilted up to 10 degrees. Where `digits` are aligned, so that raw
    pixels tell them apart, here a network has to find the digit. Both copies of one share their split.
    """
    from sklearn.datasets import load_digits

    small, labels = load_digits(return_X_y=True)
    small = np.round(small.reshape(-1, 8, 8) * (255 / 16)).astype(np.uint8)
    canvases = np.zeros((2 * len(small), 16, 16), np.uint8)
    for n, canvas in enumerate(canvases):
        random = rng.host_generator(0, n, 0, 0)
        side = int(random.integers(10, 15))
        digit = Image.fromarray(small[n // 2]).resize((side, side), Image.Resampling.BILINEAR)
        digit = digit.rotate(random.uniform(-10, 10), Image.Resampling.BILINEAR)
        top, left = random.integers(0, 17 - side, 2)
        canvas[top : top + side, left : left + side] = np.asarray(digit)
    source = Arrays("scattered", np.repeat(canvases[..., None], 3, axis=-1), np.repeat(labels, 2))
    source.split_ids = np.arange(len(canvases)) // 2
    return source


def photos() -> Arrays:
    """32x32 tiles of scikit-learn's two photographs, 260 of each, no overlap; the label is the photograph."""
    from sklearn.datasets import load_sample_images

    return _tiles("photos", load_sample_images().images)


def photos6() -> Arrays:
    """As `photos`, with four colour photographs of scikit-image's wheel besides: 1,378 tiles in 6 classes."""
    try:
        from skimage import data
    except ModuleNotFoundError:
        raise UserError("data.source: photos6 needs scikit-image; run `pip install scikit-image`.") from None
    from sklearn.datasets import load_sample_images

    more = [data.astronaut(), data.chelsea(), data.coffee(), data.rocket()]
    return _tiles("photos6", [*load_sample_images().images, *more])


def _tiles(what, photographs, side=32):
    tiles = []
    for photo in photographs:
        rows, columns = photo.shape[0] // side, photo.shape[1] // side
        grid = photo[: rows * side, : columns * side].reshape(rows, side, columns, side, 3)
        tiles.append(grid.swapaxes(1, 2).reshape(-1, side, side, 3))
    labels = np.repeat(np.arange(len(tiles)), [len(t) for t in tiles])
    return Arrays(what, np.concatenate(tiles), labels)


def npz(path: str) -> Arrays:
    """A .npz file with `image` uint8 `[N, H, W, 3]` or `[N, H, W]` and perhaps `label` int `[N]`."""
    try:
        with open(path, "rb") as file:
            arrays = np.load(file, allow_pickle=False)
            arrays = {key: arrays[key] for key in ("image", "label") if key in arrays}
    except (OSError, ValueError, zipfile.BadZipFile) as error:
        raise UserError(f"data.dir: {path} cannot be read as an .npz file ({error}).") from None
    if "image" not in arrays:
        raise UserError(
            f"data.dir: {path} has no array `image`; save it with np.savez(path, image=..., label=...)."
        )
    images, labels = arrays["image"], arrays.get("label")
    if images.dtype != np.uint8 or not (images.ndim == 3 or images.ndim == 4 and images.shape[-1] == 3):
        raise UserError(
            f"data.dir: `image` in {path} is {images.dtype} {list(images.shape)}; it must be uint8 "
            "[N, H, W, 3] or [N, H, W]."
        )
    if labels is not None and (labels.dtype.kind not in "iu" or labels.shape != images.shape[:1]):
        raise UserError(f"data.dir: `label` in {path} must be whole numbers, one an image: [{len(images)}].")
    if images.ndim == 3:
        images = np.repeat(images[..., None], 3, axis=-1)
    return Arrays(os.path.basename(path), images, labels)


EMBEDDED = {"digits": digits, "scattered": scattered, "photos": photos, "photos6": photos6}
SOURCES = (*EMBEDDED, "folder", "imagefolder", "npz", "tfds:NAME")


def _hash_split(source, split: str) -> Source:
    if split == "all":
        return source
    return Subset(source, np.flatnonzero(split_of(source.split_ids) == SPLITS.index(split)))


def open_source(name: str, split: str, *, dir: str | None = None) -> Source:
    """The part `split` of the source called `name`.

    Names: `digits`, `photos`, `photos6` (embedded); `folder` (without labels), `imagefolder` (a sub-folder
    a class) and `npz`, which read `dir`; `tfds:NAME`, where `dir` is the data_dir and `split` goes to
    tensorflow-datasets. Otherwise `split` is train (70 %), val (10 %), test (20 %), by a hash of the id, or
    all; a folder that has its own `train/` and `val/` or `test/` uses those. Raises `UserError`.
    """
    if name.startswith("tfds:"):
        source = Tfds(name.removeprefix("tfds:"), split, dir)
    else:
        if name not in SOURCES:
            near = difflib.get_close_matches(name, SOURCES, 1, 0.4)
            hint = f"did you mean {near[0]!r}?" if near else f"choose one of {', '.join(SOURCES)}."
            raise UserError(f"data.source: there is no source {name!r}; {hint}")
        if split not in SPLITS:
            raise UserError(f"data split {split!r} is unknown; choose one of {', '.join(SPLITS)}.")
        if name not in EMBEDDED and dir is None:
            raise UserError(f"data.dir: the source {name!r} needs one; say where the images are.")
        if name in ("folder", "imagefolder"):
            source = Folder(dir, labelled=name == "imagefolder").split(split)
        else:
            source = _hash_split(EMBEDDED[name]() if name in EMBEDDED else npz(dir), split)
    if not len(source):
        raise UserError(
            f"data split {split!r} of {dir or name} is empty; add images to it or choose another split."
        )
    return source
