"""Safetensors and uncompressed `.npz` files as views of the mapped file; and safetensors written."""

import json
import math
import re
from collections.abc import Mapping
from pathlib import Path

import ml_dtypes
import numpy as np

from seed_jax.data import files
from seed_jax.errors import UserError
from seed_jax.weights import mapped

SAFETENSORS = {
    "F64": np.float64,
    "F32": np.float32,
    "F16": np.float16,
    "BF16": ml_dtypes.bfloat16,
    "I64": np.int64,
    "I32": np.int32,
    "I16": np.int16,
    "I8": np.int8,
    "U8": np.uint8,
    "BOOL": np.bool_,
}
NPY_HEADER = re.compile(
    r"\{'descr': '(<f[248]|<i[48])', 'fortran_order': (True|False), 'shape': \(([\d, ]*)\), \} *\n"
)


def read_safetensors(path) -> dict[str, np.ndarray]:
    """The tensors by name, read-only. Raises UserError for a broken file.

    Format: github.com/huggingface/safetensors, README: header length (uint64), JSON header, data.
    """
    try:
        file, header, origin = _header(path)
        entries = {name: entry for name, entry in header.items() if name != "__metadata__"}
        return {name: _safetensor(file, origin, **entry) for name, entry in entries.items()}
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise UserError(f"{path} is not a safetensors file that can be read: {error}.") from error


def safetensors_metadata(path) -> dict[str, str]:
    """What the file says of itself. Raises UserError for a broken file."""
    try:
        metadata = _header(path)[1].get("__metadata__", {})
        return {key: value for key, value in metadata.items() if isinstance(value, str)}
    except (ValueError, AttributeError, RecursionError) as error:
        raise UserError(f"{path} is not a safetensors file that can be read: {error}.") from error


def write_safetensors(path: Path, tensors: Mapping[str, np.ndarray], metadata: Mapping[str, str]) -> None:
    """Write float32 tensors atomically: the file is there whole or not at all.

    Raises UserError when it cannot be written.
    """
    if path.suffix != ".safetensors":
        raise UserError(f"{path} must end in .safetensors.")
    header, offset = {"__metadata__": dict(metadata)}, 0
    for name, tensor in tensors.items():
        size = tensor.size * 4
        header[name] = {"dtype": "F32", "shape": tensor.shape, "data_offsets": [offset, offset + size]}
        offset += size
    head = json.dumps(header).encode()
    head += b" " * (-len(head) % 8)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with files.whole(path) as file:
            file.write(len(head).to_bytes(8, "little") + head)
            for tensor in tensors.values():
                file.write(np.ascontiguousarray(tensor, "<f4").data)
    except OSError as error:
        raise UserError(f"{path} cannot be written ({error.strerror}): give another path.") from error


def _header(path):
    file = mapped.map_file(path)
    length = int(mapped.view(file, 0, 8).view("<u8")[0])
    return file, json.loads(mapped.view(file, 8, length).tobytes()), 8 + length


def _safetensor(file, origin, *, dtype, shape, data_offsets):
    start, stop = data_offsets
    dtype = np.dtype(SAFETENSORS[dtype])
    if not all(type(x) is int and x >= 0 for x in (*shape, start, stop)):
        raise ValueError("negative sizes")
    if stop - start != math.prod(shape) * dtype.itemsize:
        raise ValueError(f"shape {shape} does not fit its {stop - start} bytes")
    return mapped.view(file, origin + start, stop - start).view(dtype).reshape(shape)


def read_npz(path) -> dict[str, np.ndarray]:
    """The arrays by name, read-only, of a file that `np.savez` wrote.

    Raises UserError for a broken or compressed file. Format: numpy.lib.format, versions 1 and 2.
    """
    try:
        file = mapped.map_file(path)
        members = mapped.zip_members(path, file)
        return {name.removesuffix(".npy"): _npy(mapped.view(file, *place)) for name, place in members.items()}
    except ValueError as error:
        raise UserError(
            f"{path} is not an .npz file that can be read: {error}; write it by np.savez."
        ) from error


def _npy(data):
    if len(data) < 12 or data[:6].tobytes() != b"\x93NUMPY" or data[6] not in (1, 2):
        raise ValueError("a member is not an .npy array")
    begin = 10 if data[6] == 1 else 12
    end = begin + int.from_bytes(data[8:begin].tobytes(), "little")
    match = NPY_HEADER.fullmatch(data[begin:end].tobytes().decode("latin1"))
    if match is None:
        raise ValueError("an array is not of real numbers, or not little-endian")
    dtype = np.dtype(match[1])
    shape = [int(size) for size in match[3].split(",") if size.strip()]
    if len(data) - end != math.prod(shape) * dtype.itemsize:
        raise ValueError(f"an array of shape {shape} has {len(data) - end} bytes")
    return data[end:].view(dtype).reshape(shape, order="F" if match[2] == "True" else "C")
