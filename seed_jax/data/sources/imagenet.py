"""Unpacked archives of ImageNet (ILSVRC 2012), whole or the classes of a list, and of Tiny ImageNet."""

import io
import os
import re
from collections.abc import Callable

import numpy as np
from etils import epath

from seed_jax.data.sources.archives import contents, damaged
from seed_jax.data.sources.base import SPLITS, Source, Strings, Subset, bucket_errors, digest, open_file
from seed_jax.data.sources.folder import Files, listing
from seed_jax.errors import UserError

DEVKIT = "ILSVRC2012_devkit_t12"
TRUTH, META = "ILSVRC2012_validation_ground_truth.txt", "meta.mat"
ANNOTATIONS = "val_annotations.txt"
SYNSET = re.compile(r"n\d{8}")
TRAIN, VAL = SPLITS.index("train"), SPLITS.index("val")


def open_imagenet(place: str) -> Source:
    """ImageNet's train/ with a folder for each class, and val/ with the same folders, or flat as it unpacks.

    The classes are sorted by the names of their folders, as in torchvision. Flat validation images get their
    labels from the devkit: ILSVRC2012_devkit_t12, its .tar.gz, or ILSVRC2012_validation_ground_truth.txt and
    meta.mat in the folder itself. Images elsewhere, as in test/, have no label and are in no split.

    Args:
      place: the folder of train/ and val/; or a text file in it with one class a line, such as n01440764,
        for these classes only (ImageNet-100). They are sorted, too.

    Raises:
      UserError: images or the ground truth are missing, incomplete or damaged, or a class has no images.
    """
    wanted = None if epath.Path(place).is_dir() else _class_list(place)
    root = place if wanted is None else os.path.dirname(place) or "."
    index = listing(root)
    folders = Strings(index["folders"], index["folder_ends"])
    used = [folders[f].split("/") for f in np.unique(index["folder"])]
    for split in ("train", "val"):
        if not any(levels[0] == split for levels in used):
            raise UserError(
                f"data.dir: there is no image in {os.path.join(root, split)}: unpack "
                f"ILSVRC2012_img_{split}.tar there."
            )
    classes = {levels[1] for levels in used if levels[0] == "train" and len(levels) > 1}
    if others := sorted(name for name in classes if not SYNSET.fullmatch(name)):
        raise UserError(
            f"data.dir: {others[0]} in {os.path.join(root, 'train')} is no class of ImageNet, such as "
            "n01440764: move it away, or use the source 'imagefolder'."
        )
    if absent := sorted((wanted or set()) - classes):
        raise UserError(
            f"data.dir: {place} lists the class {absent[0]}, of which {os.path.join(root, 'train')} has no "
            "image: complete the data or the list."
        )
    files = _files(root, index, sorted(wanted or classes), lambda: _ground_truth(root), wanted is not None)
    return files if wanted is None else Subset(files, np.flatnonzero(files.labels() >= 0))


def open_tiny_imagenet(root: str) -> Files:
    """Tiny ImageNet: train/ with a folder for each class, and val/ with val_annotations.txt.

    The classes are sorted by the names of their folders, as in torchvision. The images of test/ have no label
    and are in no split.

    Args:
      root: the folder tiny-imagenet-200, which tiny-imagenet-200.zip unpacks to.

    Raises:
      UserError: images, wnids.txt or val_annotations.txt are missing, incomplete or damaged.
    """
    index = listing(root)
    classes = _class_list(os.path.join(root, "wnids.txt"))
    return _files(root, index, sorted(classes), lambda: _annotations(os.path.join(root, "val", ANNOTATIONS)))


def is_class_list(path: str) -> bool:
    """Whether a text file begins with the name of a class, such as n01440764."""
    try:
        with open_file(path) as file:
            return any(map(SYNSET.fullmatch, file.readline(200).decode().split()[:1]))
    except (*bucket_errors(), ImportError, UnicodeDecodeError):
        return False


def _files(
    root: str,
    index: dict[str, np.ndarray],
    classes: list[str],
    truth: Callable[[], tuple[str, dict[str, str]]],
    some: bool = False,
) -> Files:
    """The images of a listing with labels.

    Args:
      truth: a function that returns a file and what it says: the class of each flat image in val/, by the
        name of the image without its ending.
      some: `classes` are not all: images of others get no label, else they are errors.
    """
    paths, names = Strings(index["blob"], index["ends"]), Strings(index["folders"], index["folder_ends"])
    number = {name: n for n, name in enumerate(classes)}
    of_folder = [name.split("/") for name in names]
    splits = np.array([{"train": TRAIN, "val": VAL}.get(levels[0], -1) for levels in of_folder], np.int8)
    own = np.array([len(levels) > 1 and bool(SYNSET.fullmatch(levels[1])) for levels in of_folder])
    labels = np.array([number.get(levels[1], -1) if len(levels) > 1 else -1 for levels in of_folder])
    splits, own = splits[index["folder"]], own[index["folder"]]
    labels = np.where(splits >= 0, labels[index["folder"]], -1)
    stray = (splits == TRAIN) & ~own
    flat = np.flatnonzero((splits == VAL) & ~own)
    if len(flat):
        file, class_of = truth()
        stems = [os.path.splitext(os.path.basename(paths[i]))[0] for i in flat]
        if unknown := [stem for stem in stems if stem not in class_of]:
            raise UserError(f"data.dir: {file} has no class for the image {unknown[0]}: unpack both again.")
        if len(stems) < len(class_of):
            absent = min(class_of.keys() - set(stems))
            raise UserError(
                f"data.dir: {os.path.join(root, 'val')} has {len(stems):,} of the {len(class_of):,} images "
                f"in {file}, and not {absent}: unpack it again."
            )
        labels[flat] = [number.get(class_of[stem], -1) for stem in stems]
    stray |= (splits >= 0) & (labels < 0) & (not some)
    if stray.any():
        raise UserError(
            f"data.dir: {paths[int(np.flatnonzero(stray)[0])]} in {root} is of none of the {len(classes):,} "
            "classes that have folders in train/: complete the data, or move it away."
        )
    fingerprint = digest(str(index["fingerprint"]).encode(), labels.astype(np.int64))
    special = int(index["special"])
    return Files(str(root), paths, index["ids"], labels, tuple(classes), splits, fingerprint, special)


def _class_list(path: str) -> set[str]:
    """The classes in a text file: the first word of each line."""
    lines = [line.split() for line in _text(path).splitlines() if line.strip()]
    others = [line[0] for line in lines if not SYNSET.fullmatch(line[0])]
    if others or not lines:
        what = f"'{others[0]:.40}' is no class" if others else "it is empty"
        raise UserError(f"data.dir: {path}: {what}: write one class a line, such as n01440764.")
    return {line[0] for line in lines}


def _annotations(path: str) -> tuple[str, dict[str, str]]:
    """The path, and the class of each image by its name without the ending."""
    class_of = {}
    for line in _text(path).splitlines():
        name, synset, *_ = [*line.split("\t"), "", ""]
        if not SYNSET.fullmatch(synset):
            raise damaged(path, f"the line {line!r:.60} has no class")
        class_of[os.path.splitext(name)[0]] = synset
    return path, class_of


def _ground_truth(root: str) -> tuple[str, dict[str, str]]:
    """The file of the ground truth, and the class of each validation image by its name without the ending."""
    folder = os.path.join(root, DEVKIT, "data")
    for place in (folder, f"{os.path.join(root, DEVKIT)}.tar.gz", root):
        found = contents(place, {TRUTH, META}) if epath.Path(place).exists() else {}
        if TRUTH in found:
            break
    else:
        raise UserError(
            f"data.dir: the images in {os.path.join(root, 'val')} are in no class folders, and there is no "
            f"{TRUTH}: put {DEVKIT}.tar.gz into {root}."
        )
    file = os.path.join(place, TRUTH)
    if META not in found:
        raise UserError(
            f"data.dir: {place} has {TRUTH} but no {META}, which has the order of the classes: put "
            f"{DEVKIT}.tar.gz into {root}."
        )
    synset_of = _order(os.path.join(place, META), found[META])
    class_of = {}
    for n, line in enumerate(found[TRUTH].split(), 1):
        if not line.isdigit() or int(line) not in synset_of:
            raise damaged(file, f"line {n} is {line[:20].decode(errors='replace')!r}, no class of {META}")
        class_of[f"ILSVRC2012_val_{n:08}"] = synset_of[int(line)]
    return file, class_of


def _order(file: str, content: bytes) -> dict[int, str]:
    """The class of each number in the ground truth: the synsets of meta.mat without children."""
    from scipy.io import loadmat

    try:
        synsets = np.atleast_1d(loadmat(io.BytesIO(content), squeeze_me=True)["synsets"])
        rows = zip(synsets["ILSVRC2012_ID"], synsets["WNID"], synsets["num_children"], strict=True)
        order = {int(number): str(synset) for number, synset, children in rows if children == 0}
        if not all(map(SYNSET.fullmatch, order.values())):
            raise ValueError("a class is not called as n01440764")
    except Exception as error:  # scipy has no one exception for damaged files
        raise damaged(file, error) from None
    return order


def _text(path: str) -> str:
    if not epath.Path(path).exists():
        raise UserError(f"data.dir: there is no {path}: unpack the archive again.")
    try:
        return epath.Path(path).read_text()
    except UnicodeDecodeError as error:
        raise damaged(path, error) from None
