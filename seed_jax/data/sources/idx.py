"""MNIST and data sets in its IDX files: Fashion-MNIST, KMNIST, EMNIST (format: http://yann.lecun.com/exdb/mnist)."""

import math
import os
import re
import string

import numpy as np
from etils import epath

from seed_jax.data.sources.archives import damaged, kept, read_gz
from seed_jax.data.sources.arrays import Arrays
from seed_jax.data.sources.base import hold_out_val
from seed_jax.errors import UserError

TRAIN_IMAGES = re.compile(r"(.*)train-images([-.])idx3-ubyte(\.gz)?")
DTYPES = {8: "uint8", 9: "int8", 11: "int16", 12: "int32", 13: "float32", 14: "float64"}
MOST_TIMES = 1100  # more than gzip can compress a file

LETTERS = string.ascii_uppercase + string.ascii_lowercase
MERGED = "".join(letter for letter in LETTERS if letter not in "cijklmopsuvwxyz")  # EMNIST's paper, figure 2
NAMES = {  # in the order of preference: by a word in the name of the file or of the two folders above it
    "emnist-byclass": tuple(string.digits + LETTERS),
    "emnist-bymerge": tuple(string.digits + MERGED),
    "emnist-balanced": tuple(string.digits + MERGED),
    "emnist-letters": tuple(string.ascii_lowercase),
    "fashion": (
        *("T-shirt/top", "Trouser", "Pullover", "Dress", "Coat"),
        *("Sandal", "Shirt", "Sneaker", "Bag", "Ankle boot"),
    ),
    "kmnist": ("o", "ki", "su", "tsu", "na", "ha", "ma", "ya", "re", "wo"),
}


@kept
def open_idx(place: str) -> Arrays:
    """Grey images of train-images-idx3-ubyte and the like, as RGB; compressed (.gz) or not.

    The id is the index, first of the training images, then of the test images (t10k, or test in EMNIST),
    which are the split test. A tenth of the training images is held out as val. EMNIST's images, which are
    stored with rows and columns exchanged, are turned upright, and its letters are numbered from 0.

    Args:
      place: the folder of the four files; or, if there are several data sets in it, the training images.

    Raises:
      UserError: a file is missing, cut short, damaged or of another dtype.
    """
    folder, names, match = _training_images(place)
    prefix, separator = match[1], match[2]
    test = "test" if prefix.startswith("emnist") else "t10k"
    parts = []
    for part in ("train", test):
        images_file, images = _file(folder, names, f"{prefix}{part}-images{separator}idx3-ubyte")
        labels_file, labels = _file(folder, names, f"{prefix}{part}-labels{separator}idx1-ubyte")
        if len(images) != len(labels):
            raise damaged(labels_file, f"it has {len(labels):,} labels for {len(images):,} images")
        if parts and images.shape[1:] != parts[0][0].shape[1:]:
            raise damaged(images_file, f"its images are {list(images.shape[1:])}, not as those of train")
        if prefix == "emnist-letters-":
            if not labels.all():
                raise damaged(labels_file, "it has the label 0, and letters are numbered from 1")
            labels = labels - 1
        parts.append((images, labels))
    images, labels = (np.concatenate(arrays) for arrays in zip(*parts, strict=True))
    if prefix.startswith("emnist"):
        images = np.ascontiguousarray(images.transpose(0, 2, 1))
    images.flags.writeable = False  # `kept` hands it out again
    split = hold_out_val(np.arange(len(images)) >= len(parts[0][0]))
    where = "/".join([*os.path.abspath(folder).lower().split("/")[-2:], prefix])
    classes = next((NAMES[word] for word in NAMES if word in where), ())
    if len(classes) <= int(labels.max(initial=0)):
        classes = ()
    return Arrays(os.path.basename(os.path.abspath(folder)), images, labels, classes, split)


def _training_images(place: str) -> tuple[str, set[str], re.Match]:
    """The folder, the names in it, and the match of the training images of one data set."""
    path = epath.Path(place)
    folder = place if path.is_dir() else os.path.dirname(place)
    if not path.exists():
        raise UserError(f"data.dir: there is no {place}: use the folder of train-images-idx3-ubyte.gz.")
    names = {entry.name for entry in epath.Path(folder or ".").iterdir() if entry.is_file()}
    matches = filter(None, map(TRAIN_IMAGES.fullmatch, sorted(names if path.is_dir() else [path.name])))
    matches = {match[1]: match for match in matches}
    if not matches:
        raise UserError(
            f"data.dir: there is no train-images-idx3-ubyte or train-images-idx3-ubyte.gz in {place}: use "
            "the folder of the four files of MNIST or a data set in its format."
        )
    if len(matches) > 1:
        first = os.path.join(folder, min(matches.values(), key=lambda match: match[0])[0])
        raise UserError(
            f"data.dir: there are {len(matches)} data sets in {place}: set it to the training images of one, "
            f"such as {first}."
        )
    return folder, names, next(iter(matches.values()))


def _file(folder: str, names: set[str], name: str) -> tuple[str, np.ndarray]:
    """The path and the array of `name` or `name`.gz, uint8 `[N]` or `[N, H, W]`, as its name says."""
    present = [found for found in (name, f"{name}.gz") if found in names]
    if not present:
        raise UserError(f"data.dir: there is no {name} or {name}.gz in {folder}: download it, too.")
    path = os.path.join(folder, present[0])
    ndim = 3 if "idx3" in name else 1
    start = read_gz(path, 4 + 4 * ndim)
    if len(start) < 4 + 4 * ndim or start[:2] != b"\0\0" or start[3] != ndim or start[2] not in DTYPES:
        raise damaged(path, f"it begins with {start[:4].hex() or 'nothing'}, not with 000008{ndim:02}")
    if start[2] != 8:
        raise damaged(path, f"its values are {DTYPES[start[2]]}, not uint8")
    shape = [int(n) for n in np.frombuffer(start[4:], ">u4")]
    size = len(start) + math.prod(shape)
    too_many = size > MOST_TIMES * epath.Path(path).stat().length
    content = b"" if too_many else read_gz(path, size + 1)
    if len(content) != size:
        extent = "shorter" if len(content) < size else "longer"
        raise damaged(path, f"it is {extent} than its shape {shape} says")
    return path, np.frombuffer(content, np.uint8, offset=len(start)).reshape(shape)
