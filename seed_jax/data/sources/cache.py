"""Small arrays that are dear to compute and cheap to keep: listings, labels, tar indices."""

import logging
import os
import zipfile
import zlib
from pathlib import Path

import numpy as np

from seed_jax.data import files
from seed_jax.data.sources.base import digest

FORMAT = 3  # raise it when what is kept means something else: what was kept before is never read again
WORTH = 20_000  # images; smaller sets are read afresh every time, which is quick and never stale
# What reading a .npz file raises that is none, was cut short or is damaged.
BROKEN_NPZ = (OSError, ValueError, EOFError, RuntimeError, zipfile.BadZipFile, zlib.error)
SETTLED = 2.0  # seconds; what changed just now may change again within one tick of its file's time


def user_file(*key: str) -> Path:
    """The file for a key, in the user's cache."""
    name = digest(*(os.fsencode(k) + bytes(1) for k in (str(FORMAT), *key)))
    return files.cache_home() / f"{name}.npz"


def load(file: Path) -> dict[str, np.ndarray] | None:
    """The arrays of a file, or None where there is none that can be read."""
    try:
        with open(file, "rb") as opened, np.load(opened, allow_pickle=False) as arrays:
            return dict(arrays)
    except BROKEN_NPZ:
        return None


def save(file: Path, **arrays: np.ndarray) -> bool:
    """Write a file in one piece; False where that is not possible, such as on a read-only disk."""
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        with files.whole(file) as opened:
            np.savez(opened, **arrays)
    except OSError as error:
        logging.info("no cache at %s: %s", file, error)
        return False
    return True
