"""Sources of images: one kind per file. `base.py` defines what a source is."""

import contextlib
import difflib
import os

import numpy as np
from etils import epath

from seed_jax.data.sources.arrayrecord import METADATA, ArrayRecord
from seed_jax.data.sources.arrays import Arrays, npz
from seed_jax.data.sources.base import (
    EXTENSIONS,
    SPLITS,
    Record,
    Source,
    Subset,
    bucket_errors,
    split_of,
    take_split,
)
from seed_jax.data.sources.cifar import ARCHIVES, cifar10, cifar100, cifar100_coarse
from seed_jax.data.sources.embedded import EMBEDDED
from seed_jax.data.sources.folder import Files, listed_once, no_classes, open_filelist, open_folder
from seed_jax.data.sources.idx import TRAIN_IMAGES, open_idx
from seed_jax.data.sources.imagenet import DEVKIT, TRUTH, is_class_list, open_imagenet, open_tiny_imagenet
from seed_jax.data.sources.subset import subset as take_subset
from seed_jax.data.sources.tfds import Tfds
from seed_jax.data.sources.webdataset import WebDataset
from seed_jax.errors import UserError, unknown

__all__ = [
    "EMBEDDED",
    "EXTENSIONS",
    "SOURCES",
    "SPLITS",
    "ArrayRecord",
    "Arrays",
    "Files",
    "Record",
    "Source",
    "Subset",
    "Tfds",
    "WebDataset",
    "listed_once",
    "named",
    "no_classes",
    "open_source",
    "recognise",
    "scored_splits",
    "settle",
    "split_of",
]

READERS = {
    "folder": open_folder,
    "imagefolder": lambda dir: open_folder(dir, labelled=True),
    "filelist": open_filelist,
    "npz": npz,
    "webdataset": WebDataset,
    "arrayrecord": ArrayRecord,
    "cifar10": cifar10,
    "cifar100": cifar100,
    "cifar100_coarse": cifar100_coarse,
    "idx": open_idx,
    "tiny_imagenet": open_tiny_imagenet,
    "imagenet": open_imagenet,
}
SOURCES = (*EMBEDDED, *READERS, "tfds:NAME")
MANY_CLASSES = 100_000  # more classes than this and than images: the labels are wrong
FILES = {".npz": "npz", ".tar": "webdataset", ".txt": "filelist"}
# A folder with these names in it is recognised; the names of cifar100 are of files, as others have folders.
MARKS = (
    ("cifar10", {"batches.meta"}),
    ("cifar10", {"batches.meta.txt"}),
    ("cifar100", {"meta", "train", "test"}),
    ("cifar100", {"fine_label_names.txt"}),
    ("tiny_imagenet", {"wnids.txt", "train", "val"}),
    ("imagenet", {DEVKIT, "train", "val"}),
    ("imagenet", {f"{DEVKIT}.tar.gz", "train", "val"}),
    ("imagenet", {TRUTH, "train", "val"}),
)
OFFICIAL = {  # what data.dir is, where it is the same for everyone
    "cifar10": "cifar-10-python.tar.gz, or the folder that it unpacks to",
    "cifar100": "cifar-100-python.tar.gz, or the folder that it unpacks to",
    "cifar100_coarse": "cifar-100-python.tar.gz, or the folder that it unpacks to",
    "idx": "the folder of train-images-idx3-ubyte.gz",
    "tiny_imagenet": "the folder that tiny-imagenet-200.zip unpacks to",
    "imagenet": "the folder of ImageNet's train and val",
}


def recognise(path: str) -> str | None:
    """The name of the source that reads `path`, or None.

    A file is recognised by its name, a folder by its content. A folder of images is an 'imagefolder' if its
    sub-folders look like classes (`folder.no_classes`), else a 'folder'. Raises `UserError` when a bucket or
    a folder cannot be read, or has no image.
    """
    name, ending = os.path.basename(path), os.path.splitext(path)[1].lower()
    if name in ARCHIVES:
        return ARCHIVES[name]
    if ending == ".txt" and is_class_list(path):
        return "imagenet"
    if ending in FILES:
        return FILES[ending]
    if TRAIN_IMAGES.fullmatch(name):
        return "idx"
    with _errors_named(path):
        folder = epath.Path(path)
        if not folder.is_dir():
            return None
        names = {entry.name for entry in folder.iterdir()}
    endings = {os.path.splitext(name)[1].lower() for name in names}
    if METADATA in names and ".array_record" in endings:
        return "arrayrecord"
    if any(map(TRAIN_IMAGES.fullmatch, names)):
        return "idx"
    for source, marks in MARKS:
        if marks <= names and not (source == "cifar100" and (folder / "train").is_dir()):
            return source
    with _errors_named(path):
        # A folder may contain archives and also what was unpacked from them.
        if (".tar" in endings and not endings & {*EXTENSIONS}) and not any(
            (folder / name).is_dir() for name in names if not os.path.splitext(name)[1]
        ):
            return "webdataset"
        archives = {ARCHIVES[name] for name in names & ARCHIVES.keys()}
        try:
            return "imagefolder" if no_classes(path) is None else "folder"
        except UserError:  # there is no image
            if len(archives) != 1:
                raise
            return archives.pop()


def named(data: str) -> tuple[str, str]:
    """The source and the dir of what a user calls their data: a path, `tfds:NAME` or an embedded source.

    A file or folder goes before a name. The source is '' for a path: `settle` recognises it.

    Raises:
      UserError: `data` is almost the name of an embedded source, and no path.
    """
    if os.path.exists(data):
        return "", data
    if data in EMBEDDED or data.startswith("tfds:"):
        return data, ""
    if difflib.get_close_matches(data, EMBEDDED, cutoff=0.8):
        raise unknown("file, folder or source", data, EMBEDDED)
    return "", data


def settle(source: str, dir: str, train: str) -> tuple[str, str]:
    """The source and the training split that `data.source`, `data.dir` and `data.train` mean.

    A source of '' is recognised from `dir`. A training split of '' is 'train' where the images have labels,
    so that probes have images to be tested on, else 'all'.

    Raises:
      UserError: `dir` is not recognised, or cannot be read.
    """
    if not source:
        if not dir:
            raise UserError(
                "data.source is '', which is recognised from data.dir, and that is not set: use "
                "--config.data.dir=FOLDER with the folder of the images."
            )
        source = recognise(dir)
        if source is None:
            raise UserError(
                f"data.dir: there is no folder {dir}, and no .tar, .npz or .txt file: set it to the folder "
                "of the images."
            )
    if not train:
        train = "train" if open_source(source, "all", dir=dir or None).num_classes > 1 else "all"
    return source, train


def scored_splits(source: str, dir: str, val: str, test: str) -> tuple[str, str]:
    """Return the splits that probes and the final evaluation score, for `data.val` and `data.test`.

    If a dataset has its own splits `train` and one of `val` and `test`, that one stands for the other, too.

    Raises:
      UserError: as `open_source`.
    """
    images = open_source(source, "all", dir=dir or None)
    if (val, test) != ("val", "test") or np.array_equal(images.splits, split_of(images.ids())):
        return val, test
    own = {SPLITS[n] for n in np.unique(images.splits) if n >= 0}
    return {("train", "val"): ("val", "val"), ("test", "train"): ("test", "test")}.get(
        tuple(sorted(own)), (val, test)
    )


def open_source(name: str, split: str, *, dir: str | None = None, subset: str = "", seed: int = 0) -> Source:
    """Open one split of a source.

    Args:
      name: `digits`, `scattered`, `photos` or `photos6` (they need no `dir`); `folder` (images without
        labels), `imagefolder` (one sub-folder per class), `filelist` (a text file), `npz`, `webdataset` (tar
        shards) or `arrayrecord` (written by `python -m seed_jax.data pack`); `cifar10`, `cifar100`,
        `cifar100_coarse`, `idx` (MNIST and the like), `tiny_imagenet` or `imagenet`, as their archives are;
        or `tfds:NAME`.
      split: train (70 %), val (10 %) or test (20 %), divided by a hash of the id, or all. A dataset with its
        own `train` and its own `val` or `test` uses its own splits. 'train+val' is both together. For
        `tfds:NAME`, a split as tensorflow-datasets names it.
      dir: the folder or file that the source reads; for `tfds:NAME` the data_dir.
      subset: which share of the split to return, as in `subset.py`; '' returns the whole split.
      seed: draws the subset.

    Raises:
      UserError: the source, the split or the subset is unknown, empty or cannot be read.
    """
    if name.startswith("tfds:"):
        with _errors_named(dir):
            source = Tfds(name.removeprefix("tfds:"), split, dir)
    else:
        if name not in SOURCES:
            raise unknown("data.source", name, SOURCES)
        if split not in SPLITS and not {*split.split("+")} <= {*SPLITS[:3]}:
            raise UserError(
                f"data split {split!r} is unknown; choose one of {', '.join(SPLITS)}, or join some with +."
            )
        if name in READERS and dir is None:
            raise UserError(
                f"data.dir is not set, and the source {name!r} needs it: set it to "
                f"{OFFICIAL.get(name, 'where the images are')}."
            )
        if name in EMBEDDED and dir:
            raise UserError(
                f"data.dir is {dir}, but the source {name!r} has its own images: use "
                "--config=configs/seed_folder.py, or --config.data.source= to recognise what is in data.dir."
            )
        with _errors_named(dir):
            source = take_split(EMBEDDED[name]() if name in EMBEDDED else READERS[name](dir), split)
    if not len(source):
        raise UserError(
            f"data split {split!r} of {dir or name} is empty: add images to it or choose another split."
        )
    if source.num_classes > max(len(source), MANY_CLASSES):
        raise UserError(
            f"data split {split!r} of {dir or name} has labels up to {source.num_classes - 1:,} but only "
            f"{len(source):,} images: number the classes from 0 without gaps."
        )
    return take_subset(source, subset, seed) if subset else source


@contextlib.contextmanager
def _errors_named(dir: str | None):
    try:
        yield
    except ImportError as error:
        if "://" not in str(dir):
            raise
        raise UserError(f"data.dir: {dir} needs a package that is not installed: {error}.") from None
    except bucket_errors() as error:
        if "://" not in str(dir):
            raise UserError(
                f"data.dir: {error.filename or dir} cannot be read ({error.strerror or error}): "
                "make it readable."
            ) from None
        cause = " ".join(str(error).split())
        raise UserError(
            f"data.dir: {dir} cannot be read ({cause}): check that the bucket exists and that you are "
            "logged in (`gcloud auth application-default login`)."
        ) from None
