"""Tensor names of projection heads, which do not depend on the backbone."""

import dataclasses
import re
from collections.abc import Collection, Mapping

from seed_jax.weights.naming import Naming, tensor_name

# Names of a Sequential, whose numbering counts activations too; a single Linear has the name itself.
# In this order: SwAV; MoCo, SEED and SimCLR; MoCo v3's ViTs.
SEQUENTIAL = ("projection_head", "fc", "head")
FC_BN = "projection"  # AndrewAtanov/simclr-pytorch: `projection.fc1`, `projection.bn1`
MATRIX = "visual.proj"  # CLIP: `features @ proj`; CLIP's own naming has it
PATTERN = re.compile(r"(fc|head)\.\d+\..+|projection_head\..+|projection\.(fc|bn)\d\..+|visual\.proj")


@dataclasses.dataclass(frozen=True)
class Head:
    """The projection head in a file; the fields are the options of `models.heads.ProjectionHead`."""

    hidden: int | None
    dim: int
    layers: int
    batch_norm: bool
    bias: bool = True
    last_norm: bool = False


def names(naming: Naming, style: str, paths: Collection[str]) -> dict[str, str | None]:
    """Return the tensor name of each leaf, of the backbone and of the parts joined to it."""

    def name(path):
        backbone_path = re.sub(r"^classifier/fc/", "backbone/fc/", path)
        return naming.to_torch(backbone_path, paths) or to_torch(style, path, paths)

    return {path: name(path) for path in paths}


def to_torch(style: str, path: str, paths: Collection[str]) -> str | None:
    """Return the tensor name of a leaf such as `head/linear1/kernel`; None for leaves outside `head`."""
    match = re.fullmatch(r"head/(linear|bn)(\d+)/(\w+)", path)
    if match is None or style == MATRIX:
        return None
    kind, number, leaf = match[1], int(match[2]), match[3]
    if style == FC_BN:
        return tensor_name(f"{FC_BN}.{'fc' if kind == 'linear' else 'bn'}{number}", leaf)
    if "head/linear2/kernel" not in paths:
        return tensor_name(style, leaf) if kind == "linear" else None
    index = sum(2 + (f"head/bn{i}/mean" in paths) for i in range(1, number)) + (kind == "bn")
    return tensor_name(f"{style}.{index}", leaf)


def neutral(path: str, names: Mapping[str, str | None], tensors: Collection[str]) -> float | None:
    """Return the value of a leaf that the file may lack, or None if the file must have it.

    MoCo v3's last batch norm has neither scale nor bias: they are 1 and 0. `names`: tensor name of each leaf;
    `tensors`: names in the file.
    """
    match = re.fullmatch(r"head/bn(\d+)/(scale|bias)", path)
    if match is None or f"head/linear{int(match[1]) + 1}/kernel" in names:
        return None
    if any(names[f"head/bn{match[1]}/{leaf}"] in tensors for leaf in ("scale", "bias")):
        return None
    return 1.0 if match[2] == "scale" else 0.0


def describe(shapes: Mapping[str, tuple[int, ...]], *, lone: bool) -> tuple[str, Head | None]:
    """Return the naming style of the head and the head itself; `fc` and None when there is no head.

    `lone`: a single Linear called `fc` or `head` is a projection head, not a classifier.
    """
    if len(shape := shapes.get(MATRIX, ())) == 2:
        return MATRIX, Head(None, shape[1], 1, batch_norm=False, bias=False)
    for style in (*SEQUENTIAL, FC_BN):
        numbers = [
            int(match[1])
            for name, shape in shapes.items()
            if len(shape) == 2 and (match := re.fullmatch(rf"{style}\.(?:fc)?(\d+)\.weight", name))
        ]
        layer = f"{style}.fc" if style == FC_BN else f"{style}."
        linears = [f"{layer}{number}" for number in sorted(numbers)]
        if (
            not linears
            and (lone or style == "projection_head")
            and len(shapes.get(f"{style}.weight", ())) == 2
        ):
            linears = [style]
        if linears:
            first, last = (shapes[f"{linears[i]}.weight"] for i in (0, -1))
            norms = sum(name.startswith(f"{style}.") and name.endswith(".running_mean") for name in shapes)
            return style, Head(
                hidden=first[0] if len(linears) > 1 else None,
                dim=last[0],
                layers=len(linears),
                batch_norm=len(linears) > 1 and norms >= len(linears) - 1,
                bias=f"{linears[0]}.bias" in shapes,
                last_norm=norms == len(linears),
            )
    return "fc", None
