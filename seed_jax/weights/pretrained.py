"""Load a network with its weights from a file, an installed package or a run."""

import dataclasses
import functools
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from absl import logging

from seed_jax import weights
from seed_jax.data import images as pictures
from seed_jax.errors import UserError
from seed_jax.models.network import Features, Joined
from seed_jax.models.sections import Cut
from seed_jax.train import workdir
from seed_jax.weights import exits
from seed_jax.weights import preparation as preparations
from seed_jax.weights.preparation import Preparation


@dataclasses.dataclass(frozen=True, eq=False)
class Pretrained:
    """A network with its weights, called as `features = network(images)`.

    Attributes:
      network: backbone and head, or one that was cut after an exit.
      variables: `{collection: tree}` of float32 arrays.
      size: side of the images that the weights were made for, pixels.
      provenance: where the weights come from, for manifests.
      preparation: how photographs become such images; `prepare` does it.
      assumed: mean and std are ImageNet's because neither file nor options state them.
      arch: of the backbone, a key of `seed_jax.models.MODELS`.
      class_names: of the classes that a run was trained on; empty if they are not known.
    """

    network: Joined
    variables: Any = dataclasses.field(repr=False)
    size: int
    provenance: dict
    preparation: Preparation = Preparation()
    assumed: bool = False
    arch: str = ""
    class_names: tuple[str, ...] = dataclasses.field(default=(), repr=False)

    def __call__(self, images: np.ndarray | jax.Array) -> Features:
        """Return all features of images, in eval mode. The first call for a shape compiles.

        The network normalises the images itself. It resizes them only if it was loaded with `size`; otherwise
        it takes images of any side, and those of `self.size` pixels suit it best. A vision transformer needs
        sides that its patches divide.

        Args:
          images: `[B, H, W, 3]`, RGB: uint8, or float in [0, 1].

        Returns:
          `pooled`, float32 `[B, D]`; `logits` if there is a classifier; `embedding` if there is a head;
          `stem`, `stage1` to `stage4`: `[B, h, w, C]`, or tokens `[B, T, D]` of a vision transformer.

        Raises:
          UserError: the images have another shape or dtype.
        """
        if not hasattr(images, "dtype"):
            images = np.asarray(images)
        real = images.dtype == np.uint8 or jnp.issubdtype(images.dtype, jnp.floating)
        if not real or images.ndim != 4 or images.shape[3] != 3:
            raise UserError(
                f"The images are {images.dtype} {list(images.shape)}: pass uint8, or float in [0, 1], of "
                f"shape [B, H, W, 3], H and W preferably {self.size}."
            )
        return self._forward(self._placed, images)

    def prepare(self, photograph: str | os.PathLike | bytes | np.ndarray) -> np.ndarray:
        """A photograph as the network's authors prepare it, uint8 `[size, size, 3]`.

        Args:
          photograph: a file, its bytes, or uint8 pixels `[H, W, 3]`.

        Raises:
          UserError: the file is missing, it cannot be decoded, or the pixels have another shape or dtype.
        """
        name = "The photograph"
        if isinstance(photograph, np.ndarray):
            if photograph.dtype != np.uint8 or photograph.ndim != 3 or photograph.shape[2] != 3:
                raise UserError(
                    f"The photograph is {photograph.dtype} {list(photograph.shape)}: pass a file, its bytes, "
                    "or uint8 pixels of shape [H, W, 3]."
                )
        elif not isinstance(photograph, bytes):
            name = os.fspath(photograph)
            try:
                photograph = Path(photograph).read_bytes()
            except OSError as error:
                raise UserError(
                    f"{name} cannot be read ({error.strerror}): pass the path of an image."
                ) from error
        how = self.preparation
        try:
            pixels = pictures.load_rgb(pictures.open_image(photograph), background=how.background)
        except pictures.BadImage as error:
            raise UserError(f"{name} cannot be decoded ({error}): pass an image.") from error
        return pictures.eval_view(pixels, self.size, how.resize, how.interpolation)

    @functools.cached_property
    def _placed(self):
        return jax.device_put(self.variables)

    @functools.cached_property
    def _forward(self):
        def forward(variables, images):
            scale = 255 if images.dtype == jnp.uint8 else 1
            return self.network.apply(variables, images.astype(jnp.float32) / scale, train=False)[0]

        return jax.jit(forward)


def load(
    spec: str | os.PathLike,
    *,
    model: str = "",
    options: Mapping[str, Any] | None = None,
    size: int = 0,
    precision: str = "fp32",
    part: str | None = None,
) -> Pretrained:
    """Load a network with its weights: backbone, head and classifier, whatever the file has.

    >>> network = seed_jax.load("pip:efficientnet-lite0")  # doctest: +SKIP
    >>> network(images)["pooled"].shape  # images: uint8 [8, 224, 224, 3]
    (8, 1280)

    Args:
      spec: a weights file (`.pth`, `.pth.tar`, `.pt`, `.safetensors`, `.npz`), the workdir of a run, or
        `pip:efficientnet-lite0`. docs/weights.md lists the networks that are recognised.
      model: the architecture, a key of `seed_jax.models.MODELS`, if the file fits several. Ignored for a
        workdir.
      options: options of `seed_jax.models.create`, e.g. `mean`, `std` or `form`; they replace the file's.
        Ignored for a workdir.
      size: the network resizes images of another side to this one, pixels; 0: it takes them as they are.
      precision: `fp32` or `bf16`, for convolutions and matrix products.
      part: `student` or `teacher`, for a file with both. By default the student of SEED's files and the
        teacher of DINO's and EsViT's.

    Returns:
      The network with its variables in float32, ready to be called on images.

    Raises:
      UserError: the weights are missing or damaged, fit several networks and `model` and `form` choose none,
        or do not fit `model`.
    """
    given = {"options": options, "size": size, "precision": precision, "part": part}
    return load_named(spec, flags=("model", "options['form']", "options['window']"), model=model, **given)


def load_named(
    spec: str | os.PathLike,
    *,
    where: str = "",
    flags: tuple[str, str, str] | None = None,
    model: str = "",
    options: Mapping[str, Any] | None = None,
    windows: Mapping[str, Any] | None = None,
    size: int = 0,
    precision: str = "fp32",
    part: str | None = None,
) -> Pretrained:
    """Load a network as `load` does, with error messages that name the caller's settings.

    Args:
      where: the config key that `spec` comes from, e.g. `student.init`; '' if it comes from none.
      flags: what messages call `model` and the options `form` and `window`; by default the keys of `where`'s
        section.
      windows: has the options of the windows of a Swin V2, if the file lacks them; by default `options`.
      spec, model, options, size, precision, part: as for `load`.

    Raises:
      UserError: as `load`.
    """
    spec = os.fspath(spec)
    path, assumed, names = weights.source.find(spec, where), False, ()
    section = where.partition(".")[0]
    keys = (f"--config.{section}.model", *(f"config.{section}.options.{key}" for key in ("form", "window")))
    flags = flags or keys
    if path.is_dir():
        found = of_run(spec, workdir.load_run(path, precision=precision))
        network, variables, native = found.network, found.variables, found.size
        preparation, provenance, arch = found.preparation, found.provenance, found.arch
        names = found.class_names
    elif exits.holds(path):
        network, variables, found = exits.read(path, precision=precision, size=size, **(options or {}))
        if where == "student.init" and isinstance(network, Cut):
            raise UserError(
                f"{where}: {spec} is one exit, without the stages after it: use the workdir of the run, or "
                "an export without --exit."
            )
        facts = {"source": spec, **weights.describe_source(path)}
        if model not in ("", found.arch):
            raise UserError(
                f"{weights.source.prefix(where)}{spec} has exits of {found.arch}, not of {model}: leave "
                f"{flags[0]} empty."
            )
        return Pretrained(network, variables, found.size, facts, found.preparation, arch=found.arch)
    else:
        options = dict(options or {})
        recognised = weights.recognise(
            spec,
            arch=model,
            form=options.get("form", ""),
            windows=options if windows is None else windows,
            where=where,
            part=part,
            flags=flags,
        )
        if recognised.advice:
            raise UserError(
                f"{weights.source.prefix(where)}{spec} has {recognised}{recognised.advice}: use another file."
            )
        if recognised.assumed:
            _warn(spec, recognised, {**recognised.options, **options})
        network, native = recognised.network(precision=precision, **options), recognised.size
        preparation, arch = recognised.preparation, recognised.arch
        assumed = recognised.assumed and not {"mean", "std"} <= set(options)
        variables = weights.load(spec, network, where=where, part=part)
        provenance = {"source": spec, **weights.describe_source(path)}
    if size:
        network = dataclasses.replace(network, backbone=dataclasses.replace(network.backbone, size=size))
    return Pretrained(network, variables, native, provenance, preparation, assumed, arch, names)


def of_run(spec: str | os.PathLike, run: workdir.Run) -> Pretrained:
    """The network of a run that `workdir.load_run` read from the workdir `spec`."""
    return Pretrained(
        run.network,
        run.variables,
        run.config.student.image_size or run.config.data.image_size,
        weights.provenance.of_run(spec, run),
        preparations.of_run(run.config.data),
        arch=run.config.student.model,
        class_names=tuple(run.manifest.get("class_names", ())),
    )


def _warn(spec: str, recognised: weights.Recognised, options: Mapping[str, Any]) -> None:
    """Log what the tensors of other networks, which compute something else, look like too."""
    if recognised.family == "fd_vit" and not {"mean", "std"} <= options.keys():
        logging.warning(
            "%s has tensors as Feature-Distillation and BEiT write them, and is read with ImageNet's mean "
            "and std: for BEiT set the options mean and std to (0.5, 0.5, 0.5), but not for BEiT v2.",
            spec,
        )
    classified = "num_classes" in recognised.options
    if recognised.family == "swin" and not classified and "epsilon" not in options:
        logging.warning(
            "%s has a Swin without a classifier, and is read with LayerNorm's epsilon 1e-5: for EsViT's set "
            "the option epsilon to 1e-6.",
            spec,
        )
