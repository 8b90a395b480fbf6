"""Files as read-only memory maps, and where the members of an uncompressed zip archive lie in them."""

import mmap
import struct
import zipfile

import numpy as np

LOCAL_HEADER = struct.Struct("<4s22xHH")


def map_file(path) -> mmap.mmap:
    """A read-only map, alive as long as any array that looks into it.

    Raises ValueError for a file that is empty or cannot be opened.
    """
    try:
        with open(path, "rb") as file:
            return mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
    except OSError as error:
        raise ValueError(error.strerror) from error


def view(mapped: mmap.mmap, start: int, size: int) -> np.ndarray:
    """`size` bytes from `start` as uint8, not copied. Raises ValueError when they are not all in the file."""
    if not 0 <= start <= start + size <= len(mapped):
        raise ValueError(f"bytes {start} to {start + size} lie outside the file, which has {len(mapped)}")
    return np.frombuffer(mapped, np.uint8, size, start)


def zip_members(path, mapped: mmap.mmap) -> dict[str, tuple[int, int]]:
    """(start, size) of every member by name. Raises ValueError when the archive is broken or compressed."""
    return {info.filename: _locate(info, mapped) for info in zip_infos(path)}


def zip_infos(path) -> list[zipfile.ZipInfo]:
    """What the archive says of its members. Raises ValueError when it is broken."""
    try:
        with zipfile.ZipFile(path) as archive:
            return archive.infolist()
    # zipfile lets these escape on damaged archives, a RuntimeError for features that it does not know.
    except (zipfile.BadZipFile, struct.error, RuntimeError, OverflowError, OSError) as error:
        raise ValueError(f"damaged zip archive ({error})") from error


def _locate(info, mapped):
    if info.compress_type != zipfile.ZIP_STORED or info.flag_bits & 1 or info.compress_size != info.file_size:
        raise ValueError(f"its member {info.filename!r} is compressed or encrypted")
    header = view(mapped, info.header_offset, LOCAL_HEADER.size).tobytes()
    signature, name_length, extra_length = LOCAL_HEADER.unpack(header)
    if signature != b"PK\3\4":
        raise ValueError(f"its member {info.filename!r} is not where the archive says")
    start = info.header_offset + LOCAL_HEADER.size + name_length + extra_length
    view(mapped, start, info.file_size)
    return start, info.file_size
