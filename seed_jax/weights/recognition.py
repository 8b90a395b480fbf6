"""Recognise the network in a weights file from the names and shapes of its tensors."""

import dataclasses
import difflib
import json
from collections.abc import Mapping
from pathlib import Path

import numpy as np
from flax import traverse_util

from seed_jax import models
from seed_jax.errors import UserError
from seed_jax.models.heads import ProjectionHead
from seed_jax.models.network import IMAGENET_MEAN, IMAGENET_STD
from seed_jax.weights import (
    array_files,
    crd,
    heads,
    preparation,
    provenance,
    source,
    state_dict,
    swin,
    torch_file,
)
from seed_jax.weights import naming as naming_lib
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
# Mean and std of files that are not published ones, by the naming style of their head.
BY_HEAD = {"projection_head": (IMAGENET_MEAN, provenance.SWAV_STD), "projection": ((0.0,) * 3, (1.0,) * 3)}

# What names and shapes do not show. MoCo v3's classifier file has those of a DeiT, which mean 6 heads.
OPTIONS_BY_FILE = {"linear-vit-s-300ep.pth.tar": {"heads": 12}}
ARGUMENTS = ("arch", "form", "window")


@dataclasses.dataclass(frozen=True)
class Recognised:
    """The network in a file: `models.create(arch, mean=mean, std=std, **options)` and a head, if it has one.

    Attributes:
      family: a file in `seed_jax/models/` without its suffix, e.g. `resnet`.
      arch, options: arguments of `models.create`. If the shapes fit no architecture of the family, `arch` is
        a description of them, which `create` refuses.
      head: the projection head.
      naming: the name of the tensors' naming, e.g. `torchvision`.
      mean, std: of the images, which are in [0, 1].
      size: side of the images, pixels.
      preparation: how photographs become such images.
      assumed: mean and std are ImageNet's because the file does not state them.
      called: the network's name in the code base, where tensor names do not identify it; else empty.
    """

    family: str
    arch: str
    options: dict
    head: Head | None
    naming: str
    mean: tuple[float, ...] = IMAGENET_MEAN
    std: tuple[float, ...] = IMAGENET_STD
    size: int = 224
    preparation: Preparation = Preparation()
    assumed: bool = False
    called: str = ""

    def __str__(self):
        network = ", ".join([self.arch, *(f"{key}={value}" for key, value in self.options.items())])
        if self.head is None:
            return f"{network} without a projection head"
        values = dataclasses.asdict(self.head)
        shown = [f.name for f in dataclasses.fields(Head) if values[f.name] != f.default]
        fields = ", ".join(f"{name}={values[name]}" for name in shown)
        return f"{network} with a projection head ({fields})"

    @property
    def advice(self) -> str:
        """The architecture closest to an `arch` that `models.create` does not know; else empty."""
        if self.arch in models.MODELS:
            return ""
        return f" (the closest is {difflib.get_close_matches(self.arch, models.MODELS, n=1, cutoff=0)[0]})"

    def network(self, **options) -> models.Joined:
        """Return the network with its head. `options` of `models.create` replace the file's."""
        trained = swin.trained(self.options, options) if self.family == "swinv2" else {}
        options = {"mean": self.mean, "std": self.std, **self.options, **trained, **options}
        parts = {"head": ProjectionHead(**dataclasses.asdict(self.head))} if self.head else {}
        return models.Joined(models.create(self.arch, **options), parts)


def recognise(
    spec,
    *,
    arch: str = "",
    form: str = "",
    windows: Mapping[str, int] | None = None,
    where: str = "",
    part: str | None = None,
    flags: tuple[str, str, str] = ARGUMENTS,
) -> Recognised:
    """Recognise the network in a file, workdir or package.

    Args:
      spec, where, part: as for `load`.
      arch: the architecture, where the tensors fit several.
      form: the form of a vision transformer, where the tensors fit several.
      windows: the options `window` and others of `swin.WINDOWS`, for a Swin V2 whose file lacks them.
      flags: what to call `arch`, `form` and the option `window` in messages.

    Raises:
      UserError: the file is missing or damaged, its network is of no known family, the tensors fit several
        networks and `arch`, `form` and `windows` do not choose one, or they do not fit `arch`.
    """
    path = source.find(spec, where)
    if path.is_dir():
        return of_run(_run(path))
    fits = candidates(path, read(path, part), provenance.published(path))
    return choose(path, fits, arch, form, windows, where, flags)


def choose(
    path, fits: list[Recognised], arch="", form="", windows=None, where="", flags=ARGUMENTS
) -> Recognised:
    """Return the candidate that `arch` and `form` choose, or the only one, with its windows.

    `fits`: from `candidates`; other arguments and errors as for `recognise`.
    """
    if form:
        fits = _distinct([dataclasses.replace(r, options=r.options | {"form": form}) for r in fits])
    chosen = [r for r in fits if arch in ("", r.arch)]
    if not chosen:
        known = [r.arch for r in fits if r.arch in models.MODELS]
        choices = " or ".join(_setting(flags[0], arch) for arch in known)
        fix = f"use {choices}, or leave it out" if known else "use another file"
        raise UserError(f"{source.prefix(where)}{path} has {' or '.join(map(str, fits))}, not {arch}: {fix}.")
    if len(chosen) > 1 or (chosen[0].called and not arch and not form):
        choices = "; ".join(_choice(r, chosen, flags) for r in chosen)
        raise UserError(
            f"{source.prefix(where)}{path} has the tensor names and shapes of several networks that compute "
            f"different things: choose one with {choices}."
        )
    if chosen[0].options.get("window") == swin.UNKNOWN:
        return _with_windows(path, chosen[0], windows or {}, where, flags)
    return chosen[0]


def _with_windows(path, recognised: Recognised, windows: Mapping[str, int], where, flags) -> Recognised:
    if not windows.get("window"):
        raise UserError(
            f"{source.prefix(where)}{path} has {recognised.arch} without the constants that show its windows "
            f"(relative_coords_table): set their side with {_setting(flags[2], 8)}, as in the network's name."
        )
    told = {key: windows[key] for key in swin.WINDOWS if key in windows}
    options = {**recognised.options, "image_size": swin.usual_size(told["window"]), **told}
    return dataclasses.replace(recognised, options=options, size=options["image_size"])


def _choice(recognised, alternatives, flags):
    """The flag that chooses this network among the alternatives."""
    if len({r.arch for r in alternatives}) < len(alternatives):
        flag = _setting(flags[1], recognised.options["form"])
    else:
        flag = _setting(flags[0], recognised.arch)
    return f"{flag} ({recognised.called})" if recognised.called else flag


def _setting(name, value):
    """How a user sets a flag, a config key or a Python argument."""
    return f"{name}={value}" if "-" in name or "." in name else f"{name}={value!r}"


def read(path: Path, part: str | None) -> StateDict:
    """Return the tensors of one network in a file or workdir; tensors of a file are views of it."""
    if path.is_dir():
        flat = traverse_util.flatten_dict(_run(path).variables, sep="/")
        return state_dict.of_own({name: np.asarray(leaf) for name, leaf in flat.items()})
    if path.suffix == ".npz":
        return state_dict.of_own(array_files.read_npz(path))
    read_tensors = array_files.read_safetensors if path.suffix == ".safetensors" else torch_file.read
    return state_dict.of_torch(path, read_tensors(path), part)


def candidates(path: Path, state: StateDict, teacher: provenance.Teacher | None) -> list[Recognised]:
    """Return every network that the tensors read from `path` fit, the likeliest first.

    `teacher`: the facts about a published file.

    Raises:
      UserError: the tensors fit no known family.
    """
    states = _under_torch_names(path, state) if state.own_names else [state]
    fits = _distinct([recognised for state in states for recognised in _readings(path, state, teacher)])
    if state.own_names:  # another naming of the family may have no such network
        fits = [r for r in fits if r.arch in models.MODELS] or fits
    if path.suffix == ".safetensors" and "seed_jax" in (metadata := array_files.safetensors_metadata(path)):
        return [with_metadata(path, metadata, fits[0])]
    return fits


def _distinct(fits):
    """The first candidate of each architecture and form."""
    return list({(r.arch, r.options.get("form")): r for r in reversed(fits)}.values())[::-1]


def _readings(path, state: StateDict, teacher) -> list[Recognised]:
    shapes = {name: tensor.shape for name, tensor in (*state.ignored.items(), *state.tensors.items())}
    try:
        readings = state.naming.readings(shapes)
        constants = swin.trained_windows(state.ignored) if state.naming.family == "swinv2" else {}
    except (KeyError, ValueError, IndexError, TypeError) as error:
        raise UserError(
            f"{path} looks like {state.naming.family} under {state.naming.name}'s names but lacks some of "
            f"its tensors ({error!r}): use an intact file."
        ) from error
    return [
        _recognised(path, state, shapes, teacher, arch, options | constants, called)
        for arch, options, called in readings
    ]


def _recognised(path, state, shapes, teacher, arch, options, called) -> Recognised:
    style, head = state.head_style, state.head
    options = {key: value for key, value in options.items() if key != "num_classes"}
    options |= OPTIONS_BY_FILE.get(path.name, {})
    classifier = state.naming.to_torch("backbone/fc/kernel", ())
    if classifier in shapes and not (head and head.layers == 1 and classifier == f"{style}.weight"):
        options["num_classes"] = shapes[classifier][0]
    mean, std = (teacher.mean, teacher.std) if teacher else BY_HEAD.get(style, (IMAGENET_MEAN, IMAGENET_STD))
    assumed = not teacher and style not in BY_HEAD and "mean" not in options
    usual = crd.SIZE if state.naming.name == crd.NAME else SIZES.get(arch, 224)
    size = teacher.size if teacher else options.get("image_size", usual)
    mean, std = options.pop("mean", mean), options.pop("std", std)
    family, name = state.naming.family, state.naming.name
    prepared = preparation.of_network(family, arch, options, name, teacher.source if teacher else "")
    return Recognised(family, arch, options, head, name, mean, std, size, prepared, assumed, called)


def with_metadata(path, metadata, recognised: Recognised) -> Recognised:
    """Replace what the tensors show by what the metadata of our own export state.

    Raises:
      UserError: the metadata are damaged.
    """
    try:
        values = {name: json.loads(metadata[name]) for name in ("options", "mean", "std", "size")}
        mean, std = ((float(r), float(g), float(b)) for r, g, b in (values["mean"], values["std"]))
        return dataclasses.replace(
            recognised,
            arch=metadata["arch"],
            options=dict(values["options"]),
            mean=mean,
            std=std,
            size=int(values["size"]),
            preparation=preparation.of_metadata(metadata),
            assumed=False,
            called="",
        )
    except (KeyError, ValueError, TypeError, RecursionError) as error:
        raise UserError(f"{path} has damaged metadata ({error!r}): export it again.") from error


def _under_torch_names(path, own: StateDict) -> list[StateDict]:
    """Rename tensors from our names to each naming that has a name for all of them."""
    states = []
    for naming in NAMINGS:
        names = heads.names(naming, "fc", own.tensors)
        if None not in names.values() and set(naming.signature) <= set(names.values()):
            tensors = {names[leaf]: naming_lib.to_torch(naming, leaf, own.tensors[leaf]) for leaf in names}
            states.append(state_dict.of_torch(path, tensors, None))
    if not states:
        families = ", ".join(state_dict.FAMILIES)
        raise UserError(f"{path} has no network of a known family ({families}): use another file.")
    return states


def of_run(run) -> Recognised:
    """Describe the network of a `workdir.Run`."""
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
        preparation=preparation.of_run(run.config.data),
    )


def _run(path):
    from seed_jax.train import workdir  # the checkpoint library takes seconds to import

    return workdir.load_run(path)
