"""A cache of arrays that are slow to compute: folder listings, labels, tar indices."""

import logging
import os
import zipfile
import zlib
from pathlib import Path

import numpy as np

from seed_jax.data import files
from seed_jax.data.sources.base import digest

FORMAT = 4  # raise it when the meaning of cached arrays changes: older files are then never read
WORTH = 20_000  # images; smaller datasets are read every time, which is fast and never stale
# Raised by reading a file that is not .npz, was cut short or is damaged.
BROKEN_NPZ = (OSError, ValueError, EOFError, RuntimeError, zipfile.BadZipFile, zlib.error)
SETTLED = 2.0  # seconds; a file changed more recently may change again with the same mtime


def user_file(*key: str) -> Path:
    """The path in the user's cache for a key."""
    name = digest(*(os.fsencode(k) + bytes(1) for k in (str(FORMAT), *key)))
    return files.cache_home() / f"{name}.npz"


def load(file: Path) -> dict[str, np.ndarray] | None:
    """The arrays of a .npz file, or None if it does not exist or cannot be read."""
    try:
        with open(file, "rb") as opened, np.load(opened, allow_pickle=False) as arrays:
            return dict(arrays)
    except BROKEN_NPZ:
        return None


def save(file: Path, **arrays: np.ndarray) -> bool:
    """Write a .npz file atomically; False if that fails, as on a read-only disk."""
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        with files.whole(file) as opened:
            np.savez(opened, **arrays)
    except OSError as error:
        logging.info("no cache at %s: %s", file, error)
        return False
    return True
