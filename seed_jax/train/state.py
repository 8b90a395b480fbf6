"""What a run carries from step to step: arrays only."""

from typing import Any

import jax
import jax.numpy as jnp
from flax import struct
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P

from seed_jax import models, parallel, rng
from seed_jax.errors import UserError
from seed_jax.methods.base import Info, Method
from seed_jax.models.network import Network
from seed_jax.queue import Queue


@struct.dataclass
class TrainState:
    """`step` int32: updates made so far; `aux`: what the method carries besides (queue, EMA copy)."""

    step: jax.Array
    params: Any
    model_state: Any
    opt_state: Any
    aux: Any


def student_network(config, num_classes: int, teacher_dim: int | None, *, precision: str | None = None):
    """The network that a run trains: the student's backbone and what the method trains with it."""
    s, t = config.student, config.train
    backbone = models.create(
        s.model,
        size=s.image_size or None,
        precision=precision or t.precision,
        bn_group=t.bn_group or None,
        **s.options,
    )
    return config.method.network(backbone, num_classes, teacher_dim)


def init_variables(network: Network, image_size: int, seed: int):
    """Fresh variables of a network."""
    return network.init(rng.stream(seed, "init"), jnp.zeros((2, image_size, image_size, 3), jnp.float32))


def with_backbone(variables, backbone, origin: str):
    """`variables` with the backbone of another network, `{collection: tree}`.

    Raises:
      UserError: it is another network; `origin` says where it came from.
    """
    own = {name: trees["backbone"] for name, trees in variables.items() if "backbone" in trees}
    if jax.tree.map(jnp.shape, own) != jax.tree.map(jnp.shape, backbone):
        raise UserError(
            f"student.init ({origin}) holds another network than student.model and student.options describe: "
            f"`python -m seed_jax.weights inspect {origin}` says which."
        )
    return {
        name: {**trees, "backbone": backbone[name]} if name in backbone else trees
        for name, trees in variables.items()
    }


def init_state(
    variables, method: Method, tx, *, seed: int, batch_size: int, teacher_dim: int | None
) -> TrainState:
    """The state at step 0."""
    params = variables["params"]
    info = Info(batch_size, variables, teacher_dim)
    return TrainState(
        step=jnp.int32(0),
        params=params,
        model_state={k: v for k, v in variables.items() if k != "params"},
        opt_state=tx.init(params),
        aux=method.init_aux(rng.stream(seed, "aux"), info),
    )


def shardings(mesh, state: TrainState):
    """Queues over the devices on their batch axis, everything else on every device."""

    def place(x):
        if isinstance(x, Queue):
            slots = NamedSharding(mesh, P(None, parallel.DATA_AXIS))
            return Queue(slots, parallel.replicated(mesh), parallel.replicated(mesh))
        return parallel.replicated(mesh)

    return jax.tree.map(place, state, is_leaf=lambda x: isinstance(x, Queue))
