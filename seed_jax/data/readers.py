"""Reading processes: what several processes compute, side by side and in step.

A reader holds nothing that matters, so it is ended by a kill. Its pipe tells all else: when the parent is
gone, however it ended, the pipe breaks and the reader ends; when a reader is gone, the parent says so. Ctrl-C
and SIGTERM do not reach readers: terminals and clusters send them to whole process groups, and the parent
needs batches until it has saved its state.
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

ALIGNMENT = 64  # bytes, of arrays in shared memory


def in_step(make: Callable[..., Iterator], shares: Sequence, room: int) -> Iterator[list]:
    """Lists of the next element of the endless `make(share)` of each share, each in a process of its own.

    `make` and the elements are pickled. The arrays of `make` lie in memory that all readers share, those of
    an element in `room` bytes that its next element overwrites (in the pipe, slowly, where they do not fit).
    `make` must not use a device. Closing the generator, or the end of the program, ends the readers.

    A reader imports the main module anew, as all of Python's spawned processes do: a script that starts them
    needs its `if __name__ == '__main__'`.

    Raises:
      UserError: that of a reader; or one was killed or failed otherwise.
    """
    context = multiprocessing.get_context("spawn")
    arrays = []
    pickle.dumps(make, protocol=5, buffer_callback=arrays.append)
    shared = context.RawArray("B", 1 + sum(array.raw().nbytes + ALIGNMENT for array in arrays))
    task = _dump(make, shared)
    readers = []

    def end():
        for process, _, _ in readers:
            process.kill()
        for process, _, _ in readers:
            process.join()
        readers.clear()

    atexit.register(end)  # it comes before multiprocessing's own, which waits for all children
    try:
        for share in shares:
            own = context.RawArray("B", 1 + room)
            ours, theirs = context.Pipe()
            process = context.Process(target=_read, args=(task, shared, share, own, theirs), daemon=True)
            _start_without_signals(process)
            theirs.close()  # now the reader has the only one: it ends with the reader
            readers.append((process, ours, own))
        while True:
            for process, pipe, _ in readers:
                _talk(process, pipe.send_bytes, b"next")
            answers = [(_talk(process, pipe.recv), own) for process, pipe, own in readers]
            for answer, _ in answers:
                if isinstance(answer, UserError):
                    raise answer
            yield [_load(*answer, own) for answer, own in answers]
    finally:
        atexit.unregister(end)
        end()


def _read(task, shared, share, own, pipe):
    """What a reader does."""
    jax.config.update("jax_platforms", "cpu")  # whatever should ask JAX here leaves the accelerator alone
    elements = _load(*task, shared)(share)
    while True:
        try:
            element = next(elements)
        except UserError as error:
            element = error
        try:
            pipe.recv_bytes()
            pipe.send(element if isinstance(element, UserError) else _dump(element, own))
        except (EOFError, OSError):
            os._exit(0)  # the parent is gone: nobody waits for the threads
        if isinstance(element, UserError):
            return


def _talk(process, call, *args):
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
    raise UserError(f"A reading process {how}: start again, perhaps with fewer --config.data.workers.")


def _start_without_signals(process):
    """Start it with signals blocked from its first instruction on; a mask is inherited, a handler is not."""
    resource_tracker.ensure_running()  # started by the process's start, it would undo the mask
    mask = signal.pthread_sigmask(signal.SIG_BLOCK, (signal.SIGINT, signal.SIGTERM))
    try:
        process.start()
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)


def _dump(value, memory) -> tuple[bytes, list[tuple[int, int]]]:
    """A pickle of `value`, and where in `memory` its arrays are; those that do not fit are in the pickle."""
    view, places = np.frombuffer(memory, np.uint8), []

    def beside(buffer):
        array = np.asarray(buffer.raw())
        start = -(-places[-1][1] // ALIGNMENT) * ALIGNMENT if places else 0
        stop = start + len(array)
        if stop > len(view):
            return True
        view[start:stop] = array
        places.append((start, stop))
        return False

    return pickle.dumps(value, protocol=5, buffer_callback=beside), places


def _load(data, places, memory):
    view = np.frombuffer(memory, np.uint8)
    return pickle.loads(data, buffers=[view[start:stop] for start, stop in places])
