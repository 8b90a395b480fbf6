"""How the layers of a projection head are named, whatever the backbone below it."""

import dataclasses
import re
from collections.abc import Collection, Mapping

from seed_jax.weights.naming import LEAVES, Naming

# A Sequential under this name, its layers numbered with the activations between them; a lone Linear bears
# the name itself. MoCo, SEED and SimCLR; SwAV; MoCo v3's ViTs.
SEQUENTIAL = ("projection_head", "fc", "head")
FC_BN = "projection"  # AndrewAtanov/simclr-pytorch: `projection.fc1`, `projection.bn1`
MATRIX = "visual.proj"  # CLIP: `features @ proj`, in its table of names
PATTERN = re.compile(r"(fc|head)\.\d+\..+|projection_head\..+|projection\.(fc|bn)\d\..+|visual\.proj")


@dataclasses.dataclass(frozen=True)
class Head:
    """The projection head of a file, field by field the options of `models.heads.ProjectionHead`."""

    hidden: int | None
    dim: int
    layers: int
    batch_norm: bool
    bias: bool = True
    last_norm: bool = False


def names(naming: Naming, style: str, paths: Collection[str]) -> dict[str, str | None]:
    """The tensor's name for each of our leaves, those of parts joined to the backbone included."""

    def name(path):
        backbone = re.sub(r"^classifier/fc/", "backbone/fc/", path)
        return naming.to_torch(backbone, paths) or to_torch(style, path, paths)

    return {path: name(path) for path in paths}


def to_torch(style: str, path: str, paths: Collection[str]) -> str | None:
    """The tensor's name for our leaf `head/linear1/kernel`; None below anything but `head`."""
    match = re.fullmatch(r"head/(linear|bn)(\d+)/(\w+)", path)
    if match is None:
        return None
    kind, number, leaf = match[1], int(match[2]), LEAVES[match[3]]
    if style == MATRIX:
        return None
    if style == FC_BN:
        return f"{FC_BN}.{'fc' if kind == 'linear' else 'bn'}{number}.{leaf}"
    if "head/linear2/kernel" not in paths:
        return f"{style}.{leaf}" if kind == "linear" else None
    index = sum(2 + (f"head/bn{i}/mean" in paths) for i in range(1, number)) + (kind == "bn")
    return f"{style}.{index}.{leaf}"


def neutral(path: str, names: Mapping[str, str | None], tensors: Collection[str]) -> float | None:
    """What a leaf is that a file may lack: MoCo v3's last batch norm has neither scale nor bias.

    `names`: the tensor's for each of our leaves; `tensors`: the file's.
    """
    match = re.fullmatch(r"head/bn(\d+)/(scale|bias)", path)
    if match is None or f"head/linear{int(match[1]) + 1}/kernel" in names:
        return None
    if any(names[f"head/bn{match[1]}/{leaf}"] in tensors for leaf in ("scale", "bias")):
        return None
    return 1.0 if match[2] == "scale" else 0.0


def describe(shapes: Mapping[str, tuple[int, ...]], *, lone: bool) -> tuple[str, Head | None]:
    """The style and the head that tensors of these names are; `fc` and None where there is none.

    `lone`: whether a lone Linear called `fc` or `head` is a projection head and not a classifier.
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
