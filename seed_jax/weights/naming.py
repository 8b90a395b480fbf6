"""How other code bases name and lay out the tensors of one family of networks, in a form that reads both
ways: from our leaf to theirs.
"""

import dataclasses
import re
from collections.abc import Callable, Collection, Mapping

import numpy as np
from flax import traverse_util

Reading = tuple[str, dict, str]
LEAVES = {"kernel": "weight", "scale": "weight", "bias": "bias", "mean": "running_mean", "var": "running_var"}


@dataclasses.dataclass(frozen=True)
class Naming:
    """One code base's names for one family.

    Attributes:
      family: the file in `seed_jax/models/` without its suffix, e.g. `resnet`.
      name: the code base, e.g. `torchvision`: what `save(names=...)` is asked for.
      signature: tensor names that together only files of this naming hold.
      to_torch: from our leaf below `params` or `batch_stats`, e.g. `backbone/layer1_0/conv1/kernel`, and all
        our leaves so written, to the tensor's name; None for a leaf it has no name for.
      describe: from the tensors' names and shapes to `models.create(arch, **options)`'s arguments.
      layouts: (pattern of our leaves, layout) pairs for those that are laid out neither as PyTorch's
        convolutions and linear layers nor as ours: `conv1x1`, a filter for our matrix; `same`, a matrix that
        is not transposed; `squeezed`, without our leading axes of length 1.
      alike: from what `describe` says to all networks whose tensors are named and shaped so but which compute
        different things: architecture, options, and what the code base calls it. None where the names tell.
    """

    family: str
    name: str
    signature: tuple[str, ...]
    to_torch: Callable[[str, Collection[str]], str | None]
    describe: Callable[[Mapping[str, tuple[int, ...]]], tuple[str, dict]]
    layouts: tuple[tuple[str, str], ...] = ()
    alike: Callable[[str, dict], tuple[Reading, ...]] | None = None

    def readings(self, shapes: Mapping[str, tuple[int, ...]]) -> tuple[Reading, ...]:
        """Every network that tensors of these names and shapes may be."""
        arch, options = self.describe(shapes)
        return self.alike(arch, options) if self.alike else ((arch, options, ""),)


def by_rules(*rules: tuple[str, str]) -> Callable[[str, Collection[str]], str | None]:
    """A `to_torch` of (pattern, replacement) pairs for module paths; the first that matches whole counts."""

    def to_torch(path, paths):
        module, _, leaf = path.rpartition("/")
        for pattern, replacement in rules:
            if match := re.fullmatch(pattern, module):
                return f"{match.expand(replacement)}.{LEAVES[leaf]}"
        return None

    return to_torch


def leaves(template: Mapping) -> dict[str, tuple[int, ...]]:
    """Shapes by path below `params` or `batch_stats`, of a network's variables or their shapes."""
    return {
        path: leaf.shape
        for tree in template.values()
        for path, leaf in traverse_util.flatten_dict(tree, sep="/").items()
    }


def torch_names(naming: Naming, paths: Collection[str]) -> dict[str, str | None]:
    """The tensor's name for each of our leaves."""
    return {path: naming.to_torch(path, paths) for path in paths}


def to_torch(naming: Naming, path: str, array: np.ndarray) -> np.ndarray:
    """A view of our leaf in PyTorch's layout."""
    match _layout(naming, path, array.ndim):
        case "conv":  # HWIO -> OIHW, and for a depthwise filter (k, k, 1, C) -> (C, 1, k, k)
            return array.transpose(3, 2, 0, 1)
        case "linear":
            return array.T
        case "conv1x1":
            return array.T[:, :, None, None]
        case "squeezed":
            return array.reshape([size for size in array.shape if size != 1])
    return array


def from_torch(naming: Naming, path: str, tensor: np.ndarray, ndim: int) -> np.ndarray:
    """A view of the tensor in the layout of our leaf, which has `ndim` axes. The reverse of `to_torch`."""
    match _layout(naming, path, ndim), tensor.ndim:
        case "conv", 4:
            return tensor.transpose(2, 3, 1, 0)
        case "linear", 2:
            return tensor.T
        case "conv1x1", 4:
            return tensor[:, :, 0, 0].T if tensor.shape[2:] == (1, 1) else tensor
        case "squeezed", given:
            return tensor.reshape((1,) * (ndim - given) + tensor.shape)
    return tensor


def _layout(naming, path, ndim):
    for pattern, layout in naming.layouts:
        if re.fullmatch(pattern, path):
            return layout
    if path.endswith("/kernel"):
        return {4: "conv", 2: "linear"}[ndim]
    return "same"
