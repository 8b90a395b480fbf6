"""From a weights file to a network's variables, every leaf accounted for."""

import dataclasses
import hashlib
import os
import re

import jax
import jax.numpy as jnp
import numpy as np
from flax import traverse_util

from seed_jax.errors import UserError
from seed_jax.weights import array_files, convert, torch_file

# github.com/facebookresearch/moco, README: file and the first digits of its md5.
PUBLIC_TEACHERS = {
    "moco_v2_200ep_pretrain.pth.tar": "59fd9945",
    "moco_v2_800ep_pretrain.pth.tar": "a04e12f8",
}
SHOWN = 3


@dataclasses.dataclass(frozen=True)
class Head:
    """The projection head of a file, field by field the options of `models.heads.ProjectionHead`."""

    hidden: int | None
    dim: int
    layers: int
    batch_norm: bool


@dataclasses.dataclass(frozen=True)
class Recognised:
    """What a file holds: the network `models.create(arch, **options)` and a projection head, or None.

    Shapes that fit no architecture of the family give an `arch` that says so, which `create` refuses.
    """

    family: str
    arch: str
    options: dict
    head: Head | None

    def __str__(self):
        network = ", ".join([self.arch, *(f"{key}={value}" for key, value in self.options.items())])
        if self.head is None:
            return f"{network} without a projection head"
        fields = ", ".join(f"{key}={value}" for key, value in dataclasses.asdict(self.head).items())
        return f"{network} with a projection head ({fields})"


def load(path, network, *, where: str = "teacher.weights", part: str = "student") -> dict:
    """The network's variables, float32 NumPy arrays, from a `.pth`, `.safetensors` or `.npz` file.

    Torch's OIHW becomes HWIO, its Linear is transposed, its running statistics become `batch_stats`; an
    `.npz` has our own names, such as `params/backbone/conv1/kernel`. A head or classifier that the network
    lacks is left out. `part`: which network of SEED's own files, `student` or `teacher`. `where`: the path's
    config key.

    Raises UserError for a file that is absent or broken, for leaves that are missing, unexpected or of
    another shape, and for weights that are not finite.
    """
    contents = _read(path, where, part)
    sample = jax.ShapeDtypeStruct((1, 224, 224, 3), jnp.float32)
    template = jax.eval_shape(network.init, jax.random.key(0), sample)
    wanted = {name: leaf.shape for name, leaf in traverse_util.flatten_dict(template, sep="/").items()}
    arrays = _for_network(contents.arrays, wanted)
    faults = _faults({name: array.shape for name, array in arrays.items()}, wanted, contents.unknown)
    if faults:
        raise UserError(
            f"{where}: {path} does not fit the network: {faults}. The file holds {_describe(contents)}; "
            f"configure that network or give another file."
        )
    variables = {}
    for name, array in arrays.items():
        variables[name] = np.array(array, np.float32, order="C")  # a copy: the file may change or go
        if not np.isfinite(variables[name]).all():
            raise UserError(f"{where}: {name} in {path} has NaN or infinite values; give an intact file.")
    return traverse_util.unflatten_dict(variables, sep="/")


def recognise(path, *, where: str = "teacher.weights", part: str = "student") -> Recognised:
    """Architecture and head of the file, from its names and shapes; arguments and errors as for `load`."""
    return _describe(_read(path, where, part))


def sha256(path) -> str:
    """Hex digest of the file."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _read(path, where, part) -> convert.Contents:
    path = os.fspath(path)
    if not os.path.isfile(path):
        known = " or ".join(f"{name} (md5 {md5}...)" for name, md5 in PUBLIC_TEACHERS.items())
        raise UserError(
            f"{where}: there is no file {path!r}; for MoCo v2's ResNet-50 download {known} by the links of "
            f"github.com/facebookresearch/moco, then pass --config.{where}=PATH."
        )
    if path.endswith(".npz"):
        return convert.from_own_names(path, array_files.read_npz(path))
    read = array_files.read_safetensors if path.endswith(".safetensors") else torch_file.read
    return convert.from_torch_names(path, read(path), part)


def _for_network(arrays, wanted):
    """A lone `fc` under the name that the network has for it; no head or classifier if it has none."""
    has_classifier = any(name.startswith("params/backbone/fc/") for name in wanted)
    has_head = any(name.startswith("params/head/") for name in wanted)
    fc = "backbone/fc" if has_classifier else "head/linear1"
    lone = f"params/{convert.LONE_FC}/"
    arrays = {name.replace(lone, f"params/{fc}/"): array for name, array in arrays.items()}
    return {
        name: array
        for name, array in arrays.items()
        if (has_classifier or "/backbone/fc/" not in name) and (has_head or "/head/" not in name)
    }


def _faults(found, wanted, unknown) -> str:
    groups = {
        "missing": [name for name in wanted if name not in found],
        "unexpected": [name for name in found if name not in wanted] + unknown,
        "of another shape": [
            f"{name} {found[name]} instead of {shape}"
            for name, shape in wanted.items()
            if name in found and found[name] != shape
        ],
    }
    return "; ".join(f"{len(names)} {what}: {_some(names)}" for what, names in groups.items() if names)


def _some(names):
    return ", ".join(names[:SHOWN]) + (", ..." if len(names) > SHOWN else "")


def _describe(contents) -> Recognised:
    shapes = {name: array.shape for name, array in contents.arrays.items()}
    arch, options = convert.FAMILIES[contents.family].describe(shapes)
    head, lone = _describe_head(shapes), shapes.get(f"params/{convert.LONE_FC}/kernel")
    if lone and contents.several:
        head = Head(hidden=None, dim=lone[1], layers=1, batch_norm=False)
    elif classifier := lone or shapes.get("params/backbone/fc/kernel"):
        options = options | {"num_classes": classifier[1]}
    return Recognised(contents.family, arch, options, head)


def _describe_head(shapes):
    linears = sorted(name for name in shapes if re.fullmatch(r"params/head/linear\d+/kernel", name))
    if not linears:
        return None
    hidden = shapes[linears[0]][1] if len(linears) > 1 else None
    return Head(hidden, shapes[linears[-1]][1], len(linears), "params/head/bn1/scale" in shapes)
