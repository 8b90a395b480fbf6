"""Map files into memory, read-only, and locate the members of uncompressed zip archives in them."""

import mmap
import struct
import zipfile

import numpy as np

LOCAL_HEADER = struct.Struct("<4s22xHH")


def map_file(path) -> mmap.mmap:
    """Return a read-only memory map of the file. Every array viewing the map keeps it open.

    Raises:
      ValueError: the file is empty or cannot be opened.
    """
    try:
        with open(path, "rb") as file:
            return mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
    except OSError as error:
        raise ValueError(error.strerror) from error


def view(mapped: mmap.mmap, start: int, size: int) -> np.ndarray:
    """Return `size` bytes from byte `start` as uint8, without a copy.

    Raises:
      ValueError: the file does not have all these bytes.
    """
    if not 0 <= start <= start + size <= len(mapped):
        raise ValueError(f"bytes {start} to {start + size} are outside the file of {len(mapped)} bytes")
    return np.frombuffer(mapped, np.uint8, size, start)


def zip_members(path, mapped: mmap.mmap) -> dict[str, tuple[int, int]]:
    """Return (start, size) of every member in bytes, by name.

    Raises:
      ValueError: the archive is damaged or compressed.
    """
    return {info.filename: _locate(info, mapped) for info in zip_infos(path)}


def zip_infos(path) -> list[zipfile.ZipInfo]:
    """Return the entries of the archive's directory.

    Raises:
      ValueError: the archive is damaged.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            return archive.infolist()
    # zipfile raises all of these on damaged archives; RuntimeError for features that it does not support.
    except (zipfile.BadZipFile, struct.error, RuntimeError, OverflowError, OSError) as error:
        raise ValueError(f"damaged zip archive ({error})") from error


def _locate(info, mapped):
    if info.compress_type != zipfile.ZIP_STORED or info.flag_bits & 1 or info.compress_size != info.file_size:
        raise ValueError(f"the archive's member {info.filename!r} is compressed or encrypted")
    header = view(mapped, info.header_offset, LOCAL_HEADER.size).tobytes()
    signature, name_length, extra_length = LOCAL_HEADER.unpack(header)
    if signature != b"PK\3\4":
        raise ValueError(f"the archive's member {info.filename!r} is not where its directory says")
    start = info.header_offset + LOCAL_HEADER.size + name_length + extra_length
    view(mapped, start, info.file_size)
    return start, info.file_size
