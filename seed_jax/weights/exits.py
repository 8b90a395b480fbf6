"""Write and read a network with its exits, or one of them: the backbone up to its stage and its own part."""

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
from seed_jax.models.exits import Ensemble, Exit
from seed_jax.models.heads import Classifier
from seed_jax.models.network import Joined
from seed_jax.models.sections import Cut
from seed_jax.weights import array_files, recognition, saving
from seed_jax.weights import naming as naming_lib
from seed_jax.weights.families import NAMINGS
from seed_jax.weights.naming import Naming
from seed_jax.weights.recognition import Recognised

ALL = "all"
FIELDS = ("stage", "strides", "width", "num_classes", "form")  # of an exit, in the metadata


class Loaded(NamedTuple):
    """What `read` returns.

    Attributes:
      network: a `Joined` with all exits; or a `Cut`, in eval mode alone, whose `pooled` and `logits` are
        those of its exit.
      variables: float32 arrays.
      recognised: of the whole backbone.
    """

    network: Joined
    variables: dict
    recognised: Recognised


def write(
    run,
    recognised: Recognised,
    path: str | os.PathLike,
    at_exit: int | str,
    names: str,
    facts: Mapping,
    where: str,
) -> None:
    """Write a `workdir.Run` with one exit or all. An exit's part has our names, such as `exit1.conv1.weight`.

    Args:
      recognised: of the backbone.
      path: the `.safetensors` file to write.
      at_exit: the number of one exit, from 1, or 'all'.
      names: of the other tensors, as for `saving.save`, but none of a training file.
      facts: the provenance.
      where: what messages call `at_exit`.

    Raises:
      UserError: the network has no such exit, or no such names, or the file cannot be written.
    """
    parts = {name: part for name, part in run.network.parts.items() if isinstance(part, Exit)}
    known = ", ".join(name.removeprefix("exit") for name in parts)
    if not parts:
        raise UserError(f"{where} is {at_exit}, and the network has no exits: use a run of byot.")
    if at_exit != ALL and f"exit{at_exit}" not in parts:
        raise UserError(
            f"{where} is {at_exit}, and the network has the exits {known}: use one, 'all', or leave it out "
            "for the deepest."
        )
    kept = [*parts.values()] if at_exit == ALL else [parts[f"exit{at_exit}"]]
    network = run.network if at_exit == ALL else _cut(run.network.backbone, *kept)
    offered = saving.offered(recognised, run.variables)
    namings = {name: naming for name, (naming, prefix) in offered.items() if not prefix}
    if names not in namings:
        raise UserError(
            f"{recognised.arch}'s exits cannot be written under names {names!r}: choose from "
            f"{', '.join(namings) or 'another network, since we have no names of others for this one'}."
        )
    sample = jax.ShapeDtypeStruct((1, recognised.size, recognised.size, 3), jnp.float32)
    shapes = traverse_util.flatten_dict(jax.eval_shape(network.init, jax.random.key(0), sample), sep="/")
    arrays = traverse_util.flatten_dict(run.variables, sep="/")
    arrays = {name.partition("/")[2]: np.asarray(arrays[name], np.float32) for name in shapes}
    tensors = {
        _name(namings[names], leaf, arrays): naming_lib.to_torch(namings[names], leaf, array)
        for leaf, array in arrays.items()
    }
    metadata = saving.metadata(recognised, {}, names, facts)
    fields = [{field: getattr(part, field) for field in FIELDS} for part in kept]
    metadata |= {"exits": json.dumps(fields)} if at_exit == ALL else {"exit": json.dumps(*fields)}
    array_files.write_safetensors(Path(path), tensors, metadata)


def holds(path: Path) -> bool:
    """Whether a file is one that `write` wrote."""
    return path.suffix == ".safetensors" and not array_files.safetensors_metadata(path).keys().isdisjoint(
        ("exit", "exits")
    )


def read(path: Path, *, precision: str = "fp32", size: int = 0, **options) -> Loaded:
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
        dtype = models.DTYPES[precision]
        if "exits" in metadata:
            parts = [_part(fields, dtype) for fields in json.loads(metadata["exits"])]
            last = {"classifier": Classifier(parts[0].num_classes), "ensemble": Ensemble()}
            network = Joined(backbone, {f"exit{part.stage}": part for part in parts} | last)
        else:
            network = _cut(backbone, _part(json.loads(metadata["exit"]), dtype))
        (naming,) = (naming for naming in NAMINGS if (naming.family, naming.name) == (family, names))
    except (KeyError, ValueError, TypeError, IndexError) as error:
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
    return Loaded(network, traverse_util.unflatten_dict(arrays, sep="/"), recognised)


def _part(fields, dtype) -> Exit:
    return Exit(**fields | {"strides": tuple(fields["strides"])}, dtype=dtype)


def _cut(backbone, part: Exit) -> Cut:
    name = f"exit{part.stage}"
    ends = {"pooled": f"{name}_pooled", "logits": f"{name}_logits"}
    return Cut(backbone, {name: part}, ends=ends)


def _name(naming: Naming, leaf: str, leaves) -> str:
    """The tensor name of a leaf of the backbone, of the deepest classifier or of an exit."""
    leaf = saving.CLASSIFIER.sub("backbone/fc/", leaf)
    if leaf.startswith("backbone/"):
        return naming.to_torch(leaf, leaves)
    module, _, last = leaf.rpartition("/")
    return naming_lib.tensor_name(module.replace("/", "."), last)
