"""The data sets that networks are evaluated on: what users call them, and their three parts."""

import dataclasses
import os
from typing import NamedTuple

import numpy as np

from seed_jax.config import Data
from seed_jax.data.sources import named, open_source, split_of
from seed_jax.errors import UserError
from seed_jax.evals.transfer import SETS, Set

ROLES = {"bank": "learned from", "val": "chosen on", "test": "scored"}


class Images(NamedTuple):
    """A data set to evaluate on.

    Attributes:
      name: as the user wrote it.
      data: its source and splits, settled.
      transfer: the entry of `transfer.SETS` for this data set; None if there is none.
      seed: of `data.subset`.
      bank_size: at most so many images are learned from, evenly spaced; 0 for all.
      trained_on: whether the network was trained on `data.train`, so that none of these images is scored.
    """

    name: str
    data: Data
    transfer: Set | None = None
    seed: int = 0
    bank_size: int = 0
    trained_on: bool = False


def open_data(data: str, dir: str = "") -> Data:
    """The section `data` of a config for what a user calls their images; `dir`: the data_dir of `tfds:NAME`.

    Raises:
      UserError: it is no data, or cannot be read.
    """
    source, place = named(data)
    return Data(source=source, dir=place or (dir if source.startswith("tfds:") else "")).settled()


def open_images(name: str, dir: str = "", splits: str = "") -> Images:
    """A data set as users name it for an evaluation.

    Args:
      name: as for `open_data`, or the name of a known data set, a key of `transfer.SETS`: `pets` is read from
        tensorflow-datasets, `pets:PLACE` from a folder or file.
      dir: the data_dir of tensorflow-datasets.
      splits: 'TRAIN,VAL,TEST', the names of the three splits; '' for the usual ones.

    Raises:
      UserError: it is no data, or cannot be read.
    """
    prefix, _, place = name.partition(":")
    known = SETS.get(prefix) if not os.path.exists(name) else None
    of_tfds = {one.tfds: one for one in SETS.values() if one.tfds}
    if known and not place and not known.tfds:
        raise UserError(
            f"tensorflow-datasets has no {known.title}: use --data={name}:FOLDER, with a folder of images."
        )
    where = place if known and place else f"tfds:{known.tfds}" if known else name
    if where.startswith("tfds:"):
        known = known or of_tfds.get(where.removeprefix("tfds:"))
        usual = known or Set("", 0, False)
        data = Data(source=where, dir=dir, train=usual.train, val=usual.val, test=usual.test)
    else:
        data = open_data(where)
    if splits:
        names = splits.split(",")
        if len(names) != len(ROLES) or not all(names):
            raise UserError(f"--splits is {splits!r}: name three, as train,val,test.")
        data = dataclasses.replace(data, train=names[0], val=names[1], test=names[2])
    return Images(name, data, known)


def has_own_test(data: Data) -> bool:
    """Whether a data set has a test split of its own, not one that was drawn by a hash."""
    if data.source.startswith("tfds:"):
        return True
    source = open_source(data.source, "all", dir=data.dir or None)
    return not np.array_equal(source.splits, split_of(source.ids()))
