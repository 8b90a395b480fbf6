"""Write and read one exit of a network: the backbone up to its stage, and the exit's own part."""

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import traverse_util

from seed_jax import models
from seed_jax.errors import UserError
from seed_jax.models.exits import Exit
from seed_jax.models.network import Joined
from seed_jax.models.sections import Cut
from seed_jax.weights import array_files, recognition, saving
from seed_jax.weights import naming as naming_lib
from seed_jax.weights.families import NAMINGS
from seed_jax.weights.naming import Naming
from seed_jax.weights.recognition import Recognised

FIELDS = ("stage", "strides", "width", "num_classes", "form")  # of the part, in the metadata


class Early(NamedTuple):
    """A network that ends at an exit; `pooled` and `logits` are the exit's.

    `network`: in eval mode alone. `variables`: float32 arrays. `recognised`: of the whole backbone.
    """

    network: Cut
    variables: dict
    recognised: Recognised


def cut(run_network: Joined, number: int, where: str = "exit") -> Cut:
    """The network that ends at an exit, numbered from 1; `where`: what messages call the number.

    Raises:
      UserError: the network has no such exit.
    """
    part = run_network.parts.get(f"exit{number}")
    if part is None:
        known = [name.removeprefix("exit") for name in run_network.parts if name.startswith("exit")]
        if not known:
            raise UserError(f"{where} is {number}, and the network has no exits: use a run of byot.")
        raise UserError(
            f"{where} is {number}, and the network has the exits {', '.join(known)}: use one, or leave "
            "it out for the deepest."
        )
    return _cut(run_network.backbone, part)


def write(
    run, recognised: Recognised, path: str | os.PathLike, number: int, names: str, facts: Mapping, where: str
) -> None:
    """Write an exit of a `workdir.Run`. Its part has our names, such as `exit1.conv1.weight`.

    Args:
      recognised: of the backbone.
      path: the `.safetensors` file to write.
      number: of the exit, from 1.
      names: of the backbone's tensors, as for `saving.save`, but none of a training file.
      facts: the provenance.
      where: what messages call `number`.

    Raises:
      UserError: the network has no such exit, or no such names, or the file cannot be written.
    """
    network = cut(run.network, number, where)
    offered = saving.offered(recognised, run.variables)
    namings = {name: naming for name, (naming, prefix) in offered.items() if not prefix}
    if names not in namings:
        raise UserError(
            f"{recognised.arch}'s exits cannot be written under names {names!r}: choose from "
            f"{', '.join(namings) or 'another network, since no code base that we know has this one'}."
        )
    sample = jax.ShapeDtypeStruct((1, recognised.size, recognised.size, 3), jnp.float32)
    shapes = traverse_util.flatten_dict(jax.eval_shape(network.init, jax.random.key(0), sample), sep="/")
    arrays = traverse_util.flatten_dict(run.variables, sep="/")
    arrays = {name.partition("/")[2]: np.asarray(arrays[name], np.float32) for name in shapes}
    tensors = {
        _name(namings[names], leaf, arrays): naming_lib.to_torch(namings[names], leaf, array)
        for leaf, array in arrays.items()
    }
    part = run.network.parts[f"exit{number}"]
    metadata = saving.metadata(recognised, {}, names, facts)
    metadata["exit"] = json.dumps({field: getattr(part, field) for field in FIELDS})
    array_files.write_safetensors(Path(path), tensors, metadata)


def holds(path: Path) -> bool:
    """Whether a file is one that `write` wrote."""
    return path.suffix == ".safetensors" and "exit" in array_files.safetensors_metadata(path)


def read(path: Path, *, precision: str = "fp32", size: int = 0, **options) -> Early:
    """Read what `write` wrote.

    Args:
      precision, options: of `models.create`; they replace the file's.
      size: the network resizes images of another side to this one, pixels; 0: it takes them as they are.

    Raises:
      UserError: the file is damaged.
    """
    metadata, tensors = array_files.safetensors_metadata(path), array_files.read_safetensors(path)
    try:
        arch, names = metadata["arch"], metadata["names"]
        family = type(models.create(arch).module).__module__.rpartition(".")[2]
        recognised = recognition.with_metadata(path, metadata, Recognised(family, arch, {}, None, names))
        settings = {"mean": recognised.mean, "std": recognised.std, **recognised.options, **options}
        backbone = models.create(arch, size=size or None, precision=precision, **settings)
        fields = json.loads(metadata["exit"])
        fields["strides"] = tuple(fields["strides"])
        network = _cut(backbone, Exit(**fields, dtype=models.DTYPES[precision]))
        (naming,) = (naming for naming in NAMINGS if (naming.family, naming.name) == (family, names))
    except (KeyError, ValueError, TypeError) as error:
        raise UserError(f"{path} has damaged metadata ({error!r}): export it again.") from error
    sample = jax.ShapeDtypeStruct((1, recognised.size, recognised.size, 3), jnp.float32)
    shapes = traverse_util.flatten_dict(jax.eval_shape(network.init, jax.random.key(0), sample), sep="/")
    leaves = [name.partition("/")[2] for name in shapes]
    arrays = {}
    for (name, shape), leaf in zip(shapes.items(), leaves, strict=True):
        tensor = tensors.get(_name(naming, leaf, leaves))
        array = None if tensor is None else naming_lib.from_torch(naming, leaf, tensor, len(shape.shape))
        if array is None or array.shape != shape.shape or not np.isfinite(array).all():
            raise UserError(f"{path} has no {leaf} of shape {list(shape.shape)}: export it again.")
        arrays[name] = np.array(array, np.float32, order="C")
    return Early(network, traverse_util.unflatten_dict(arrays, sep="/"), recognised)


def _cut(backbone, part: Exit) -> Cut:
    name = f"exit{part.stage}"
    ends = {"pooled": f"{name}_pooled", "logits": f"{name}_logits"}
    return Cut(backbone, {name: part}, ends=ends)


def _name(naming: Naming, leaf: str, leaves) -> str:
    """The tensor name of a leaf of the backbone or of the exit."""
    if leaf.startswith("backbone/"):
        return naming.to_torch(leaf, leaves)
    module, _, last = leaf.rpartition("/")
    return naming_lib.tensor_name(module.replace("/", "."), last)
