"""Read safetensors and uncompressed `.npz` files as views of the mapped file; write safetensors."""

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
    """Return the tensors by name, as read-only views of the mapped file.

    BF16 becomes `ml_dtypes.bfloat16`. Format: github.com/huggingface/safetensors, README: header length
    (uint64), JSON header, data.

    Raises:
      UserError: the file is damaged, or has tensors of a dtype that `SAFETENSORS` lacks.
    """
    try:
        file, header, origin = _header(path)
        entries = {name: entry for name, entry in header.items() if name != "__metadata__"}
        return {name: _safetensor(file, origin, **entry) for name, entry in entries.items()}
    except (ValueError, TypeError, AttributeError, RecursionError) as error:
        raise _unreadable(path, error) from error


def safetensors_metadata(path) -> dict[str, str]:
    """Return the file's metadata: the strings under `__metadata__` in its header.

    Raises:
      UserError: the file is damaged.
    """
    try:
        metadata = _header(path)[1].get("__metadata__", {})
        return {key: value for key, value in metadata.items() if isinstance(value, str)}
    except (ValueError, AttributeError, RecursionError) as error:
        raise _unreadable(path, error) from error


def _unreadable(path, error):
    return UserError(f"{path} cannot be read as a safetensors file ({error}): use an intact file.")


def write_safetensors(path: Path, tensors: Mapping[str, np.ndarray], metadata: Mapping[str, str]) -> None:
    """Write tensors of any real dtype as float32. A failed write leaves no file.

    Raises:
      UserError: the file cannot be written, or its name does not end in `.safetensors`.
    """
    if path.suffix != ".safetensors":
        raise UserError(f"the output {path} must end in .safetensors: rename it.")
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
        raise UserError(f"{path} cannot be written ({error.strerror}): choose another path.") from error


def _header(path):
    file = mapped.map_file(path)
    length = int(mapped.view(file, 0, 8).view("<u8")[0])
    return file, json.loads(mapped.view(file, 8, length).tobytes()), 8 + length


def _safetensor(file, origin, *, dtype, shape, data_offsets):
    start, stop = data_offsets
    if dtype not in SAFETENSORS:
        raise ValueError(f"a tensor has the unsupported dtype {dtype!r}")
    dtype = np.dtype(SAFETENSORS[dtype])
    if not all(type(x) is int and x >= 0 for x in (*shape, start, stop)):
        raise ValueError(f"a tensor has the shape {shape} and the offsets {data_offsets}")
    if stop - start != math.prod(shape) * dtype.itemsize:
        raise ValueError(f"a tensor of shape {shape} has {stop - start} bytes")
    return mapped.view(file, origin + start, stop - start).view(dtype).reshape(shape)


def read_npz(path) -> dict[str, np.ndarray]:
    """Return the arrays of a file written by `np.savez`, by name, as read-only views of the mapped file.

    Supported dtypes, all little-endian: float16, float32, float64, int32 and int64. Format: numpy.lib.format,
    versions 1 and 2. `np.load` would allocate whatever size a header claims before it reads the array;
    here the size must match the bytes in the file.

    Raises:
      UserError: the file is damaged or compressed, or has arrays of other dtypes.
    """
    try:
        file = mapped.map_file(path)
        members = mapped.zip_members(path, file)
        return {name.removesuffix(".npy"): _npy(mapped.view(file, *span)) for name, span in members.items()}
    except ValueError as error:
        raise UserError(
            f"{path} cannot be read as an .npz file ({error}): write it with np.savez."
        ) from error


def _npy(data):
    if len(data) < 12 or data[:6].tobytes() != b"\x93NUMPY" or data[6] not in (1, 2):
        raise ValueError("a member is not an .npy array")
    start = 10 if data[6] == 1 else 12
    stop = start + int.from_bytes(data[8:start].tobytes(), "little")
    match = NPY_HEADER.fullmatch(data[start:stop].tobytes().decode("latin1"))
    if match is None:
        raise ValueError("an array does not contain real numbers, or is not little-endian")
    dtype = np.dtype(match[1])
    shape = [int(size) for size in match[3].split(",") if size.strip()]
    if len(data) - stop != math.prod(shape) * dtype.itemsize:
        raise ValueError(f"an array of shape {shape} has {len(data) - stop} bytes")
    return data[stop:].view(dtype).reshape(shape, order="F" if match[2] == "True" else "C")
