"""The only mesh of the project, its shardings, and the start of a multi-host run."""

import contextlib
import ctypes
import os
import re
import signal
import sys
import time
import traceback
from collections.abc import Callable
from typing import TypeVar

import jax
import numpy as np
from jax.experimental import multihost_utils
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P

from seed_jax.data import files
from seed_jax.errors import UserError

Result = TypeVar("Result")
DATA_AXIS = "data"
HEARTBEAT_SECONDS = 30  # after this silence a process counts as dead, and the others end
LAST_SECONDS = 3  # how long the coordinator waits at a failure for the others to fail too
FAREWELL_SECONDS = 20  # how long a process that failed waits at its exit for the others
# What JAX says of another process that is gone; the statuses alone when they are used for nothing else.
ANOTHER = re.compile(
    "^(UNAVAILABLE|ABORTED|CANCELLED|DEADLINE_EXCEEDED)|gloo|nccl|connection|barrier|coordination",
    re.IGNORECASE,
)


def start() -> None:
    """Join the other processes, if there are any, and keep compiled programs for the next start.

    There are where the environment has `JAX_COORDINATOR_ADDRESS`, or `SEED_JAX_MULTIHOST=1` on a TPU pod or
    a SLURM cluster, which tell JAX by themselves. Elsewhere `JAX_NUM_PROCESSES` and `JAX_PROCESS_ID` say
    which of how many this is. The cache lies in the user's cache folder; `JAX_COMPILATION_CACHE_DIR` names
    another.

    Raises:
      UserError: the environment is incomplete, or the processes did not find each other.
    """
    if "JAX_COORDINATOR_ADDRESS" in os.environ or os.environ.get("SEED_JAX_MULTIHOST") == "1":
        _join()
    if jax.default_backend() == "cpu":
        _keep_freed_memory()
    if jax.config.jax_compilation_cache_dir is None:
        jax.config.update("jax_compilation_cache_dir", str(files.cache_home() / "xla"))


def _join():
    where = os.environ.get("JAX_COORDINATOR_ADDRESS", "the coordinator that the cluster names")
    count, number = _number("JAX_NUM_PROCESSES"), _number("JAX_PROCESS_ID")
    me = "A process" if None in (count, number) else f"Process {number} of {count}"
    print(f"{me} joins the others at {where}, which takes until all are there, and 5 minutes at most")
    sys.stdout.flush()
    # JAX waits outside Python, whose handlers would not run: signals end the process, as they do by default.
    # Afterwards JAX itself listens for SIGTERM (`stop.py`).
    interrupt = signal.signal(signal.SIGINT, signal.SIG_DFL)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    try:
        jax.distributed.initialize(
            num_processes=count,
            process_id=number,
            heartbeat_timeout_seconds=HEARTBEAT_SECONDS,
            shutdown_timeout_seconds=FAREWELL_SECONDS,
        )
    except (ValueError, IndexError) as error:
        raise UserError(
            f"The processes cannot be joined ({error}): set JAX_COORDINATOR_ADDRESS=HOST:PORT, "
            "JAX_NUM_PROCESSES and JAX_PROCESS_ID."
        ) from error
    except jax.errors.JaxRuntimeError as error:
        raise UserError(
            f"The processes did not meet at {where} ({str(error).splitlines()[0]}): start all of them, and "
            "let the host of process 0 accept connections on that port."
        ) from error
    finally:
        signal.signal(signal.SIGINT, interrupt)


def _number(name: str) -> int | None:
    text = os.environ.get(name)
    if text is not None and not text.isdigit():
        raise UserError(f"{name} is '{text}': it must be a number.")
    return None if text is None else int(text)


@contextlib.contextmanager
def ending_with_the_others(way_out: str):
    """End a failure so that no process is left waiting for another.

    With several processes this one ends here at any error, such as that another one is gone, with its
    sentence or traceback and exit code 1. What is left of the run cannot go on, and an orderly exit would
    wait for threads that wait for the others, such as those that write a checkpoint.

    Raises:
      UserError: the devices' memory does not suffice.
    """
    try:
        with _memory_named():
            yield
    except Exception as error:  # whatever it is, the others wait for this process until it is gone
        if jax.process_count() == 1:
            raise
        _end(_last_words(error, way_out))


def _last_words(error, way_out):
    if isinstance(error, UserError):
        return str(error)
    if isinstance(error, jax.errors.JaxRuntimeError) and ANOTHER.search(str(error)):
        me, reason = f"{jax.process_index()} of {jax.process_count()}", _first_line(error)
        return f"Process {me} stops, for another one ended or cannot be reached ({reason}): {way_out}."
    return "".join(traceback.format_exception(error))


@contextlib.contextmanager
def _memory_named():
    try:
        yield
    except jax.errors.JaxRuntimeError as error:
        if "RESOURCE_EXHAUSTED" not in str(error):
            raise
        raise UserError(
            f"The memory does not suffice ({_first_line(error)}): lower data.batch_size with "
            "--config.data.batch_size; --plan tells what a run needs."
        ) from error


def _end(said: str):
    """End this process at once; the coordinator after those that failed with it, for JAX kills them then."""
    print(f"\n{said}", file=sys.stderr)
    sys.stdout.flush()
    sys.stderr.flush()
    if jax.process_index() == 0:
        time.sleep(LAST_SECONDS)
    os._exit(1)


def _first_line(error: Exception) -> str:
    return str(error).splitlines()[0]


def wait_for_all(name: str) -> None:
    """Until every process is here, so that none waits for a slower one at its exit."""
    if jax.process_count() > 1:
        multihost_utils.sync_global_devices(name)


def anywhere(flag: bool) -> bool:
    """Whether the flag is true in any process; all of them ask."""
    return flag if jax.process_count() == 1 else bool(multihost_utils.process_allgather(np.array(flag)).any())


def together(function: Callable[[], Result]) -> Result:
    """`function()`, unless it raises a `UserError` in any process: then all of them raise one."""
    result = error = None
    try:
        result = function()
    except UserError as raised:
        error = raised
    try:
        failed = anywhere(error is not None)
    finally:
        if error is not None:
            raise error
    if failed:
        raise UserError("Another process cannot start, and says why: mend that and start all again.")
    return result


def gather(text: str) -> list[str]:
    """The text of every process, of any lengths; all of them give one."""
    if jax.process_count() == 1:
        return [text]
    mine = np.frombuffer(text.encode(), np.uint8)
    lengths = multihost_utils.process_allgather(np.array(len(mine), np.int32))
    padded = np.pad(mine, (0, int(lengths.max()) - len(mine)))
    return [
        row[:length].tobytes().decode()
        for row, length in zip(multihost_utils.process_allgather(padded), lengths, strict=True)
    ]


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
    """All devices on one axis, `data`, those of process 0 first: a process holds consecutive rows of a batch.

    The axis is `Auto`: Gram matrices, permutations and dropout, which a distillation zoo is full of, raise
    under `Explicit` axes.
    """
    devices = jax.devices() if devices is None else devices
    devices = sorted(devices, key=lambda device: (device.process_index, device.id))
    return jax.sharding.Mesh(np.array(devices), (DATA_AXIS,), axis_types=(AxisType.Auto,))


def replicated(mesh) -> NamedSharding:
    return NamedSharding(mesh, P())


def batch_sharding(mesh) -> NamedSharding:
    """Sharding of arrays whose leading axis is the batch."""
    return NamedSharding(mesh, P(DATA_AXIS))


def to_devices(mesh, batch):
    """A global batch (a pytree of arrays) from this process's own rows of it."""
    sharding = batch_sharding(mesh)
    return jax.tree.map(lambda x: jax.make_array_from_process_local_data(sharding, np.asarray(x)), batch)
