"""Namings: tables of the tensor names and layouts of other code bases, used for loading and for saving."""

import dataclasses
import re
from collections.abc import Callable, Collection, Mapping

import numpy as np
from flax import traverse_util

Reading = tuple[str, dict, str]
LEAVES = {
    "kernel": "weight",
    "scale": "weight",
    "bias": "bias",
    "mean": "running_mean",
    "var": "running_var",
    "gamma": "gamma",
}


@dataclasses.dataclass(frozen=True)
class Naming:
    """The tensor names of one code base for one family of networks.

    A leaf is written as its path below `params` or `batch_stats`, e.g. `backbone/layer1_0/conv1/kernel`.

    Attributes:
      family: a file in `seed_jax/models/` without its suffix, e.g. `resnet`.
      name: the code base, e.g. `torchvision`; `save(names=...)` takes it.
      signature: tensor names. A file that has all of them uses this naming.
      to_torch: (leaf, all leaves of the network) -> tensor name, or None when the naming has no name for it.
      describe: shapes by tensor name -> (arch, options) for `models.create(arch, **options)`.
      layouts: (pattern of leaves, layout) pairs for exceptions to the usual layouts. `conv1x1`: a 1x1 filter
        there, a matrix here; `same`: a matrix that is not transposed; `squeezed`: without our leading axes of
        length 1.
      alike: (arch, options) from `describe` -> all networks that have these names and shapes but compute
        different things, as (arch, options, name in the code base). None when names identify the network.
      resize: (leaf, tensor in our layout, our shape) -> the tensor in our shape, if its shape depends on the
        size of images or windows; else as it is. None if there are no such tensors, or if the network resizes
        them itself, as `vit_*`. It serves teachers; a student's start may be a run, whose arrays have no
        naming, and so `Architecture.adapt` resizes, too.
    """

    family: str
    name: str
    signature: tuple[str, ...]
    to_torch: Callable[[str, Collection[str]], str | None]
    describe: Callable[[Mapping[str, tuple[int, ...]]], tuple[str, dict]]
    layouts: tuple[tuple[str, str], ...] = ()
    alike: Callable[[str, dict], tuple[Reading, ...]] | None = None
    resize: Callable[[str, np.ndarray, tuple[int, ...]], np.ndarray] | None = None

    def readings(self, shapes: Mapping[str, tuple[int, ...]]) -> tuple[Reading, ...]:
        """Return every network that has tensors of these names and shapes."""
        arch, options = self.describe(shapes)
        return self.alike(arch, options) if self.alike else ((arch, options, ""),)


def tensor_name(module: str | None, leaf: str) -> str | None:
    """Return PyTorch's name of our leaf `kernel`, `scale`, ... in its module; None if either has no name."""
    return f"{module}.{LEAVES[leaf]}" if module and leaf in LEAVES else None


def by_rules(*rules: tuple[str, str]) -> Callable[[str, Collection[str]], str | None]:
    """Return a `to_torch` that uses the first (pattern, replacement) pair to match the whole module path."""

    def to_torch(path, paths):
        module, _, leaf = path.rpartition("/")
        for pattern, replacement in rules:
            if match := re.fullmatch(pattern, module):
                return tensor_name(match.expand(replacement), leaf)
        return None

    return to_torch


def leaves(template: Mapping) -> dict[str, tuple[int, ...]]:
    """Return the shapes of variables, or of their `ShapeDtypeStruct`s, by path below the collection."""
    return {
        path: leaf.shape
        for tree in template.values()
        for path, leaf in traverse_util.flatten_dict(tree, sep="/").items()
    }


def torch_names(naming: Naming, paths: Collection[str]) -> dict[str, str | None]:
    """Return the tensor name of each leaf."""
    return {path: naming.to_torch(path, paths) for path in paths}


def to_torch(naming: Naming, path: str, array: np.ndarray) -> np.ndarray:
    """Return a leaf in PyTorch's layout, as a view."""
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
    """Return a tensor in the layout of our leaf, as a view; the reverse of `to_torch`.

    `ndim`: axes of our leaf. A tensor whose axes do not fit the layout is returned as it is.
    """
    match _layout(naming, path, ndim), tensor.ndim:
        case "conv", 4:
            return tensor.transpose(2, 3, 1, 0)
        case "linear", 2:
            return tensor.T
        case "conv1x1", 4:
            return tensor[:, :, 0, 0].T if tensor.shape[2:] == (1, 1) else tensor
        case "squeezed", axes:
            return tensor.reshape((1,) * (ndim - axes) + tensor.shape)
    return tensor


def _layout(naming, path, ndim):
    for pattern, layout in naming.layouts:
        if re.fullmatch(pattern, path):
            return layout
    if path.endswith("/kernel"):
        return {4: "conv", 2: "linear"}[ndim]
    return "same"
