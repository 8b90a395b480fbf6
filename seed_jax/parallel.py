"""The only mesh of the project, its shardings, and the start of a multi-host run."""

import os

import jax
import numpy as np
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P

DATA_AXIS = "data"


def start_hosts() -> None:
    """Join the other hosts of a multi-host run when the environment names a coordinator or a pod."""
    if "JAX_COORDINATOR_ADDRESS" in os.environ or os.environ.get("SEED_JAX_MULTIHOST") == "1":
        jax.distributed.initialize()


def make_mesh(devices: list | None = None) -> jax.sharding.Mesh:
    """All devices on one axis, `data`.

    The axis is `Auto`: Gram matrices, permutations and dropout, which a distillation zoo is full of, raise under
    `Explicit` axes.
    """
    devices = jax.devices() if devices is None else devices
    return jax.make_mesh((len(devices),), (DATA_AXIS,), axis_types=(AxisType.Auto,), devices=devices)


def replicated(mesh) -> NamedSharding:
    return NamedSharding(mesh, P())


def batch_sharding(mesh) -> NamedSharding:
    """Sharding of arrays whose leading axis is the batch."""
    return NamedSharding(mesh, P(DATA_AXIS))


def to_devices(mesh, batch):
    """A global batch (a pytree of arrays) from this process's own rows of it."""
    sharding = batch_sharding(mesh)
    return jax.tree.map(lambda x: jax.make_array_from_process_local_data(sharding, np.asarray(x)), batch)
