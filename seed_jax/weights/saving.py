"""Write our variables to a safetensors file that PyTorch code can load."""

import inspect
import json
import os
import re
from collections.abc import Mapping
from pathlib import Path

import numpy as np
from flax import traverse_util

import seed_jax
from seed_jax import models
from seed_jax.errors import UserError
from seed_jax.weights import array_files, heads
from seed_jax.weights import naming as naming_lib
from seed_jax.weights.families import NAMINGS
from seed_jax.weights.naming import Naming
from seed_jax.weights.recognition import Recognised

# Prefix of the network in the training files of MoCo and SEED; its projection head is called `fc`.
TRAINING = {"moco": "module.encoder_q.", "seed": "module.student."}
# Options that a naming need not show. A wrong width or number of classes does not fit the shapes; mean, std
# and small_stem are in the metadata.
NOT_COMPARED = {"width", "mean", "std", "num_classes", "small_stem", *models.INERT}
# The tensors of Swin's second version are the same for all of these.
NOT_SHOWN = {"swinv2": {"window", "image_size", "pretrained_window", "pretrained_size"}}
CLASSIFIER = re.compile(r"(backbone|classifier)/fc/")
LAYOUT = "NCHW, RGB in [0, 1], then (x - mean) / std"


def save(
    variables: Mapping,
    network: Recognised,
    path: str | os.PathLike,
    *,
    names: str = "torchvision",
    provenance: Mapping | None = None,
) -> list[str]:
    """Write float32 tensors in PyTorch's names and layouts; `load` reads the same bits back.

    A failed write leaves no file.

    Args:
      variables: the network's variables, in our layout.
      network: what `recognise` returns for the source of the variables.
      path: the `.safetensors` file to write.
      names: one of `offered`: a code base, e.g. `torchvision`; or `moco` or `seed` for the tensor names of
        those projects' training checkpoints, which include the projection head but no classifier.
      provenance: facts about the weights that the saved weights were made from, keyed as in
        `provenance.MADE_FROM`.

    Returns:
      The leaves that were not written, because `names` has no name for them.

    Raises:
      UserError: the network has no such names, or the file cannot be written.
    """
    arrays, namings = _arrays(variables), offered(network, variables)
    if names not in namings:
        fix = (
            f"choose from {', '.join(namings)} (docs/weights.md#export says which networks have which names)"
            if namings
            else "we have the names of no code base that computes the same function"
        )
        raise UserError(f"{network.arch} cannot be written under names {names!r}: {fix}.")
    naming, prefix = namings[names]
    named = _names(naming, prefix, arrays)
    tensors = {prefix + name: naming_lib.to_torch(naming, leaf, arrays[leaf]) for leaf, name in named.items()}
    array_files.write_safetensors(Path(path), tensors, metadata(network, arrays, names, provenance or {}))
    return [leaf for leaf in arrays if leaf not in named]


def offered(network: Recognised, variables: Mapping) -> dict[str, tuple[Naming, str]]:
    """Return what `save(names=...)` takes for a network: naming, and prefix of a training file, by name."""
    arrays = _arrays(variables)
    namings = {
        naming.name: naming
        for naming in NAMINGS
        if naming.family == network.family and _identifies(naming, network, arrays)
    }
    plain = {name: (naming, "") for name, naming in namings.items() if name not in TRAINING}
    if network.family == "resnet" and "torchvision" in namings:
        return plain | {name: (namings["torchvision"], prefix) for name, prefix in TRAINING.items()}
    return plain | ({"seed": (namings["seed"], TRAINING["seed"])} if "seed" in namings else {})


def _arrays(variables) -> dict[str, np.ndarray]:
    return {
        leaf: np.asarray(array, np.float32)
        for tree in variables.values()
        for leaf, array in traverse_util.flatten_dict(tree, sep="/").items()
    }


def _identifies(naming, network, arrays) -> bool:
    """Whether a network that computes the same can be built from the naming's names and shapes."""
    backbone = [leaf for leaf in arrays if leaf.startswith("backbone/")]
    names = naming_lib.torch_names(naming, backbone)
    if None in names.values() or not set(naming.signature) <= set(names.values()):
        return False
    shapes = {name: naming_lib.to_torch(naming, leaf, arrays[leaf]).shape for leaf, name in names.items()}
    return any(
        arch == network.arch and _settings(arch, options) == _settings(arch, network.options)
        for arch, options, _ in naming.readings(shapes)
    )


def _settings(arch, options):
    """The options that decide what a network computes, defaults included.

    DINO's form is replaced by DeiT's: the two differ only in how position embeddings are resized.
    """
    defaults = inspect.signature(models.MODELS[arch]).parameters
    settings = {key: parameter.default for key, parameter in defaults.items()} | dict(options)
    if settings.get("form") == "dino":
        settings["form"] = "deit"
    left_out = NOT_COMPARED | NOT_SHOWN.get(arch.partition("_")[0], set())
    return {key: value for key, value in settings.items() if key not in left_out}


def _names(naming, prefix, arrays) -> dict[str, str]:
    """The tensor name of every leaf to write. A training file has no classifier."""
    if prefix:
        names = heads.names(naming, "fc", arrays)
        return {leaf: name for leaf, name in names.items() if name and not CLASSIFIER.match(leaf)}
    names = {leaf: naming.to_torch(CLASSIFIER.sub("backbone/fc/", leaf), arrays) for leaf in arrays}
    return {leaf: name for leaf, name in names.items() if name}


def metadata(network: Recognised, arrays: Mapping, names: str, provenance: Mapping) -> dict[str, str]:
    """What a file says about itself; `arrays`: the leaves that are written under `names`."""
    options = {key: value for key, value in network.options.items() if key != "num_classes"}
    for leaf, array in arrays.items():
        if CLASSIFIER.match(leaf) and names not in TRAINING:
            options["num_classes"] = array.shape[-1]
    facts = {
        "seed_jax": seed_jax.__version__,
        "arch": network.arch,
        "options": options,
        "names": names,
        "size": network.size,
        "mean": network.mean,
        "std": network.std,
        **network.preparation._asdict(),
        "layout": LAYOUT,
        **provenance,
    }
    return {key: value if isinstance(value, str) else json.dumps(value) for key, value in facts.items()}
