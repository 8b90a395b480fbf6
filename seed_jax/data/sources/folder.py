"""Image files: below a folder, or named in a list."""

import collections
import os
import re
import time

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
    own_parts,
    path_id,
    split_of,
    unreadable,
)
from seed_jax.errors import UserError


class Files:
    """Image files `paths` relative to `root`; the id is a 63-bit hash of the relative path."""

    def __init__(self, root: str, paths, ids, labels, class_names, part, fingerprint):
        self.root, self.paths, self._ids, self._labels = root, paths, ids, labels
        self.num_classes = len(class_names) or int(labels.max(initial=-1)) + 1
        self.class_names, self.part, self._fingerprint = class_names, part, fingerprint

    def __len__(self):
        return len(self.paths)

    def __getitem__(self, i):
        name = self.name(i)
        try:
            with open_file(name) as file:
                image = file.read()
        except bucket_errors() as error:
            raise unreadable(name, error) from error
        return Record(image, int(self._ids[i]), int(self._labels[i]))

    def name(self, i):
        return os.path.join(self.root, self.paths[i])

    def ids(self):
        return self._ids

    def labels(self):
        return self._labels

    def fingerprint(self):
        """Of the relative paths and the sizes of the files, where the file system tells them at once."""
        return self._fingerprint


def open_folder(root: str, labelled: bool = False) -> Files:
    """The image files below a folder, hidden ones left out.

    With `labelled`, the first level of sub-folders (below `train/`, `val/`, `test/` where there are such)
    is the class, numbered in alphabetical order. The listing of a local folder of 20,000 images or more is
    kept in the user's cache until a folder in it changes. Raises `UserError` when there is no image.
    """
    if not epath.Path(root).is_dir():
        raise UserError(f"data.dir: there is no folder {root}; give the folder that holds the images.")
    index = _remote_index(root) if "://" in str(root) else _local_index(os.path.abspath(root))
    paths, ids = Strings(index["blob"], index["ends"]), index["ids"]
    names = list(Strings(index["folders"], index["folder_ends"]))
    levels = [name.split("/") if name else [] for name in names]
    used = np.unique(index["folder"])  # those that hold images
    own = own_parts([levels[f][0] for f in used if levels[f]])
    if own:
        of_folder = [SPLITS.index(level[0]) if level and level[0] in own else -1 for level in levels]
        part = np.array(of_folder, np.int8)[index["folder"]]
        levels = [level[1:] if level and level[0] in own else level for level in levels]
    else:
        part = split_of(ids)
    labels, class_names = np.full(len(ids), -1, np.int64), ()
    if labelled:
        if astray := [f for f in used if not levels[f]]:
            first = paths[int(np.flatnonzero(index["folder"] == astray[0])[0])]
            raise UserError(
                f"data.dir: {first} in {root} lies in no class folder; move it into one, or use the "
                "source 'folder', which has no labels."
            )
        class_names = tuple(sorted({levels[f][0] for f in used}))
        number = {name: n for n, name in enumerate(class_names)}
        labels = np.array([number[level[0]] if level and level[0] in number else -1 for level in levels])
        labels = labels[index["folder"]]
    return Files(str(root), paths, ids, labels, class_names, part, str(index["fingerprint"]))


def open_filelist(path: str) -> Files:
    """The files named in a text file, one a line relative to it, each perhaps with a label after a tab.

    Labels are whole numbers, those below 0 for none, or names, which are numbered in alphabetical order.
    Raises `UserError`.
    """
    try:
        text = epath.Path(path).read_text().removeprefix("\ufeff")
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"data.dir: the file list {path} cannot be read ({error}).") from None
    lines = [line.split("\t") for line in text.splitlines() if line.strip()]
    paths, given = [line[0] for line in lines], [line[1].strip() for line in lines if len(line) > 1]
    if not paths:
        raise UserError(f"data.dir: the file list {path} is empty; write one image file a line.")
    if any(given) and (len(given) != len(paths) or not all(given)):
        first = next(line[0] for line in lines if len(line) == 1 or not line[1].strip())
        raise UserError(f"data.dir: {first} in {path} has no label and others have: give all or none.")
    if len(set(paths)) != len(paths):
        twice, _ = collections.Counter(paths).most_common(1)[0]
        raise UserError(f"data.dir: {twice} is in {path} twice; name each file once.")
    given = given if any(given) else []
    names = sorted(set(given))
    if all(re.fullmatch(r"-?\d+", name) for name in names):
        found = [as_label(n, f"{p} in {path}") for n, p in zip(given, paths, strict=True)] if given else -1
        labels, class_names = np.full(len(paths), found, np.int64), ()
    else:
        labels, class_names = np.searchsorted(names, given), tuple(names)
    ids = np.array([path_id(p) for p in paths], np.int64)
    fingerprint = digest(text.encode())
    root = os.path.dirname(str(path))
    return Files(root, Strings.of(paths), ids, labels, class_names, split_of(ids), fingerprint)


def _local_index(root: str) -> dict[str, np.ndarray]:
    file = cache.user_file("folder", root)
    kept = cache.load(file)
    if kept is not None and _unchanged(root, kept):
        return kept
    began = time.time()
    folders, mtimes, images, others = [], [], [], []
    for name, mtime, files in _scan(root):
        folders.append(name)
        mtimes.append(mtime)
        images += [(*entry, len(folders) - 1) for entry in files if entry[1] is not None]
        others += [entry[0] for entry in files if entry[1] is None]
    index = _index(root, images, others, folders)
    index["mtimes"] = np.array(mtimes, np.int64)
    if len(images) >= cache.WORTH and max(mtimes) / 1e9 < began - cache.SETTLED:
        cache.save(file, **index)
    return index


def _unchanged(root, kept) -> bool:
    try:
        now = [
            os.stat(os.path.join(root, f)).st_mtime_ns for f in Strings(kept["folders"], kept["folder_ends"])
        ]
    except OSError:
        return False
    return np.array_equal(now, kept["mtimes"])


def _scan(root):
    """(folder, its mtime, [(path, size or None when it is no image)]) of each folder, relative to `root`."""
    pending = [""]
    while pending:
        folder = pending.pop()
        files = []
        try:
            mtime = os.stat(os.path.join(root, folder)).st_mtime_ns
            with os.scandir(os.path.join(root, folder)) as entries:
                for entry in entries:
                    path = f"{folder}/{entry.name}" if folder else entry.name
                    if entry.name.startswith("."):
                        continue
                    if entry.is_dir():
                        if not (entry.is_symlink() and _above(entry.path)):
                            pending.append(path)
                    elif entry.name.lower().endswith(EXTENSIONS):
                        files.append((path, _size(entry)))
                    else:
                        files.append((path, None))
        except OSError as error:
            raise UserError(
                f"data.dir: {os.path.join(root, folder)} cannot be listed ({error.strerror}); "
                "make it readable."
            ) from None
        yield folder, mtime, files


def _above(link: str) -> bool:
    """Whether a link leads to a folder that holds it: following it would never end."""
    target = os.path.realpath(link)
    return os.path.realpath(os.path.dirname(link)).startswith(target.rstrip("/") + "/") or target == (
        os.path.realpath(os.path.dirname(link))
    )


def _size(entry) -> int:
    try:
        return entry.stat().st_size
    except OSError:  # a link that leads nowhere is a bad image when its turn comes
        return -1


def _remote_index(root: str) -> dict[str, np.ndarray]:
    folders, images, others = [], [], []
    bare = str(root).split("://")[-1].strip("/")  # file systems differ in whether they walk with the scheme
    for where, _, names in epath.Path(root).walk():
        relative = str(where).split("://")[-1].strip("/").removeprefix(bare).strip("/")
        if any(level.startswith(".") for level in relative.split("/")):
            continue
        folders.append(relative)
        for name in names:
            path = f"{relative}/{name}" if relative else name
            if name.startswith("."):
                continue
            if name.lower().endswith(EXTENSIONS):
                images.append((path, 0, len(folders) - 1))
            else:
                others.append(path)
    return _index(root, images, others, folders)


def _index(root, images, others, folders) -> dict[str, np.ndarray]:
    if not images:
        found = (
            f"none of its {len(others)} files (such as {min(others)})" if others else "it is empty; no file"
        )
        raise UserError(f"data.dir: no image in {root}: {found} ends in {' '.join(EXTENSIONS)}.")
    images.sort()
    paths, names = Strings.of([path for path, _, _ in images]), Strings.of(folders)
    return {
        "blob": paths.blob,
        "ends": paths.ends,
        "ids": np.fromiter((path_id(path) for path, _, _ in images), np.int64, len(images)),
        "folder": np.fromiter((f for _, _, f in images), np.int32, len(images)),
        "folders": names.blob,
        "folder_ends": names.ends,
        "fingerprint": np.array(digest(*(os.fsencode(f"{path}\0{size}\0") for path, size, _ in images))),
    }
