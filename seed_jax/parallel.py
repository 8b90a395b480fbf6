"""The mesh of all devices and its shardings; start, agreement and failure of several processes."""

import contextlib
import ctypes
import importlib.util
import math
import os
import re
import signal
import sys
import time
import traceback
from collections.abc import Callable
from importlib.metadata import entry_points
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
WHOLE = 2**14  # arrays of fewer numbers are never divided: there is little to save
HEARTBEAT_SECONDS = 30  # a process without a heartbeat for this long is taken for dead, and the others end
LAST_SECONDS = 3  # the coordinator waits for the others to fail too before it ends
FAREWELL_SECONDS = 20  # a process waits for the others at its exit
# How JAX words the loss of another process; it uses these four statuses for nothing else.
ANOTHER = re.compile(
    "^(UNAVAILABLE|ABORTED|CANCELLED|DEADLINE_EXCEEDED)|gloo|nccl|connection|barrier|coordination",
    re.IGNORECASE,
)


def start() -> None:
    """Join the other processes of a multi-process run, and turn on the compile cache.

    A run has several processes if the environment has `JAX_COORDINATOR_ADDRESS`, or `SEED_JAX_MULTIHOST=1` on
    a TPU pod or a SLURM cluster, where JAX finds the coordinator by itself. Elsewhere `JAX_NUM_PROCESSES` and
    `JAX_PROCESS_ID` are needed as well. The compile cache is in `JAX_COMPILATION_CACHE_DIR`, by default in
    the user's cache folder. A second call changes nothing.

    Raises:
      UserError: the environment is incomplete, or the processes did not meet within 5 minutes.
    """
    several = "JAX_COORDINATOR_ADDRESS" in os.environ or os.environ.get("SEED_JAX_MULTIHOST") == "1"
    if several and not jax.distributed.is_initialized():
        _join()
    if _cpu_alone() or jax.default_backend() == "cpu":
        _keep_freed_memory()
    if jax.config.jax_compilation_cache_dir is None:
        jax.config.update("jax_compilation_cache_dir", str(files.cache_home() / "xla"))


def _join():
    where = os.environ.get("JAX_COORDINATOR_ADDRESS", "the coordinator named by the cluster")
    count, number = _number("JAX_NUM_PROCESSES"), _number("JAX_PROCESS_ID")
    me = "A process" if None in (count, number) else f"Process {number} of {count}"
    print(f"{me} waits for the others at {where}, for at most 5 minutes")
    sys.stdout.flush()
    # JAX waits in native code, where Python's signal handlers do not run: the default ones end the process.
    # Afterwards JAX itself handles SIGTERM (`train/stop.py`).
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
            f"This process cannot join the others ({error}): set JAX_COORDINATOR_ADDRESS=HOST:PORT, "
            "JAX_NUM_PROCESSES and JAX_PROCESS_ID."
        ) from error
    except jax.errors.JaxRuntimeError as error:
        raise UserError(
            f"The processes did not meet at {where} ({_first_line(error)}): start all of them, and let the "
            "host of process 0 accept connections on that port."
        ) from error
    finally:
        signal.signal(signal.SIGINT, interrupt)


def _number(name: str) -> int | None:
    text = os.environ.get(name)
    if text is not None and not text.isdigit():
        raise UserError(f"{name} is '{text}': set it to a number.")
    return None if text is None else int(text)


@contextlib.contextmanager
def ending_with_the_others(fix: str):
    """A context in which an error ends the process at once if the run has several processes.

    It prints the error's sentence or traceback and exits with code 1. The other processes cannot continue
    without this one, and an orderly exit would wait for threads that wait for them, such as those writing a
    checkpoint.

    Args:
      fix: what to do when another process is gone; the end of a sentence.

    Raises:
      UserError: the devices are out of memory, in a run of one process.
    """
    try:
        with _memory_named():
            yield
    except Exception as error:  # any error: the others wait until this process is gone
        if jax.process_count() == 1:
            raise
        _end(_last_words(error, fix))


def _last_words(error, fix):
    if isinstance(error, UserError):
        return str(error)
    if isinstance(error, jax.errors.JaxRuntimeError) and ANOTHER.search(str(error)):
        me, reason = f"{jax.process_index()} of {jax.process_count()}", _first_line(error)
        return f"Process {me} ends because another one ended or cannot be reached ({reason}): {fix}."
    return "".join(traceback.format_exception(error))


@contextlib.contextmanager
def _memory_named():
    try:
        yield
    except jax.errors.JaxRuntimeError as error:
        if "RESOURCE_EXHAUSTED" not in str(error):
            raise
        raise UserError(
            f"The devices are out of memory ({_first_line(error)}): use a smaller --config.data.batch_size; "
            "--plan prints what a run needs."
        ) from error


def _end(message: str):
    """End this process at once; the coordinator waits a little, since its end makes JAX kill the others."""
    print(f"\n{message}", file=sys.stderr)
    sys.stdout.flush()
    sys.stderr.flush()
    if jax.process_index() == 0:
        time.sleep(LAST_SECONDS)
    os._exit(1)


def _first_line(error: Exception) -> str:
    return str(error).splitlines()[0]


def wait_for_all(name: str) -> None:
    """Wait until every process has called this with the same name."""
    if jax.process_count() > 1:
        multihost_utils.sync_global_devices(name)


def anywhere(flag: bool) -> bool:
    """Whether the flag is true in any process; every process must call this."""
    return flag if jax.process_count() == 1 else bool(multihost_utils.process_allgather(np.array(flag)).any())


def together(function: Callable[[], Result]) -> Result:
    """Call a function in every process; if it raises `UserError` in one of them, all of them raise one."""
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
        raise UserError(
            "Another process cannot start, and printed why: fix that, then start all processes again."
        )
    return result


def gather(text: str) -> list[str]:
    """The texts of all processes, by process index; lengths may differ. Every process must call this."""
    if jax.process_count() == 1:
        return [text]
    mine = np.frombuffer(text.encode(), np.uint8)
    lengths = multihost_utils.process_allgather(np.array(len(mine), np.int32))
    padded = np.pad(mine, (0, int(lengths.max()) - len(mine)))
    return [
        row[:length].tobytes().decode()
        for row, length in zip(multihost_utils.process_allgather(padded), lengths, strict=True)
    ]


def _cpu_alone() -> bool:
    """Whether JAX can only find CPUs, told without starting it."""
    if jax.config.jax_platforms:
        return jax.config.jax_platforms == "cpu"
    return not entry_points(group="jax_plugins") and importlib.util.find_spec("libtpu") is None


def _keep_freed_memory() -> None:
    """Make glibc keep large freed blocks for the next step instead of returning them to the system.

    On a CPU each step allocates its temporaries again, and page faults took a tenth to a third of a
    MobileNetV3 step. All threads share one arena, since glibc maps every large block of another one anew.
    That works before JAX has started its threads. Without effect if the C library has no `mallopt`.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        trim_threshold, mmap_max, arena_max = -1, -4, -8  # malloc.h
        mallopt(arena_max, 1)
        mallopt(mmap_max, 0)
        mallopt(trim_threshold, 2**31 - 1)


def jit_once(function, **options):
    """`jax.jit` for a program that runs once, such as an initialisation.

    On a CPU, compiling it takes longer than running it, so XLA does not optimise it: 4 s instead of 10 s for
    MobileNetV3-Small on two cores.
    """
    fast = {"xla_backend_optimization_level": 0} if jax.default_backend() == "cpu" else None
    return jax.jit(function, compiler_options=fast, **options)


def make_mesh(devices: list | None = None) -> jax.sharding.Mesh:
    """A mesh of all devices with one axis, `data`.

    Devices are sorted by process, so that each process has consecutive rows of a batch. The axis is `Auto`:
    Gram matrices, permutations and dropout, which distillation methods need, raise under `Explicit` axes.

    Args:
      devices: the devices to use; all devices of all processes by default.
    """
    devices = jax.devices() if devices is None else devices
    devices = sorted(devices, key=lambda device: (device.process_index, device.id))
    return jax.sharding.Mesh(np.array(devices), (DATA_AXIS,), axis_types=(AxisType.Auto,))


def replicated(mesh) -> NamedSharding:
    """Sharding of arrays that every device has in full."""
    return NamedSharding(mesh, P())


def batch_sharding(mesh) -> NamedSharding:
    """Sharding of arrays whose leading axis is the batch."""
    return NamedSharding(mesh, P(DATA_AXIS))


def divided_axis(shape: tuple[int, ...], devices: int) -> int | None:
    """The axis along which an array is divided over the devices: the longest one that their number divides.

    None if there is no such axis or the array has fewer than `WHOLE` numbers: every device has it in full.

    >>> divided_axis((4096, 16384), 8), divided_axis((4096, 4096), 8), divided_axis((4096,), 8)
    (1, 0, None)
    """
    axes = [axis for axis, size in enumerate(shape) if size % devices == 0]
    if math.prod(shape) < WHOLE or not axes:
        return None
    return max(axes, key=shape.__getitem__)


def variable_shardings(mesh, tree, *, divided: bool):
    """Shardings of a tree of arrays or shapes: each along its `divided_axis`, or all in full on every device.

    XLA gathers what a computation needs of a divided array, and keeps its share of the result.
    """

    def place(x):
        axis = divided_axis(x.shape, mesh.size) if divided else None
        return replicated(mesh) if axis is None else NamedSharding(mesh, P(*[None] * axis, DATA_AXIS))

    return jax.tree.map(place, tree)


def to_devices(mesh, batch):
    """Assemble a global batch, sharded over the devices, from the rows of each process.

    Args:
      batch: pytree of NumPy arrays `[rows, ...]`, the rows of this process.
    """
    sharding = batch_sharding(mesh)
    return jax.tree.map(lambda x: jax.make_array_from_process_local_data(sharding, np.asarray(x)), batch)
