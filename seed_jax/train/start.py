"""The student's start: the backbone of other weights, if `student.init` names some."""

import dataclasses

import jax

from seed_jax import models
from seed_jax.config import Config
from seed_jax.errors import UserError
from seed_jax.models.network import LinenNetwork
from seed_jax.weights import pretrained

WINDOWS = ("window", "image_size")
# They describe other arrays, or change nothing that a trained network computes.
NOT_COMPARED = {*models.NOT_OPTIONS, "num_classes", *models.INERT}


def load(config: Config, backbone: LinenNetwork):
    """The backbone that `student.init` names, `{collection: tree}` on the host, and its provenance.

    Args:
      backbone: the student's, which is to start from it.

    Returns:
      (None, None) if `student.init` is empty.

    Raises:
      UserError: there are no such weights, or their network computes something else with the same arrays and
        the architecture cannot adapt them (`layers.Architecture.adapt`).
    """
    s = config.student
    if not s.init:
        return None, None
    # Settings that the file states are not passed, so that they can be compared.
    untold = {key: s.options[key] for key in ("form", "small_stem") if key in s.options}
    if "window" in s.options:  # of a Swin transformer, whose weights serve windows of any size
        untold |= {key: s.options[key] for key in WINDOWS if key in s.options}
    loaded = pretrained.load_named(
        s.init,
        model=s.model,
        options={"num_classes": s.options.get("num_classes"), **untold},
        windows=s.options,
        where="student.init",
    )
    other = loaded.network.backbone
    alike = type(other.module) is type(backbone.module)
    adapts = getattr(backbone.module, "adapts", frozenset()) if alike else frozenset()
    theirs, ours = (_settings(network) for network in (other, backbone))
    if loaded.assumed:
        theirs |= {"mean": ours["mean"], "std": ours["std"]}
    shared = (theirs.keys() & ours.keys()) - adapts
    if differ := [key for key in shared if theirs[key] != ours[key]]:
        there, here = (", ".join(f"{k}={v[k]!r}" for k in sorted(differ)) for v in (theirs, ours))
        raise UserError(
            f"student.init: the network of {s.init} has {there}, and the student {here}: set the same in "
            "config.student.options of the config file, or its model by --config.student.model."
        )
    start = {name: trees["backbone"] for name, trees in loaded.variables.items() if "backbone" in trees}
    if adapts:
        start["params"] = backbone.module.adapt(start["params"], other.module)
    return jax.device_get(start), loaded.provenance


def _settings(network: LinenNetwork) -> dict:
    """All that a backbone's output depends on besides its arrays."""
    fields = {f.name: getattr(network.module, f.name) for f in dataclasses.fields(network.module)}
    compared = {name: value for name, value in fields.items() if name not in NOT_COMPARED}
    return {**compared, "mean": tuple(network.mean), "std": tuple(network.std)}
