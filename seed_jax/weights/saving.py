"""Our variables as a safetensors file that PyTorch code loads."""

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

# Training files of others: how they prefix the network whose projection head is called `fc`.
TRAINING = {"moco": "module.encoder_q.", "seed": "module.student."}
# Options that a reader cannot get wrong unnoticed (`width`: the shapes would not fit), or that only
# the metadata tell: of training, of the images, of what is small for small images.
UNTOLD = {"width", "dropout", "drop_path", "bn_momentum", "remat", "mean", "std", "num_classes", "small_stem"}
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
    """Write PyTorch's names and layouts, float32, whole or not at all; what was left out, one line each.

    `network`: what `recognise` says of where the variables come from. `names`: a code base that names this
    architecture, or `moco` or `seed` for the form of their training files, projection head included.
    `provenance`: what the weights were made from, by the keys of `provenance.MADE_FROM`. `load` reads the
    file back bit for bit.

    Raises UserError for names that the architecture does not have, which lists those it has.
    """
    arrays, tables = _arrays(variables), offered(network, variables)
    if names not in tables:
        raise UserError(f"--names={names}: {network.arch} has no such names; it has {', '.join(tables)}.")
    table, prefix = tables[names]
    named = _names(table, prefix, arrays)
    tensors = {prefix + name: naming_lib.to_torch(table, leaf, arrays[leaf]) for leaf, name in named.items()}
    array_files.write_safetensors(Path(path), tensors, _metadata(network, arrays, names, provenance or {}))
    return [leaf for leaf in arrays if leaf not in named]


def offered(network: Recognised, variables: Mapping) -> dict[str, tuple[Naming, str]]:
    """What `save(names=...)` takes for a network: the table of names, and the prefix of a training file."""
    arrays = _arrays(variables)
    tables = {
        table.name: table
        for table in NAMINGS
        if table.family == network.family and _tells(table, network, arrays)
    }
    found = {name: (table, "") for name, table in tables.items() if name not in TRAINING}
    if network.family == "resnet" and "torchvision" in tables:
        return found | {name: (tables["torchvision"], prefix) for name, prefix in TRAINING.items()}
    return found | ({"seed": (tables["seed"], TRAINING["seed"])} if "seed" in tables else {})


def _arrays(variables) -> dict[str, np.ndarray]:
    return {
        leaf: np.asarray(array, np.float32)
        for tree in variables.values()
        for leaf, array in traverse_util.flatten_dict(tree, sep="/").items()
    }


def _tells(table, network, arrays) -> bool:
    """Whether a reader of the names can build this network, and not only one that computes otherwise."""
    backbone = [leaf for leaf in arrays if leaf.startswith("backbone/")]
    names = naming_lib.torch_names(table, backbone)
    if None in names.values() or not set(table.signature) <= set(names.values()):
        return False
    shapes = {name: naming_lib.to_torch(table, leaf, arrays[leaf]).shape for leaf, name in names.items()}
    return any(
        arch == network.arch and _settings(arch, options) == _settings(arch, network.options)
        for arch, options, _ in table.readings(shapes)
    )


def _settings(arch, options):
    """All that the network computes by; DINO's form and DeiT's differ only in how positions are resized."""
    defaults = inspect.signature(models.MODELS[arch]).parameters
    settings = {key: parameter.default for key, parameter in defaults.items()} | dict(options)
    if settings.get("form") == "dino":
        settings["form"] = "deit"
    return {key: value for key, value in settings.items() if key not in UNTOLD}


def _names(table, prefix, arrays) -> dict[str, str]:
    """The tensor's name for every leaf that is written: of a training file, all but the classifier."""
    if prefix:
        names = heads.names(table, "fc", arrays)
        return {leaf: name for leaf, name in names.items() if name and not CLASSIFIER.match(leaf)}
    names = {leaf: table.to_torch(CLASSIFIER.sub("backbone/fc/", leaf), arrays) for leaf in arrays}
    return {leaf: name for leaf, name in names.items() if name}


def _metadata(network, arrays, names, provenance):
    options = {key: value for key, value in network.options.items() if key != "num_classes"}
    for leaf, array in arrays.items():
        if CLASSIFIER.match(leaf) and names not in TRAINING:
            options["num_classes"] = array.shape[-1]
    told = {
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
    return {key: value if isinstance(value, str) else json.dumps(value) for key, value in told.items()}
