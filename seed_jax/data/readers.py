"""Workers: processes that compute shares of the same batches in step with each other.

A worker has nothing to save, so the parent ends it with SIGKILL. When the parent ends, however it ends, the
pipe to the worker breaks and the worker exits. When a worker ends, the parent raises an error. Workers block
SIGINT and SIGTERM: terminals and clusters send these to the whole process group, and the parent needs batches
until it has saved its state. grain's `mp_prefetch` is as fast, but its workers end at these signals and
outlive a killed parent (experiments/benchmarks/README.md).
"""

import atexit
import multiprocessing
import os
import pickle
import signal
from collections.abc import Callable, Iterator, Sequence
from multiprocessing import resource_tracker

import jax
import numpy as np

from seed_jax.errors import UserError

ALIGNMENT = 64  # bytes; of arrays in shared memory


def in_step(make: Callable[..., Iterator], shares: Sequence, room: int) -> Iterator[list]:
    """Run `make(share)` in one worker per share; yield lists of their next elements, one per share.

    `make` and its elements are pickled. All workers share one copy of the arrays in `make`. Closing the
    generator, or the end of the program, ends the workers. A worker imports the main module again, as every
    spawned Python process does, so a script that calls this needs `if __name__ == '__main__'`.

    Args:
      make: returns an endless iterator; must not use a device.
      shares: one picklable argument of `make` per worker.
      room: bytes of shared memory per worker for the arrays of one element. The next element overwrites them.
        Arrays that do not fit are sent through the pipe, which is slow.

    Raises:
      UserError: a worker raised it, was killed, or failed with another error.
    """
    context = multiprocessing.get_context("spawn")
    arrays = []
    pickle.dumps(make, protocol=5, buffer_callback=arrays.append)
    shared = context.RawArray("B", 1 + sum(array.raw().nbytes + ALIGNMENT for array in arrays))
    task = _dump(make, shared)
    workers = []

    def end():
        for process, _, _ in workers:
            process.kill()
        for process, _, _ in workers:
            process.join()
        workers.clear()

    atexit.register(end)  # runs before multiprocessing's handler, which waits for all children
    try:
        for share in shares:
            memory = context.RawArray("B", 1 + room)
            pipe, worker_pipe = context.Pipe()
            process = context.Process(
                target=_read, args=(task, shared, share, memory, worker_pipe), daemon=True
            )
            _start_without_signals(process)
            worker_pipe.close()  # the only copy left is the worker's: the pipe breaks when the worker ends
            workers.append((process, pipe, memory))
        while True:
            for process, pipe, _ in workers:
                _talk(process, pipe.send_bytes, b"next")
            answers = [(_talk(process, pipe.recv), memory) for process, pipe, memory in workers]
            for answer, _ in answers:
                if isinstance(answer, UserError):
                    raise answer
            yield [_load(*answer, memory) for answer, memory in answers]
    finally:
        atexit.unregister(end)
        end()


def _read(task, shared, share, memory, pipe):
    """The main function of a worker."""
    jax.config.update("jax_platforms", "cpu")  # no code here may initialise the accelerator
    elements = _load(*task, shared)(share)
    while True:
        try:
            element = next(elements)
        except UserError as error:
            element = error
        try:
            pipe.recv_bytes()
            pipe.send(element if isinstance(element, UserError) else _dump(element, memory))
        except (EOFError, OSError):
            os._exit(0)  # the parent has ended: do not wait for threads
        if isinstance(element, UserError):
            return


def _talk(process, call, *args):
    """`call(*args)` on the pipe of a worker; raises `UserError` when the worker has ended."""
    try:
        return call(*args)
    except (EOFError, OSError):
        process.join()
        code = process.exitcode
    how = f"failed with exit code {code} (its reason is printed above)"
    if code < 0:
        how = f"was killed by {signal.Signals(-code).name}"
        if code == -signal.SIGKILL:
            how += ", as the system does when memory runs out"
    raise UserError(f"A worker process {how}: start again, perhaps with a smaller --config.data.workers.")


def _start_without_signals(process):
    """Start a process that blocks SIGINT and SIGTERM from its first instruction: it inherits our mask."""
    resource_tracker.ensure_running()  # `process.start` would start it, which resets the mask
    mask = signal.pthread_sigmask(signal.SIG_BLOCK, (signal.SIGINT, signal.SIGTERM))
    try:
        process.start()
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)


def _dump(value, memory) -> tuple[bytes, list[tuple[int, int]]]:
    """The pickle of `value`, and the (start, stop) of each array that was copied to `memory`.

    Arrays that do not fit into `memory` are in the pickle.
    """
    view, places = np.frombuffer(memory, np.uint8), []

    def place(buffer):
        array = np.asarray(buffer.raw())
        start = -(-places[-1][1] // ALIGNMENT) * ALIGNMENT if places else 0
        stop = start + len(array)
        if stop > len(view):
            return True
        view[start:stop] = array
        places.append((start, stop))
        return False

    return pickle.dumps(value, protocol=5, buffer_callback=place), places


def _load(data, places, memory):
    """The value that `_dump` pickled; its arrays are views of `memory`."""
    view = np.frombuffer(memory, np.uint8)
    return pickle.loads(data, buffers=[view[start:stop] for start, stop in places])
