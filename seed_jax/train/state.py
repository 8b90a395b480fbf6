"""The state of a run, carried from step to step: arrays only."""

from typing import Any

import jax
import jax.numpy as jnp
from flax import struct
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P

from seed_jax import parallel
from seed_jax.data import rng
from seed_jax.methods.base import Given, Method
from seed_jax.methods.queue import Queue


@struct.dataclass
class TrainState:
    """The state of a run.

    Attributes:
      step: int32, updates made so far.
      params, model_state: the student's variables.
      opt_state: the optimizer's.
      aux: other state of the method, such as a queue.
      ema: moving average of the student's variables; an empty dict without one.
    """

    step: jax.Array
    params: Any
    model_state: Any
    opt_state: Any
    aux: Any
    ema: Any = struct.field(default_factory=dict)


def init(variables, method: Method, given: Given, tx, *, seed: int, ema: bool) -> TrainState:
    """The state at step 0, from the student's fresh variables."""
    params = variables["params"]
    return TrainState(
        step=jnp.int32(0),
        params=params,
        model_state={k: v for k, v in variables.items() if k != "params"},
        opt_state=tx.init(params),
        aux=method.init_aux(rng.stream(seed, "aux"), given, variables),
        ema=jax.tree.map(jnp.copy, variables) if ema else {},
    )


def served(method: Method, state: TrainState):
    """The variables that are probed, exported and loaded by later runs: of the EMA if there is one."""
    return method.served(state.ema or {"params": state.params, **state.model_state}, state.aux)


def shardings(mesh, state: TrainState, *, divided: bool = False):
    """Queues over the devices on their batch axis, everything else as `parallel.variable_shardings`."""

    def place(x):
        if isinstance(x, Queue):
            slots = NamedSharding(mesh, P(None, parallel.DATA_AXIS))
            return Queue(slots, parallel.replicated(mesh), parallel.replicated(mesh))
        return parallel.variable_shardings(mesh, x, divided=divided)

    return jax.tree.map(place, state, is_leaf=lambda x: isinstance(x, Queue))
