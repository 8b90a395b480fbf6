"""How other code bases name and lay out the tensors of one family of networks, in a form that reads both
ways: from our leaf to theirs.
"""

import dataclasses
import re
from collections.abc import Callable, Collection, Mapping

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
    """

    family: str
    name: str
    signature: tuple[str, ...]
    to_torch: Callable[[str, Collection[str]], str | None]
    describe: Callable[[Mapping[str, tuple[int, ...]]], tuple[str, dict]]
    layouts: tuple[tuple[str, str], ...] = ()


def by_rules(*rules: tuple[str, str]) -> Callable[[str, Collection[str]], str | None]:
    """A `to_torch` of (pattern, replacement) pairs for module paths; the first that matches whole counts."""

    def to_torch(path, paths):
        module, _, leaf = path.rpartition("/")
        for pattern, replacement in rules:
            if match := re.fullmatch(pattern, module):
                return f"{match.expand(replacement)}.{LEAVES[leaf]}"
        return None

    return to_torch
