"""Files of official archives, compressed or unpacked."""

import functools
import gzip
import os
import posixpath
import tarfile
import zlib
from collections.abc import Callable, Collection

from etils import epath

from seed_jax.data.sources.base import open_file
from seed_jax.errors import UserError

LARGEST = 2**30  # bytes; the largest file that is read whole is CIFAR-100's train, of 155 MB
BROKEN = (gzip.BadGzipFile, tarfile.TarError, zlib.error, EOFError, ValueError)


def damaged(file: str, reason) -> UserError:
    """The error for a file of an archive that is cut short, damaged or something else."""
    return UserError(f"data.dir: {file} is damaged or no such file ({reason}): download or unpack it again.")


def contents(place: str, wanted: Collection[str]) -> dict[str, bytes]:
    """The wanted files of a folder or of a .tar.gz, by name; those that are not there are left out.

    Args:
      wanted: names of files directly in the folder, or in any folder of the archive.

    Raises:
      UserError: the archive is cut short or damaged, or a wanted file has more than 1 GB.
    """
    if epath.Path(place).is_dir():
        present = [entry.name for entry in epath.Path(place).iterdir() if entry.name in wanted]
        files = ((name, os.path.join(place, name)) for name in present)
        return {name: _whole(path) for name, path in files if epath.Path(path).is_file()}
    found = {}
    try:
        with open_file(place) as file, gzip.open(file) as stream:
            with tarfile.open(fileobj=stream, mode="r|") as tar:
                for member in tar:
                    name = posixpath.basename(member.name)
                    if not member.isreg() or name not in wanted:
                        continue
                    if member.size > LARGEST:
                        raise damaged(place, f"{name} in it has {member.size:,} bytes")
                    found[name] = tar.extractfile(member).read()
            while stream.read(2**20):  # what follows the last file: the checksum is at the end
                pass
    except BROKEN as error:
        raise damaged(place, error) from None
    return found


def read_gz(path: str, most: int) -> bytes:
    """The first `most` bytes of a file, decompressed if its name ends in .gz.

    Raises:
      UserError: a compressed file is cut short or damaged.
    """
    with open_file(path) as file:
        if not path.endswith(".gz"):
            return file.read(most)
        try:
            with gzip.open(file) as stream:
                return stream.read(most)
        except BROKEN as error:
            raise damaged(path, error) from None


def kept(read: Callable[[str], object]) -> Callable[[str], object]:
    """Decorate `read(place) -> source` to return its last source again while no file has changed.

    A run opens its data once for each split, and so they share the images.
    """
    last = {}

    @functools.wraps(read)
    def read_once(place: str):
        state = _state(place)
        if state is None:
            return read(place)
        if last.get("state") != state:
            last.clear()
            last.update(source=read(place), state=state)
        return last["source"]

    return read_once


def _whole(path: str) -> bytes:
    with open_file(path) as file:
        content = file.read(LARGEST + 1)
    if len(content) > LARGEST:
        raise damaged(path, f"it has more than {LARGEST:,} bytes")
    return content


def _state(place: str):
    """Sizes and times of all files in a local folder, or in the folder of a file; None if not known."""
    folder = place if os.path.isdir(place) else os.path.dirname(os.path.abspath(place))
    try:
        with os.scandir(folder) as entries:
            stats = [(entry.name, entry.stat()) for entry in entries]
    except OSError:
        return None
    return place, sorted((name, stat.st_size, stat.st_mtime_ns) for name, stat in stats)
