"""The only mesh of the project, its shardings, and the start of a multi-host run."""

import ctypes
import os
from pathlib import Path

import jax
import numpy as np
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P

DATA_AXIS = "data"


def start() -> None:
    """Join the other hosts, if there are any, and keep compiled programs for the next start.

    There are where the environment has `JAX_COORDINATOR_ADDRESS`, or `SEED_JAX_MULTIHOST=1` on a pod that
    tells JAX by itself. The cache lies in the user's cache folder; `JAX_COMPILATION_CACHE_DIR` names another.
    """
    if "JAX_COORDINATOR_ADDRESS" in os.environ or os.environ.get("SEED_JAX_MULTIHOST") == "1":
        jax.distributed.initialize()
    if jax.default_backend() == "cpu":
        _keep_freed_memory()
    if jax.config.jax_compilation_cache_dir is None:
        cache = Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache"))
        jax.config.update("jax_compilation_cache_dir", str(cache / "seed_jax" / "xla"))


def _keep_freed_memory() -> None:
    """Let glibc keep large freed blocks, instead of returning them to the system.

    A program on a CPU allocates its temporaries anew each step, and faulting them in again cost a tenth to a
    third of a MobileNetV3 step. It has no effect where the C library has no `mallopt`.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        trim_threshold, mmap_max = -1, -4  # malloc.h
        mallopt(mmap_max, 0)
        mallopt(trim_threshold, 2**31 - 1)


def jit_once(function, **options):
    """`jax.jit` for a program that runs once, such as an initialisation.

    On a CPU compiling takes longer than running it, so it is compiled without optimisation: 10 s become 4
    for MobileNetV3-Small on two cores.
    """
    fast = {"xla_backend_optimization_level": 0} if jax.default_backend() == "cpu" else None
    return jax.jit(function, compiler_options=fast, **options)


def make_mesh(devices: list | None = None) -> jax.sharding.Mesh:
    """All devices on one axis, `data`.

    The axis is `Auto`: Gram matrices, permutations and dropout, which a distillation zoo is full of, raise
    under `Explicit` axes.
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
