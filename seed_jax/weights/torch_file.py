"""Read PyTorch's `.pth` files without PyTorch: the zip archive of torch>=1.6 and the older stream format.

Formats: pytorch/pytorch torch/serialization.py (`_save`, `_legacy_save`) and torch/_utils.py.
"""

import dataclasses
import io
import math
import os
from typing import Any

import ml_dtypes
import numpy as np

from seed_jax.data import inert_pickle
from seed_jax.data.inert_pickle import Placeholder
from seed_jax.errors import UserError
from seed_jax.weights import mapped

MAGIC = 0x1950A86A20F9469CFC6C
PROTOCOL = 1001
MAX_DIMENSIONS = 16
WRAPPERS = ("state_dict", "model", "resnet")
PAIR = ("student", "teacher")


@dataclasses.dataclass
class Storage:
    """A flat array: dtype and length from the pickle, and `data`, its uint8 bytes in the file, set later.

    A dtype that we do not read is a `Placeholder`.
    """

    dtype: np.dtype | Placeholder
    numel: int
    data: np.ndarray | None = None


@dataclasses.dataclass(frozen=True)
class Tensor:
    """A strided view of a storage; offset and strides are in elements."""

    storage: Storage
    offset: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]

    def numpy(self) -> np.ndarray:
        dtype = self.storage.dtype
        if 0 in self.shape:
            return np.empty(self.shape, dtype)
        strides = [stride * dtype.itemsize for stride in self.strides]
        return np.ndarray(self.shape, dtype, self.storage.data, self.offset * dtype.itemsize, strides)


def read(path) -> dict[str, np.ndarray]:
    """Return the tensors of a state dict by name, as read-only views of the mapped file.

    The state dict is the file's top-level dict, or the dict in it under one of `WRAPPERS`. If the file has
    dicts under `student` and `teacher`, both are read, with `student.` and `teacher.` before the names.
    bfloat16 becomes `ml_dtypes.bfloat16`. A dict may be of a subclass such as `defaultdict`. Everything else
    in the file is skipped: optimizers, options, NumPy scalars, objects of any class. Nothing in the file is
    imported or called, and nothing is allocated for sizes that the file only claims.

    Raises:
      UserError: the file is damaged or has no state dict, or a tensor of the state dict is of a kind that is
        not supported, e.g. complex, quantised or sparse.
    """
    try:
        file = mapped.map_file(path)
        tree = _read_zip(path, file) if file[:4] == b"PK\3\4" else _read_legacy(file)
        return {name: tensor.numpy() for name, tensor in _state_dict(tree).items()}
    except ValueError as error:
        raise UserError(
            f"{path} cannot be read as PyTorch weights ({error}): use an intact file with a state dict."
        ) from error


def _read_zip(path, file):
    if any("/code/__torch__" in info.filename for info in mapped.zip_infos(path)):
        raise UserError(
            f"{path} is a TorchScript archive, which contains code, as OpenAI's CLIP files do: where PyTorch "
            "is installed, save its weights with "
            f"torch.save(torch.jit.load({os.fspath(path)!r}, 'cpu').state_dict(), 'weights.pth')."
        )
    members = mapped.zip_members(path, file)
    roots = [name.removesuffix("data.pkl") for name in members if name.endswith("/data.pkl")]
    if len(roots) != 1:
        raise ValueError("the zip archive has no data.pkl")
    root = roots[0]

    def content(name):
        return mapped.view(file, *members[root + name])

    order = content("byteorder").tobytes() if root + "byteorder" in members else b"little"
    if order != b"little":
        raise ValueError(f"its byte order is {order!r}, not little")
    storages = {}
    tree = _unpickle(io.BytesIO(content("data.pkl").tobytes()), storages)
    for key, storage in storages.items():
        if f"{root}data/{key}" not in members:
            raise ValueError(f"storage {key!r} is missing")
        if isinstance(storage.dtype, Placeholder):
            continue
        storage.data = content(f"data/{key}")
        if len(storage.data) != storage.numel * storage.dtype.itemsize:
            raise ValueError(f"storage {key!r} is {len(storage.data)} bytes, not {storage.numel} elements")
    return tree


def _read_legacy(file):
    if MAGIC.to_bytes(10, "little") not in file[:32]:
        raise ValueError("it is neither a zip archive nor in torch's older format")
    if _unpickle(file, {}) != MAGIC or _unpickle(file, {}) != PROTOCOL:
        raise ValueError("its format version is unknown")
    system = _unpickle(file, {})
    if not isinstance(system, dict) or system.get("little_endian") is not True:
        raise ValueError("its byte order is not little")
    storages = {}
    tree = _unpickle(file, storages)
    order = _unpickle(file, {})
    if not isinstance(order, list) or not all(isinstance(key, str) for key in order):
        raise ValueError("the list of storages is damaged")
    if sorted(order) != sorted(storages):
        raise ValueError("the listed storages differ from those in use")
    position = file.tell()
    for storage in (storages[key] for key in order):
        if isinstance(storage.dtype, Placeholder):
            raise ValueError(f"it has a {storage.dtype}, whose size in bytes is unknown")
        numel = int(mapped.view(file, position, 8).view("<i8")[0])
        if numel != storage.numel:
            raise ValueError(f"a storage has {numel} elements, not the {storage.numel} that its tensors need")
        storage.data = mapped.view(file, position + 8, numel * storage.dtype.itemsize)
        position += 8 + len(storage.data)
    return tree


def _unpickle(stream, storages):
    """Return the next pickled object, and add the storages that it names to `storages`, by key."""

    def persistent(identity):
        if type(identity) is tuple and identity[:1] == ("module",):
            return identity[1]  # the older format stores the source code of a module's class with it
        kind, dtype, key, _location, numel, *view = identity
        if kind != "storage" or not isinstance(dtype, np.dtype | Placeholder) or not isinstance(key, str):
            raise ValueError("it refers to an object that is not a storage")
        if not _is_count(numel) or view not in ([], [None]):
            raise ValueError(f"storage {key!r} has an invalid size, or is a view as in torch before 0.4")
        storage = storages.setdefault(key, Storage(dtype, numel))
        if (storage.dtype, storage.numel) != (dtype, numel):
            raise ValueError(f"storage {key!r} has two sizes or dtypes")
        return storage

    return inert_pickle.load(stream, KNOWN, persistent)


def _rebuild_tensor(storage, offset, shape, strides, *_unused):
    counts = (offset, *shape, *strides)
    if not isinstance(storage, Storage) or not all(map(_is_count, counts)) or len(shape) != len(strides):
        raise ValueError("a tensor's shape is invalid")
    # A stride of 0 could claim any number of elements, so their number is bounded too.
    last = offset + sum((size - 1) * stride for size, stride in zip(shape, strides, strict=True))
    if len(shape) > MAX_DIMENSIONS or math.prod(shape) > storage.numel:
        raise ValueError(f"a tensor of shape {shape} is larger than its storage")
    if 0 not in shape and last >= storage.numel:
        raise ValueError(f"a tensor of shape {shape} reaches beyond its storage")
    return Tensor(storage, offset, tuple(shape), tuple(strides))


def _is_count(x: Any) -> bool:
    return type(x) is int and 0 <= x < 2**62


def _first(value, *_unused):
    return value


def _of_subclass(function, _class, args, _state):
    """A tensor of a subclass or with further attributes; read if it is stored as plain tensors are."""
    if function is _rebuild_tensor and type(args) is tuple:
        return _rebuild_tensor(*args)
    return Placeholder("torch._tensor", "_rebuild_from_type_v2")


DTYPES = {
    "float32 Float": np.float32,
    "float16 Half": np.float16,
    "bfloat16 BFloat16": ml_dtypes.bfloat16,
    "float64 Double": np.float64,
    "int64 Long": np.int64,
    "int32 Int": np.int32,
    "int16 Short": np.int16,
    "int8 Char": np.int8,
    "uint8 Byte": np.uint8,
    "bool Bool": np.bool_,
    "complex64 ComplexFloat": np.complex64,
    "complex128 ComplexDouble": np.complex128,
}
KNOWN = {
    ("torch", "Size"): _first,
    ("torch._utils", "_rebuild_tensor"): _rebuild_tensor,
    ("torch._utils", "_rebuild_tensor_v2"): _rebuild_tensor,
    ("torch._utils", "_rebuild_parameter"): _first,
    ("torch._utils", "_rebuild_parameter_with_state"): _first,
    ("torch._tensor", "_rebuild_from_type_v2"): _of_subclass,
    **{("torch", names.split()[0]): np.dtype(dtype) for names, dtype in DTYPES.items()},
    **{("torch", f"{names.split()[1]}Storage"): np.dtype(dtype) for names, dtype in DTYPES.items()},
}


def _state_dict(tree) -> dict[str, Tensor]:
    top = inert_pickle.entries(tree)
    both = {f"{role}.{name}": tensor for role in PAIR for name, tensor in _tensors(top.get(role)).items()}
    for tensors in (*(_tensors(top.get(wrapper)) for wrapper in WRAPPERS), both, _tensors(tree)):
        if tensors:
            return {name: _readable(name, tensor) for name, tensor in tensors.items()}
    for value in (tree, *map(top.get, WRAPPERS + PAIR)):
        if isinstance(value, Placeholder) and not inert_pickle.entries(value):
            raise ValueError(f"it has an object of the class {value} instead of a state dict")
    raise ValueError(
        f"it has no dict of tensors at the top level or under {', '.join(map(repr, WRAPPERS + PAIR))}"
    )


def _tensors(value) -> dict[str, Tensor | Placeholder]:
    """The tensors in a dict, also those of kinds that we do not read."""
    entries = {key: entry for key, entry in inert_pickle.entries(value).items() if isinstance(key, str)}
    return {key: entry for key, entry in entries.items() if isinstance(entry, Tensor) or _is_rebuilt(entry)}


def _is_rebuilt(value) -> bool:
    """Whether the object is a tensor of another kind; torch rebuilds all tensors with functions so named."""
    return isinstance(value, Placeholder) and value.name.startswith("_rebuild_")


def _readable(name, tensor) -> Tensor:
    kind = tensor.storage.dtype if isinstance(tensor, Tensor) else tensor
    if isinstance(kind, Placeholder) or kind.kind == "c":
        raise ValueError(f"its tensor {name} is a {kind}, which is not supported")
    return tensor
