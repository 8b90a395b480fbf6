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

SIZES = {
    "efficientnet_b1": 240,
    "efficientnet_b2": 260,
    "efficientnet_b3": 300,
    "efficientnet_b1_torchvision": 240,
    "efficientnet_b2_torchvision": 288,
    "efficientnet_b3_torchvision": 300,
    "efficientnet_lite2": 260,
}
# What a head's names tell of the images, where the file's name tells nothing.
BY_HEAD = {"projection_head": (IMAGENET_MEAN, provenance.SWAV_STD), "projection": ((0.0,) * 3, (1.0,) * 3)}

# What no tensor tells: MoCo v3's ViT-S has 12 heads, and as a classifier the names of a DeiT, which has 6.
UNTOLD_OPTIONS = {"linear-vit-s-300ep.pth.tar": {"heads": 12}}
FLAGS = ("--config.teacher.model", "config.teacher.options.form")


@dataclasses.dataclass(frozen=True)
class Recognised:
    """What a file holds: the network `models.create(arch, mean=mean, std=std, **options)`, perhaps a head.

    `naming`: of its tensors, e.g. `torchvision`. `size`: of the square images it is meant for. `teacher`: the
    published file that it is. `preparation`: of its images. `assumed`: mean and std are ImageNet's because
    nothing tells them. `called`: what the code base calls it, where its names do not tell. Shapes that fit
    no architecture of the family give an `arch` that says so, which `create` refuses.
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
    assumed: bool = False
    called: str = ""

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


def recognise(
    spec,
    *,
    arch: str = "",
    form: str = "",
    where: str = "teacher.weights",
    part: str | None = None,
    flags: tuple[str, str] = FLAGS,
) -> Recognised:
    """What the file, workdir or package `spec` holds; arguments and errors as for `load`.

    `arch`, `form` (of a vision transformer): which it is where the tensors fit several networks. `flags`: how
    the user gives these two.

    Raises UserError too where the tensors fit several networks and neither says which, and where they do not
    fit `arch`.
    """
    path = source.find(spec, where)
    if path.is_dir():
        return of_run(_run(path))
    fits = candidates(path, read(path, part), provenance.published(path))
    return choose(path, fits, arch, form, where, flags)


def choose(
    path, fits: list[Recognised], arch="", form="", where="teacher.weights", flags=FLAGS
) -> Recognised:
    """The one of `candidates` that is asked for, or the only one; arguments and errors as for `recognise`."""
    if form:
        fits = _distinct([dataclasses.replace(r, options=r.options | {"form": form}) for r in fits])
    chosen = [r for r in fits if arch in ("", r.arch)]
    if not chosen:
        known = [r.arch for r in fits if r.arch in models.MODELS]
        way_out = f"use {flags[0]}={' or '.join(known)}, or leave it out" if known else "give another file"
        raise UserError(f"{where}: {path} holds {' or '.join(map(str, fits))}, and not {arch}: {way_out}.")
    if len(chosen) > 1 or (chosen[0].called and not arch and not form):
        ways = "; ".join(_way(r, chosen, flags) for r in chosen)
        raise UserError(
            f"{where}: {path} does not tell its network, for several have such tensors and compute different "
            f"things; say which it is: {ways}."
        )
    return chosen[0]


def _way(one, others, flags):
    """How the user says that it is this one."""
    if len({r.arch for r in others}) < len(others):
        way = f"{flags[1]}={one.options['form']}"
    else:
        way = f"{flags[0]}={one.arch}"
    return f"{way} ({one.called})" if one.called else way


def read(path: Path, part: str | None) -> StateDict:
    """The tensors of one network, as views of the file."""
    if path.is_dir():
        flat = traverse_util.flatten_dict(_run(path).variables, sep="/")
        return state_dict.of_own({name: np.asarray(leaf) for name, leaf in flat.items()})
    if path.suffix == ".npz":
        return state_dict.of_own(array_files.read_npz(path))
    read_tensors = array_files.read_safetensors if path.suffix == ".safetensors" else torch_file.read
    return state_dict.of_torch(path, read_tensors(path), part)


def candidates(path: Path, found: StateDict, teacher: provenance.Teacher | None) -> list[Recognised]:
    """Every network that what was read from the path may be; the likeliest first.

    `teacher`: the published file that it is, if it is one.

    Raises UserError when it is no network of a known family.
    """
    states = _under_torch_names(path, found) if found.own_names else [found]
    every = _distinct([recognised for state in states for recognised in _readings(path, state, teacher)])
    if path.suffix == ".safetensors" and "seed_jax" in (told := array_files.safetensors_metadata(path)):
        return [_with_metadata(path, told, every[0])]
    return every


def _distinct(every):
    """The first of each architecture and form."""
    return list({(r.arch, r.options.get("form")): r for r in reversed(every)}.values())[::-1]


def _readings(path, found: StateDict, teacher) -> list[Recognised]:
    shapes = {name: tensor.shape for name, tensor in (*found.ignored.items(), *found.tensors.items())}
    try:
        readings = found.naming.readings(shapes)
    except (KeyError, ValueError, IndexError, TypeError) as error:
        raise UserError(
            f"{path} has names of {found.naming.family}, as {found.naming.name} names it, but lacks some of "
            f"its tensors ({error!r}): give an intact file."
        ) from error
    return [_recognised(path, found, shapes, teacher, *reading) for reading in readings]


def _recognised(path, found, shapes, teacher, arch, options, called) -> Recognised:
    style, head = found.head_style, found.head
    options = {key: value for key, value in options.items() if key != "num_classes"}
    options |= UNTOLD_OPTIONS.get(path.name, {})
    classifier = found.naming.to_torch("backbone/fc/kernel", ())
    if classifier in shapes and not (head and head.layers == 1 and classifier == f"{style}.weight"):
        options["num_classes"] = shapes[classifier][0]
    mean, std = (teacher.mean, teacher.std) if teacher else BY_HEAD.get(style, (IMAGENET_MEAN, IMAGENET_STD))
    assumed = not teacher and style not in BY_HEAD and "mean" not in options
    size = teacher.size if teacher else options.get("image_size", SIZES.get(arch, 224))
    mean, std = options.pop("mean", mean), options.pop("std", std)
    family, name = found.naming.family, found.naming.name
    prepared = preparation.of_network(family, arch, options, name, teacher.source if teacher else "")
    return Recognised(family, arch, options, head, name, mean, std, size, teacher, prepared, assumed, called)


def _with_metadata(path, metadata, recognised) -> Recognised:
    """What our own exports say of themselves goes before what their tensors tell."""
    try:
        said = {name: json.loads(metadata[name]) for name in ("options", "mean", "std", "size")}
        mean, std = ((float(r), float(g), float(b)) for r, g, b in (said["mean"], said["std"]))
        return dataclasses.replace(
            recognised,
            arch=metadata["arch"],
            options=dict(said["options"]),
            mean=mean,
            std=std,
            size=int(said["size"]),
            preparation=preparation.of_metadata(metadata),
            assumed=False,
            called="",
        )
    except (KeyError, ValueError, TypeError, RecursionError) as error:
        raise UserError(f"{path} has damaged metadata ({error!r}): export it again.") from error


def _under_torch_names(path, own: StateDict) -> list[StateDict]:
    """Our names tell a family only by what they would be called elsewhere: that, by every table that fits."""
    states = []
    for table in NAMINGS:
        names = heads.names(table, "fc", own.tensors)
        if None not in names.values() and set(table.signature) <= set(names.values()):
            tensors = {names[leaf]: naming.to_torch(table, leaf, own.tensors[leaf]) for leaf in names}
            states.append(state_dict.of_torch(path, tensors, None))
    if not states:
        families = ", ".join(state_dict.FAMILIES)
        raise UserError(f"{path} holds no network of a known family ({families}); give another file.")
    return states


def of_run(run) -> Recognised:
    """The network of a `workdir.Run`."""
    backbone, head = run.network.backbone, run.network.parts.get("head")
    return Recognised(
        family=type(backbone.module).__module__.rpartition(".")[2],
        arch=run.config.student.model,
        options={k: v for k, v in run.config.student.options.items() if k not in ("mean", "std")},
        head=head and Head(**{f.name: getattr(head, f.name) for f in dataclasses.fields(Head)}),
        naming="seed_jax",
        mean=backbone.mean,
        std=backbone.std,
        size=backbone.size or run.config.data.image_size,
    )


def _run(path):
    from seed_jax.train import workdir  # the checkpoint library takes seconds to import

    return workdir.load_run(path)
