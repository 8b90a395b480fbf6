"""Load a network with its weights from a file, an installed package or a run."""

import dataclasses
from typing import Any

from seed_jax import weights
from seed_jax.errors import UserError
from seed_jax.models.network import Joined
from seed_jax.train import workdir
from seed_jax.weights.preparation import Preparation, of_run


@dataclasses.dataclass(frozen=True)
class Pretrained:
    """A network, its variables, and the images that it expects.

    Attributes:
      network: backbone and head.
      variables: `{collection: tree}` of float32 arrays.
      size: side of the images, pixels.
      provenance: where the weights come from, for manifests.
      preparation: how photographs become such images.
      assumed: mean and std are ImageNet's because neither file nor options state them.
    """

    network: Joined
    variables: Any
    size: int
    provenance: dict
    preparation: Preparation = Preparation()
    assumed: bool = False


def load(
    spec: str,
    *,
    model: str = "",
    options: dict | None = None,
    size: int = 0,
    precision: str = "fp32",
    part: str | None = None,
    where: str = "teacher.weights",
    flags: tuple[str, str] = weights.FLAGS,
) -> Pretrained:
    """Load a network, backbone and head, with its weights.

    Args:
      spec: a weights file, the workdir of a run, or `pip:NAME`, as for `weights.load`.
      model: the architecture, where the file fits several. Ignored for a workdir.
      options: options of `models.create`, e.g. `mean` and `std`, which replace the file's. Ignored for a
        workdir.
      size: make the network resize other images to this side, pixels; 0: leave the network as it is.
      precision: `fp32` or `bf16`, for convolutions and matrix products.
      part: `student` or `teacher`, for a file with both; None: as `weights.load` chooses.
      where: what to call `spec` in messages.
      flags: what to call `model` and the option `form` in messages.

    Returns:
      The network, its variables in float32, and how its images are prepared.

    Raises:
      UserError: the weights are missing or damaged, fit several networks and `model` and `form` choose none,
        or do not fit `model`.
    """
    path, assumed = weights.source.find(spec, where), False
    if path.is_dir():
        run = workdir.load_run(path, precision=precision)
        network, variables = run.network, run.variables
        native = run.config.student.image_size or run.config.data.image_size
        preparation = of_run(run.config.data)
        provenance = weights.provenance.of_run(spec, run)
    else:
        options = options or {}
        form = options.get("form", "")
        recognised = weights.recognise(spec, arch=model, form=form, where=where, part=part, flags=flags)
        if recognised.advice:
            raise UserError(f"{where}: {spec} has {recognised}{recognised.advice}: use another file.")
        network, native = recognised.network(precision=precision, **options), recognised.size
        preparation = recognised.preparation
        assumed = recognised.assumed and not {"mean", "std"} <= set(options)
        variables = weights.load(spec, network, where=where, part=part)
        provenance = {"source": spec, **weights.describe_source(path)}
    if size:
        network = dataclasses.replace(network, backbone=dataclasses.replace(network.backbone, size=size))
    return Pretrained(network, variables, native, provenance, preparation, assumed)
