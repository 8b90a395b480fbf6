"""The student: the network that a run trains, its fresh variables, and the network that later runs load."""

import dataclasses
import functools

import jax
import jax.numpy as jnp

from seed_jax import models
from seed_jax.config import Config
from seed_jax.data import rng
from seed_jax.errors import UserError
from seed_jax.methods.base import FeatureShapes, Given, Method, feature_shapes
from seed_jax.models.network import Network


def make_given(
    config: Config, num_classes: int, steps: int, steps_per_epoch: int, teacher, teacher_prefix: int
) -> Given:
    """Create the `Given` of a run; `teacher` has the shapes of the teacher's features, or is None."""
    d, t = config.data, config.train
    return Given(
        batch_size=d.batch_size,
        num_classes=num_classes,
        image_size=d.image_size,
        steps=steps,
        steps_per_epoch=steps_per_epoch,
        teacher=None if teacher is None else FeatureShapes(teacher),
        bn_group=t.bn_group or None,
        dtype=models.DTYPES[t.precision],
        teacher_prefix=teacher_prefix,
    )


def network(config: Config, given: Given) -> Network:
    """The student: its backbone and the parts of the method.

    Raises:
      UserError: the method needs labels and the data has none, or the model does not have an option.
    """
    if config.method.needs_labels and given.num_classes < 2:
        way, has = config.method.without_labels, "one class" if given.num_classes else "none"
        raise UserError(
            f"{config.method_name} needs labels, and data.source has {has}: use a labelled source, such as "
            f"'imagefolder', a folder with one sub-folder per class{f', or --config.{way}' if way else ''}."
        )
    s = config.student
    backbone = models.create(
        s.model,
        size=s.image_size or None,
        precision=config.train.precision,
        bn_group=given.bn_group,
        **s.options,
    )
    return config.method.network(backbone, given)


def init_variables(network: Network, image_size: int, seed: int):
    """Fresh variables of a network."""
    return network.init(rng.stream(seed, "init"), jnp.zeros((2, image_size, image_size, 3), jnp.float32))


def with_student(given: Given, network: Network) -> Given:
    """`given` as `Method.init_aux` sees it: with the features of the student's network."""
    return dataclasses.replace(given, student=functools.partial(feature_shapes, network, given.image_size))


def with_backbone(variables, backbone, spec: str):
    """`variables` with the backbone of another network, `{collection: tree}`.

    Raises:
      UserError: the shapes differ; `spec` names where that backbone came from.
    """
    own = {name: trees["backbone"] for name, trees in variables.items() if "backbone" in trees}
    if jax.tree.map(jnp.shape, own) != jax.tree.map(jnp.shape, backbone):
        raise UserError(
            f"student.init: {spec} holds another network than student.model and student.options describe: "
            f"`python -m seed_jax.weights inspect {spec}` names it."
        )
    return {
        name: {**trees, "backbone": backbone[name]} if name in backbone else trees
        for name, trees in variables.items()
    }


def served(method: Method, network: Network, given: Given, variables=None):
    """The network that later runs load, and the shapes of its variables (`Method.served`).

    `variables`: shapes of the student's own, if they are known already.
    """
    if variables is None:
        variables = jax.eval_shape(lambda: init_variables(network, given.image_size, 0))

    given = with_student(given, network)

    def kept(variables):
        return method.served(variables, method.init_aux(jax.random.key(0), given, variables))

    shapes = jax.eval_shape(kept, variables)
    dropped = variables["params"].keys() - shapes["params"].keys()
    if dropped:
        parts = {name: part for name, part in network.parts.items() if name not in dropped}
        network = dataclasses.replace(network, parts=parts)
    return network, shapes
