"""Which network a file holds, told by the names and shapes of its tensors."""

import dataclasses
import difflib
import json
from pathlib import Path

import numpy as np
from flax import traverse_util

from seed_jax import models
from seed_jax.errors import UserError
from seed_jax.models.heads import ProjectionHead
from seed_jax.models.network import IMAGENET_MEAN, IMAGENET_STD
from seed_jax.weights import (
    array_files,
    heads,
    naming,
    preparation,
    provenance,
    source,
    state_dict,
    torch_file,
)
from seed_jax.weights.families import NAMINGS
from seed_jax.weights.heads import Head
from seed_jax.weights.preparation import Preparation
from seed_jax.weights.state_dict import StateDict

SIZES = {"efficientnet_b1": 240, "efficientnet_b2": 260, "efficientnet_b3": 300, "efficientnet_lite2": 260}
# What a head's names tell of the images, where the file's name tells nothing.
BY_HEAD = {"projection_head": (IMAGENET_MEAN, provenance.SWAV_STD), "projection": ((0.0,) * 3, (1.0,) * 3)}


@dataclasses.dataclass(frozen=True)
class Recognised:
    """What a file holds: the network `models.create(arch, mean=mean, std=std, **options)`, perhaps a head.

    `naming`: of its tensors, e.g. `torchvision`. `size`: of the square images it is meant for. `teacher`: the
    published file that it is. `preparation`: of its images. Shapes that fit no architecture of the family
    give an `arch` that says so, which `create` refuses.
    """

    family: str
    arch: str
    options: dict
    head: Head | None
    naming: str
    mean: tuple[float, ...] = IMAGENET_MEAN
    std: tuple[float, ...] = IMAGENET_STD
    size: int = 224
    teacher: provenance.Teacher | None = None
    preparation: Preparation = Preparation()

    def __str__(self):
        network = ", ".join([self.arch, *(f"{key}={value}" for key, value in self.options.items())])
        if self.head is None:
            return f"{network} without a projection head"
        values = dataclasses.asdict(self.head)
        told = [f.name for f in dataclasses.fields(Head) if values[f.name] != f.default]
        fields = ", ".join(f"{name}={values[name]}" for name in told)
        return f"{network} with a projection head ({fields})"

    @property
    def advice(self) -> str:
        """The nearest architecture, where this is none."""
        if self.arch in models.MODELS:
            return ""
        return f" (the closest is {difflib.get_close_matches(self.arch, models.MODELS, n=1, cutoff=0)[0]})"

    def network(self, **options) -> models.Joined:
        """The network with its head; `options` of `models.create` go before the file's."""
        options = {"mean": self.mean, "std": self.std, **self.options, **options}
        parts = {"head": ProjectionHead(**dataclasses.asdict(self.head))} if self.head else {}
        return models.Joined(models.create(self.arch, **options), parts)


def recognise(spec, *, where: str = "teacher.weights", part: str | None = None) -> Recognised:
    """What the file, workdir or package `spec` holds; arguments and errors as for `load`."""
    path = source.find(spec, where)
    return of_run(_run(path)) if path.is_dir() else describe(path, read(path, part))


def read(path: Path, part: str | None) -> StateDict:
    """The tensors of one network, as views of the file."""
    if path.is_dir():
        flat = traverse_util.flatten_dict(_run(path).variables, sep="/")
        return state_dict.of_own({name: np.asarray(leaf) for name, leaf in flat.items()})
    if path.suffix == ".npz":
        return state_dict.of_own(array_files.read_npz(path))
    read_tensors = array_files.read_safetensors if path.suffix == ".safetensors" else torch_file.read
    return state_dict.of_torch(path, read_tensors(path), part)


def describe(path: Path, found: StateDict) -> Recognised:
    """What was read from the path. Raises UserError when it is no network of a known family."""
    if found.own_names:
        found = _under_torch_names(path, found)
    shapes = {name: tensor.shape for name, tensor in (*found.ignored.items(), *found.tensors.items())}
    try:
        arch, options = found.naming.describe(shapes)
    except (KeyError, ValueError, IndexError, TypeError) as error:
        raise UserError(
            f"{path} has names of {found.naming.family}, as {found.naming.name} names it, but lacks some of "
            f"its tensors ({error!r}): give an intact file."
        ) from error
    style, head = found.head_style, found.head
    options = {key: value for key, value in options.items() if key != "num_classes"}
    classifier = found.naming.to_torch("backbone/fc/kernel", ())
    if classifier in shapes and not (head and head.layers == 1 and classifier == f"{style}.weight"):
        options["num_classes"] = shapes[classifier][0]
    teacher = provenance.published(path)
    mean, std = (teacher.mean, teacher.std) if teacher else BY_HEAD.get(style, (IMAGENET_MEAN, IMAGENET_STD))
    size = teacher.size if teacher else options.get("image_size", SIZES.get(arch, 224))
    mean, std = options.pop("mean", mean), options.pop("std", std)
    family, name = found.naming.family, found.naming.name
    prepared = preparation.of_network(family, arch, options, name, teacher.source if teacher else "")
    recognised = Recognised(family, arch, options, head, name, mean, std, size, teacher, prepared)
    if path.suffix == ".safetensors":
        return _with_metadata(path, recognised)
    return recognised


def _with_metadata(path, recognised) -> Recognised:
    """What our own exports say of themselves goes before what their tensors tell."""
    metadata = array_files.safetensors_metadata(path)
    if "seed_jax" not in metadata:
        return recognised
    try:
        said = {name: json.loads(metadata[name]) for name in ("options", "mean", "std", "size")}
        mean, std = ((float(r), float(g), float(b)) for r, g, b in (said["mean"], said["std"]))
        options = dict(said["options"])
        return dataclasses.replace(
            recognised,
            arch=metadata["arch"],
            options=options,
            mean=mean,
            std=std,
            size=int(said["size"]),
            preparation=preparation.of_metadata(metadata),
        )
    except (KeyError, ValueError, TypeError, RecursionError) as error:
        raise UserError(f"{path} has damaged metadata ({error!r}): export it again.") from error


def _under_torch_names(path, own: StateDict) -> StateDict:
    """Our names tell a family only by what they would be called elsewhere."""
    found = {}
    for table in NAMINGS:
        names = heads.names(table, "fc", own.tensors)
        if None not in names.values():
            tensors = {names[leaf]: naming.to_torch(table, leaf, own.tensors[leaf]) for leaf in names}
            state = state_dict.of_torch(path, tensors, None)
            found[state.naming.describe({name: tensor.shape for name, tensor in tensors.items()})[0]] = state
    if len(found) == 1:
        return next(iter(found.values()))
    fits = f"fits several ({', '.join(found)})" if found else f"is of none ({', '.join(state_dict.FAMILIES)})"
    raise UserError(f"{path} does not tell its known family: it {fits}; give a file of another format.")


def of_run(run) -> Recognised:
    """The network of a `workdir.Run`."""
    backbone, head = run.network.backbone, run.network.parts.get("head")
    return Recognised(
        family=type(backbone.module).__module__.rpartition(".")[2],
        arch=run.config.student.model,
        options=dict(run.config.student.options),
        head=head and Head(**{f.name: getattr(head, f.name) for f in dataclasses.fields(Head)}),
        naming="seed_jax",
        mean=backbone.mean,
        std=backbone.std,
        size=backbone.size or run.config.data.image_size,
    )


def _run(path):
    from seed_jax import workdir  # the checkpoint library takes seconds to import

    return workdir.load_run(path)
