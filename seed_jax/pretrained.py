"""Any network that there are weights for, ready to run: of a file, of an installed package, of a run."""

import dataclasses
from typing import Any

from seed_jax import weights
from seed_jax.errors import UserError
from seed_jax.models.network import Joined
from seed_jax.train import workdir
from seed_jax.weights.preparation import Preparation


@dataclasses.dataclass(frozen=True)
class Pretrained:
    """A network and how its images are prepared.

    `size`: side of the images it is meant for, pixels. `preparation`: how photographs become such.
    `provenance`: where it came from, for manifests. `assumed`: its mean and std are ImageNet's because
    nothing tells them.
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
    """The network of `spec`, as `weights.load` takes it, backbone and head.

    `model` and `options` (of `models.create`, `mean` and `std` among them) are needed only where the file
    does not tell; they are the run's own when `spec` is a workdir. `size`: to which images of another size
    are resized; 0 takes them as they come. `where`, `flags`: what to call `spec`, and `model` and the option
    `form`, in messages.

    Raises UserError for weights that are absent, broken, or of another network than `model`.
    """
    path, preparation = weights.source.find(spec, where), Preparation()
    assumed = False
    if path.is_dir():
        run = workdir.load_run(path, precision=precision)
        network, variables = run.network, run.variables
        native = run.config.student.image_size or run.config.data.image_size
        provenance = weights.provenance.of_run(spec, run)
    else:
        options = options or {}
        form = options.get("form", "")
        found = weights.recognise(spec, arch=model, form=form, where=where, part=part, flags=flags)
        if found.advice:
            raise UserError(f"{where}: {spec} holds {found}{found.advice}: give another file.")
        network, native = found.network(precision=precision, **options), found.size
        preparation = found.preparation
        assumed = found.assumed and not {"mean", "std"} <= set(options)
        variables = weights.load(spec, network, where=where, part=part)
        provenance = {"source": spec, **weights.describe_source(path)}
    if size:
        network = dataclasses.replace(network, backbone=dataclasses.replace(network.backbone, size=size))
    return Pretrained(network, variables, native, provenance, preparation, assumed)
