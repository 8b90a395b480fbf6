"""Image files: all below a folder, or the ones in a list."""

import collections
import contextlib
import contextvars
import errno
import os
import re
import stat
import time
from typing import NamedTuple

import numpy as np
from etils import epath

from seed_jax.data.images import BadImage
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
    unreadable,
)
from seed_jax.errors import UserError

ALIASES = {"validation": "val"}  # other names of folders with a split
_LISTINGS: contextvars.ContextVar[dict | None] = contextvars.ContextVar("listings", default=None)


@contextlib.contextmanager
def listed_once():
    """Within this context each folder is listed at most once, so that all splits have the same files."""
    token = _LISTINGS.set({})
    try:
        yield
    finally:
        _LISTINGS.reset(token)


class Files:
    """Image files; the id of an image is a 63-bit hash of its path relative to `root`.

    Args:
      root: a folder, local or in a bucket.
      paths: `[N]` strings relative to `root`.
      ids, labels: int64 `[N]`; a label of -1 means none.
      splits: int8 `[N]`, each image's split, as in `Source`.
      special: number of FIFOs, sockets and devices in the folder, which are left out.
    """

    def __init__(self, root: str, paths, ids, labels, class_names, splits, fingerprint, special=0):
        self.root, self.paths, self._ids, self._labels = root, paths, ids, labels
        self.num_classes = len(class_names) or int(labels.max(initial=-1)) + 1
        self.class_names, self.splits, self._fingerprint = class_names, splits, fingerprint
        self.special = special

    def __len__(self):
        return len(self.paths)

    def __getitem__(self, i):
        name = self.name(i)
        try:
            if "://" not in name and not stat.S_ISREG(os.stat(name).st_mode):  # reading a FIFO may never end
                raise BadImage("no regular file")
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
        """A hash of the relative paths and, for a local folder, the sizes of the files."""
        return self._fingerprint


def open_folder(root: str, labelled: bool = False) -> Files:
    """All image files below a folder, except hidden ones, FIFOs, sockets and devices.

    The listing of a local folder with at least 20,000 images is cached until a folder in it changes.

    Args:
      root: a folder, local or in a bucket.
      labelled: the first level of sub-folders is the class, numbered in alphabetical order. If the folder has
        its own splits (`train/`, and `val/`, `validation/` or `test/`), the classes are the sub-folders of
        these, and an image in none of them has no label.

    Raises:
      UserError: the folder does not exist, cannot be listed or has no image; or, with `labelled`, an image
        (of a split, if the folder has its own) is in no class folder.
    """
    index = listing(root)
    paths, ids = Strings(index["blob"], index["ends"]), index["ids"]
    levels, inside, of_folder = _levels(index)
    splits = split_of(ids) if of_folder is None else of_folder[index["folder"]]
    labels, class_names = np.full(len(ids), -1, np.int64), ()
    if labelled:
        if classless := [f for f in inside if not levels[f]]:
            first = paths[int(np.flatnonzero(index["folder"] == classless[0])[0])]
            raise UserError(
                f"data.dir: {first} in {root} is in no class folder: move it into one, or use the "
                "source 'folder', which has no labels."
            )
        class_names = tuple(sorted({levels[f][0] for f in inside}))
        number = {name: n for n, name in enumerate(class_names)}
        of_class = np.full(len(levels), -1, np.int64)
        of_class[inside] = [number[levels[f][0]] for f in inside]
        labels = of_class[index["folder"]]
    fingerprint, special = str(index["fingerprint"]), int(index["special"])
    return Files(str(root), paths, ids, labels, class_names, splits, fingerprint, special)


def no_classes(root: str) -> str | None:
    """What keeps the sub-folders of a folder from being classes; None if they look like classes.

    They do if every image is directly in a first-level sub-folder, at least two of these have images, and
    there are at least two images per sub-folder on average. If the folder has its own splits, the sub-folders
    are theirs, and other images do not matter.

    Returns:
      None; or a sentence that names the first of the images to move away; or '' if moving a few images is not
      enough. Errors as `open_folder`.
    """
    index = listing(root)
    levels, inside, _ = _levels(index)
    images = np.bincount(index["folder"], minlength=len(levels))
    flat = [f for f in inside if len(levels[f]) == 1]
    classes = {levels[f][0] for f in flat}
    sorted_in = images[flat].sum()
    rest = images[inside].sum() - sorted_in
    if len(classes) < 2 or 2 * len(classes) > sorted_in or rest > sorted_in:
        return ""
    if not rest:
        return None
    outside = np.isin(index["folder"], np.setdiff1d(inside, flat))
    first = Strings(index["blob"], index["ends"])[int(np.flatnonzero(outside)[0])]
    what, them = (f"{first} is", "it") if rest == 1 else (f"{first} and {rest - 1:,} more are", "them")
    return f"{what} not directly in a class folder: move {them} away and the sub-folders are classes"


def listing(root: str) -> dict[str, np.ndarray]:
    """The paths, ids and folders of the images below a folder, as `_index` returns them."""
    known = _LISTINGS.get()
    if known is None:
        return _list(root)
    if root not in known:
        known[root] = _list(root)
    return known[root]


def _list(root: str) -> dict[str, np.ndarray]:
    if not epath.Path(root).is_dir():
        raise UserError(f"data.dir: there is no folder {root}: set it to the folder of the images.")
    return _remote_index(root) if "://" in str(root) else _local_index(os.path.abspath(root))


def _levels(index: dict[str, np.ndarray]):
    """The folders of a listing: levels, the indices of folders whose images are in a split, and splits.

    The levels of each folder are those of its path without its own split. The splits are int8, one per
    folder, or None if the listing has no own splits; then every image is in a split.
    """
    names = Strings(index["folders"], index["folder_ends"])
    levels = [name.split("/") if name else [] for name in names]
    used = np.unique(index["folder"])
    first = [ALIASES.get(level[0], level[0]) if level else "" for level in levels]
    own = own_splits([first[f] for f in used])
    if not own:
        return levels, used, None
    splits = np.array([SPLITS.index(name) if name in own else -1 for name in first], np.int8)
    levels = [level[1:] if name in own else level for name, level in zip(first, levels, strict=True)]
    return levels, used[splits[used] >= 0], splits


def open_filelist(path: str) -> Files:
    """The image files that a text file lists.

    Each line is a path relative to the text file, optionally followed by a tab and a label.
    Labels are whole numbers (below 0: none), or names, numbered in alphabetical order. Raises `UserError`
    when the text file cannot be read or is empty, names a file twice, or has labels for only some files.
    """
    try:
        text = epath.Path(path).read_text().removeprefix("\ufeff")
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(
            f"data.dir: the file list {path} cannot be read ({error}): use a text file in UTF-8."
        ) from None
    lines = [line.split("\t") for line in text.splitlines() if line.strip()]
    paths, given = [line[0] for line in lines], [line[1].strip() for line in lines if len(line) > 1]
    if not paths:
        raise UserError(f"data.dir: the file list {path} is empty: write one image file per line.")
    if any(given) and (len(given) != len(paths) or not all(given)):
        first = next(line[0] for line in lines if len(line) == 1 or not line[1].strip())
        raise UserError(f"data.dir: {first} in {path} has no label, but other files have: label all or none.")
    if len(set(paths)) != len(paths):
        repeated, _ = collections.Counter(paths).most_common(1)[0]
        raise UserError(f"data.dir: {repeated} is in {path} twice: name each file once.")
    given = given if any(given) else []
    names = sorted(set(given))
    if all(re.fullmatch(r"-?\d+", name) for name in names):
        numbers = [as_label(n, f"{p} in {path}") for n, p in zip(given, paths, strict=True)] if given else -1
        labels, class_names = np.full(len(paths), numbers, np.int64), ()
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
    folders, mtimes, images, others, special = [], [], [], [], []
    for name, mtime, files in _scan(root):
        folders.append(name)
        mtimes.append(mtime)
        images += [(*entry, len(folders) - 1) for entry in files.images]
        others += files.others
        special += files.special
    index = _index(root, images, others, folders, special)
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


class _Found(NamedTuple):
    """The files of one folder: (path, bytes) of images, and the paths of others and of special files."""

    images: list
    others: list
    special: list


def _scan(root):
    """Yield (folder, mtime in ns, `_Found`) for each folder; all paths are relative to `root`."""
    pending = [""]
    while pending:
        folder = pending.pop()
        files = _Found([], [], [])
        try:
            mtime = os.stat(os.path.join(root, folder)).st_mtime_ns
            with os.scandir(os.path.join(root, folder)) as entries:
                for entry in entries:
                    path = f"{folder}/{entry.name}" if folder else entry.name
                    if entry.name.startswith("."):
                        continue
                    if _is_folder(entry):
                        if not (entry.is_symlink() and _above(entry.path)):
                            pending.append(path)
                    elif _is_special(entry):
                        files.special.append(path)
                    elif entry.name.lower().endswith(EXTENSIONS):
                        files.images.append((path, _size(entry)))
                    else:
                        files.others.append(path)
        except OSError as error:
            raise UserError(
                f"data.dir: {os.path.join(root, folder)} cannot be listed ({error.strerror}): "
                "make it readable."
            ) from None
        yield folder, mtime, files


def _above(link: str) -> bool:
    """Whether a link points to a folder above it: following it would never end."""
    target = os.path.realpath(link)
    return os.path.realpath(os.path.dirname(link)).startswith(target.rstrip("/") + "/") or target == (
        os.path.realpath(os.path.dirname(link))
    )


def _is_folder(entry) -> bool:
    try:
        return entry.is_dir()
    except OSError as error:
        if error.errno != errno.ELOOP:  # a link to itself; the pipeline later finds a bad image
            raise
        return False


def _is_special(entry: os.DirEntry) -> bool:
    """Whether an entry that is no folder is a FIFO, a socket or a device, or a link to one."""
    try:
        if entry.is_file():
            return False
        entry.stat()
    except OSError:  # a broken link
        return False
    return True


def _size(entry) -> int:
    try:
        return entry.stat().st_size
    except OSError:  # a broken link; the pipeline later finds a bad image
        return -1


def _remote_index(root: str) -> dict[str, np.ndarray]:
    folders, images, others = [], [], []
    bare = str(root).split("://")[-1].strip("/")  # not all file systems walk with the scheme
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
    return _index(root, images, others, folders, [])


def _index(root, images, others, folders, special) -> dict[str, np.ndarray]:
    """A listing as arrays: the images sorted by path, each with its id and the number of its folder."""
    if not images:
        others = [*others, *special]
        reason = "it is empty"
        if others:
            reason = f"it has {len(others)} other files, for example {min(others)}"
        raise UserError(
            f"data.dir: there is no image in {root} ({reason}): use a folder of files that end in "
            f"{' '.join(EXTENSIONS)}."
        )
    images.sort()
    paths, names = Strings.of([path for path, _, _ in images]), Strings.of(folders)
    return {
        "blob": paths.blob,
        "ends": paths.ends,
        "ids": np.fromiter((path_id(path) for path, _, _ in images), np.int64, len(images)),
        "folder": np.fromiter((f for _, _, f in images), np.int32, len(images)),
        "folders": names.blob,
        "folder_ends": names.ends,
        "special": np.array(len(special)),
        "fingerprint": np.array(digest(*(os.fsencode(f"{path}\0{size}\0") for path, size, _ in images))),
    }
