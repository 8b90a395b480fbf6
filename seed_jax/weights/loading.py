"""Load a network's variables from weights, and account for every tensor."""

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


def load(spec, network, *, where: str = "", part: str | None = None) -> dict:
    """Return the network's variables as float32 NumPy arrays in our layout.

    A head or classifier in the file that the network lacks is left out.

    Args:
      spec: a `.pth`, `.pth.tar`, `.pt`, `.safetensors` or `.npz` file, the workdir of a run, or `pip:NAME`
        for a name in `source.PACKAGES`. An `.npz` has our own names, e.g. `params/backbone/conv1/kernel`.
      network: the `Joined` network to load.
      where: the config key that `spec` comes from, for messages; empty for an argument.
      part: which network to read from a file with two: `student` or `teacher`. By default the student of
        SEED's files and the teacher of DINO's and EsViT's.

    Raises:
      UserError: the file is missing or damaged, tensors are missing, unexpected or of another shape, or
        values are not finite.
    """
    path = source.find(spec, where)
    state = recognition.read(path, part)
    template = shapes(network)
    arrays, faults = match(state, naming.leaves(template))
    if faults:
        listed = "; ".join(f"{len(names)} {what}: {some(names)}" for what, names in faults.items())
        likeliest = recognition.candidates(path, state, None)[0]
        raise UserError(
            f"{source.prefix(where)}{path} does not fit the network ({listed}): configure the network in the "
            f"file, {likeliest}{likeliest.advice}, or use another file."
        )
    variables = {}
    for name in traverse_util.flatten_dict(template, sep="/"):
        # Copied, because the mapped file may change or be deleted later.
        variables[name] = np.array(arrays[name.partition("/")[2]], np.float32, order="C")
        if not np.isfinite(variables[name]).all():
            raise UserError(
                f"{source.prefix(where)}{name} in {path} has NaN or infinite values: use an intact file."
            )
    return traverse_util.unflatten_dict(variables, sep="/")


def shapes(network: Joined) -> dict:
    """Return the network's variables as `jax.ShapeDtypeStruct`s. A process traces equal networks once."""
    return _shapes(network.backbone, tuple(network.parts.items()))


@functools.lru_cache(maxsize=16)
def _shapes(backbone, parts):
    return trace(Joined(backbone, dict(parts)))


def trace(network) -> dict:
    """`shapes` without the cache."""
    sample = jax.ShapeDtypeStruct((2, 224, 224, 3), jnp.float32)
    return jax.eval_shape(network.init, jax.random.key(0), sample)


def match(
    state: StateDict, leaves: dict[str, tuple[int, ...]]
) -> tuple[dict[str, np.ndarray], dict[str, list[str]]]:
    """Match the tensors of a file with the leaves of a network, given as shapes by path.

    Returns (arrays, faults). `arrays`: in our layout, by leaf; views, unless resized. `faults`: the names in
    the file that are `missing`, `unexpected` and `of another shape`; empty lists are left out.
    """
    names = heads.names(state.naming, state.head_style, leaves)
    arrays, missing, misshaped = {}, [], []
    for path, shape in leaves.items():
        if names[path] in state.tensors:
            tensor = state.tensors[names[path]]
            arrays[path] = naming.from_torch(state.naming, path, tensor, len(shape))
            if arrays[path].shape != shape and state.naming.resize:
                arrays[path] = state.naming.resize(path, arrays[path], shape)
            if arrays[path].shape != shape:
                expected = naming.to_torch(state.naming, path, np.broadcast_to(np.float32(0), shape)).shape
                misshaped.append(f"{state.name(names[path])} {tensor.shape} instead of {expected}")
        elif not state.own_names and (value := heads.neutral(path, names, state.tensors)) is not None:
            arrays[path] = np.full(shape, value, np.float32)
        else:
            missing.append(state.name(names[path]) if names[path] else path)
    used = set(names.values())
    unexpected = [
        state.name(name) for name in state.tensors if name not in used and not _spare(state, name, leaves)
    ]
    faults = {"missing": missing, "unexpected": unexpected, "of another shape": misshaped}
    return arrays, {what: names for what, names in faults.items() if names}


def _spare(state, name, leaves) -> bool:
    """Whether the tensor belongs to a head, classifier or other part that the network lacks."""
    parts = {path.partition("/")[0] for path in leaves}
    if state.own_names:
        return name.partition("/")[0] not in parts or (
            name.startswith("backbone/fc/") and "backbone/fc/kernel" not in leaves
        )
    if heads.PATTERN.fullmatch(name):
        return "head" not in parts
    classifier = state.naming.to_torch("backbone/fc/kernel", leaves)
    of_classifier = classifier and name.startswith(classifier.removesuffix("weight"))
    return bool(of_classifier) and "classifier" not in parts and "backbone/fc/kernel" not in leaves


def some(names: list[str]) -> str:
    """The first three names, and how many there are."""
    return ", ".join(names[:SHOWN]) + (f", ... ({len(names)})" if len(names) > SHOWN else "")
