"""What the terminal does to a command: signals while native code runs, and a reader that goes away."""

import io
import os
import signal
import sys
import threading
from collections.abc import Callable

CLOSED = 141  # exit code of a program that SIGPIPE ends, as shells report it


class Closed(SystemExit):
    """The reader of stdout or stderr is gone, as after `| head`. Exit code 141."""


def watch(act: Callable[[int], None]) -> Callable[[], None]:
    """Call `act(number)` in a thread as soon as a signal arrives, even while native code runs.

    Python runs a handler only in the main thread, between two of its instructions, and XLA compiles for
    minutes without one. The thread sees the signals that have a handler in Python. Call this in the main
    thread.

    Returns:
      A function that ends the watch and restores the one before it; call it in the main thread.
    """
    read, write = os.pipe()
    os.set_blocking(write, False)

    def wait():
        with os.fdopen(read, "rb", buffering=0) as numbers:
            while number := numbers.read(1):
                act(number[0])

    threading.Thread(target=wait, name="signals", daemon=True).start()
    before = signal.set_wakeup_fd(write, warn_on_full_buffer=False)

    def end():
        signal.set_wakeup_fd(before)
        os.close(write)

    return end


def guard() -> None:
    """Make stdout and stderr raise `Closed` when their reader is gone, until `outlive` or `discard`.

    A stream that the command was started without (`>&-`) drops what is written to it. Streams that something
    else has replaced, such as a test, stay as they are.
    """
    for number, name in ((1, "stdout"), (2, "stderr")):
        if getattr(sys, name) is getattr(sys, f"__{name}__"):
            setattr(sys, name, _guarded(getattr(sys, name), number))


def outlive() -> None:
    """From now on, drop what is printed when the reader is gone: a training goes on without it."""
    for raw in _raw():
        raw.lasting = True


def discard() -> None:
    """From now on, drop what is printed."""
    for raw in _raw():
        _to_null(raw.fileno())


class _Standard(io.FileIO):
    """The raw side of stdout or stderr."""

    lasting = False

    def write(self, data) -> int:
        try:
            return super().write(data)
        except BrokenPipeError:
            if not self.lasting:
                raise Closed(CLOSED) from None
            _to_null(self.fileno())  # nothing is left in the buffers that could fail at the exit
            return len(data)


def _guarded(stream, number: int) -> io.TextIOWrapper:
    if stream is None:
        _to_null(number)
        return io.TextIOWrapper(_Standard(number, "w", closefd=False), write_through=True)
    raw = _Standard(number, "w", closefd=False)
    unbuffered = isinstance(stream.buffer, io.RawIOBase)
    return io.TextIOWrapper(
        raw if unbuffered else io.BufferedWriter(raw),
        encoding=stream.encoding,
        errors=stream.errors,
        line_buffering=stream.line_buffering,
        write_through=stream.write_through,
    )


def _raw() -> list[_Standard]:
    buffers = [getattr(stream, "buffer", None) for stream in (sys.stdout, sys.stderr)]
    raw = [getattr(buffer, "raw", buffer) for buffer in buffers]
    return [each for each in raw if isinstance(each, _Standard)]


def _to_null(number: int) -> None:
    null = os.open(os.devnull, os.O_WRONLY)
    if null != number:
        os.dup2(null, number)
        os.close(null)
