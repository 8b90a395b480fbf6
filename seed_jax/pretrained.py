"""Any network that there are weights for, ready to run: of a file, of an installed package, of a run."""

import dataclasses
from typing import Any

from seed_jax import models, weights, workdir
from seed_jax.errors import UserError
from seed_jax.models.network import Joined
from seed_jax.weights.preparation import Preparation


@dataclasses.dataclass(frozen=True)
class Pretrained:
    """A network and how its images are prepared.

    `size`: side of the images it is meant for, pixels. `preparation`: how photographs become such.
    `provenance`: where it came from, for manifests.
    """

    network: Joined
    variables: Any
    size: int
    provenance: dict
    preparation: Preparation = Preparation()


def load(
    spec: str,
    *,
    model: str = "",
    options: dict | None = None,
    size: int = 0,
    precision: str = "fp32",
    part: str | None = None,
    where: str = "teacher.weights",
    flag: str = "--config.teacher.model",
) -> Pretrained:
    """The network of `spec`, as `weights.load` takes it, backbone and head.

    `model` and `options` (of `models.create`) are needed only where the file does not tell; they are the
    run's own when `spec` is a workdir. `size`: to which images of another size are resized; 0 takes them as
    they come. `where`, `flag`: what to call `spec` and `model` in messages.

    Raises UserError for weights that are absent, broken, or of another network than `model`.
    """
    path, preparation = weights.source.find(spec, where), Preparation()
    if path.is_dir():
        run = workdir.load_run(path, precision=precision)
        network, variables = run.network, run.variables
        native = run.config.student.image_size or run.config.data.image_size
        provenance = weights.provenance.of_run(spec, run)
    else:
        found = weights.recognise(spec, where=where, part=part)
        if model not in ("", found.arch):
            known = found.arch in models.MODELS
            way_out = f"use {flag}={found.arch}, or leave it out" if known else "give another file"
            raise UserError(f"{where}: {spec} holds {found}, and not {model}: {way_out}.")
        network, native = found.network(precision=precision, **(options or {})), found.size
        preparation = found.preparation
        variables = weights.load(spec, network, where=where, part=part)
        provenance = {"source": spec, **weights.describe_source(path)}
    if size:
        network = dataclasses.replace(network, backbone=dataclasses.replace(network.backbone, size=size))
    return Pretrained(network, variables, native, provenance, preparation)
