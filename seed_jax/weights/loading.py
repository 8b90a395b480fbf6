"""From a weights file to a network's variables, every tensor accounted for."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
from flax import traverse_util

from seed_jax.errors import UserError
from seed_jax.models.network import Joined
from seed_jax.weights import heads, naming, recognition, source
from seed_jax.weights.state_dict import StateDict

SHOWN = 3


def load(spec, network, *, where: str = "teacher.weights", part: str | None = None) -> dict:
    """The network's variables, float32 NumPy arrays in our layout.

    `spec`: a `.pth`, `.pth.tar`, `.pt`, `.safetensors` or `.npz` file (an `.npz` has our own names, such as
    `params/backbone/conv1/kernel`), the workdir of a run, or `pip:NAME` of `source.PACKAGES`. A head or
    classifier that the network lacks is left out. `part`: which network of a file that holds several,
    `student` or `teacher`; unless given, SEED's student and DINO's teacher. `where`: the config key to name.

    Raises UserError for a file that is absent or broken, for tensors that are missing, unexpected or of
    another shape, and for weights that are not finite.
    """
    path = source.find(spec, where)
    found = recognition.read(path, part)
    template = shapes(network)
    arrays, faults = match(found, naming.leaves(template))
    if faults:
        listed = "; ".join(f"{len(names)} {what}: {some(names)}" for what, names in faults.items())
        held = recognition.candidates(path, found, None)[0]
        raise UserError(
            f"{where}: {path} does not fit the network: {listed}. The file holds {held}{held.advice}; "
            "configure that network or give another file."
        )
    variables = {}
    for name in traverse_util.flatten_dict(template, sep="/"):
        # A copy: the file may change or go.
        variables[name] = np.array(arrays[name.partition("/")[2]], np.float32, order="C")
        if not np.isfinite(variables[name]).all():
            raise UserError(f"{where}: {name} in {path} has NaN or infinite values; give an intact file.")
    return traverse_util.unflatten_dict(variables, sep="/")


def shapes(network: Joined) -> dict:
    """The network's variables as shapes; equal networks are traced once a process."""
    return _shapes(network.backbone, tuple(network.parts.items()))


@functools.lru_cache(maxsize=16)
def _shapes(backbone, parts):
    return trace(Joined(backbone, dict(parts)))


def trace(network) -> dict:
    """`shapes`, found anew."""
    sample = jax.ShapeDtypeStruct((2, 224, 224, 3), jnp.float32)
    return jax.eval_shape(network.init, jax.random.key(0), sample)


def match(
    found: StateDict, leaves: dict[str, tuple[int, ...]]
) -> tuple[dict[str, np.ndarray], dict[str, list[str]]]:
    """The tensors, as views, by our leaves, in our layout; and what does not fit, by the file's names."""
    names = heads.names(found.naming, found.head_style, leaves)
    arrays, missing, misshaped = {}, [], []
    for path, shape in leaves.items():
        if names[path] in found.tensors:
            tensor = found.tensors[names[path]]
            arrays[path] = naming.from_torch(found.naming, path, tensor, len(shape))
            if arrays[path].shape != shape:
                there = naming.to_torch(found.naming, path, np.broadcast_to(np.float32(0), shape)).shape
                misshaped.append(f"{found.name(names[path])} {tensor.shape} instead of {there}")
        elif not found.own_names and (value := heads.neutral(path, names, found.tensors)) is not None:
            arrays[path] = np.full(shape, value, np.float32)
        else:
            missing.append(found.name(names[path]) if names[path] else path)
    used = set(names.values())
    left_over = [name for name in found.tensors if name not in used and not _spare(found, name, leaves)]
    faults = {"missing": missing, "unexpected": [*map(found.name, left_over)], "of another shape": misshaped}
    return arrays, {what: names for what, names in faults.items() if names}


def _spare(found, name, leaves) -> bool:
    """Whether a tensor is of a head, classifier or other part that the network does not have."""
    parts = {path.partition("/")[0] for path in leaves}
    if found.own_names:
        return name.partition("/")[0] not in parts or (
            name.startswith("backbone/fc/") and "backbone/fc/kernel" not in leaves
        )
    if heads.PATTERN.fullmatch(name):
        return "head" not in parts
    classifier = found.naming.to_torch("backbone/fc/kernel", leaves)
    of_classifier = classifier and name.startswith(classifier.removesuffix("weight"))
    return bool(of_classifier) and "classifier" not in parts and "backbone/fc/kernel" not in leaves


def some(names: list[str]) -> str:
    """The first few."""
    return ", ".join(names[:SHOWN]) + (f", ... ({len(names)})" if len(names) > SHOWN else "")
