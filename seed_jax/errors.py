"""`UserError`, the only exception meant for users, and how commands end: errors, signals, closed output."""

import argparse
import contextlib
import difflib
import functools
import io
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterable

EXIT_CODES = {signal.SIGTERM: 0, signal.SIGINT: 130}  # of a command that such a signal stopped
OUTPUT_CLOSED = 141  # exit code of a program that SIGPIPE ends, as shells report it


class UserError(Exception):
    """A problem that the user can fix. Its message is one sentence: what is wrong, where, and what to do.

    Commands print it without a traceback and exit with code 1.
    """


class OutputClosed(SystemExit):
    """The reader of stdout or stderr is gone, as after `| head`. Exit code 141."""


def unknown(what: str, name: str, known: Iterable[str]) -> UserError:
    """The error for an unknown name: it suggests the nearest known name, or lists all of them.

    Args:
      what: kind of name, for the message.
    """
    known = sorted({*known} - {name})
    near = difflib.get_close_matches(name, known, n=1, cutoff=0.5)
    hint = f"did you mean {near[0]!r}?" if near else f"it is one of {', '.join(known)}."
    return UserError(f"Unknown {what} {name!r}: {hint}")


def numbers(text: str) -> tuple[float, ...]:
    """The numbers in a text such as '0.5,0.9'; the `type` of an option of argparse.

    >>> numbers("0.5,0.9")
    (0.5, 0.9)

    Raises:
      argparse.ArgumentTypeError: the text has something else; argparse names the option.
    """
    try:
        return tuple(float(number) for number in text.split(","))
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is no list of numbers: write one as 0.5,0.9.") from None


def end_on_signals() -> None:
    """Make SIGTERM and Ctrl-C end the process at once with a sentence, and the exit codes 0 and 130.

    For a command outside its training loop, where there is nothing to save, also while it compiles or reads
    in native code. `StopRequest` replaces these handlers during the loop and restores them. They do not act
    while processes join: `parallel.py` then restores the default handlers.
    """
    _guard()  # before the pipe of `watch_signals`, which would take the numbers of streams that are closed
    ending = threading.Lock()

    def end(number, frame=None):
        del frame
        if number in EXIT_CODES and ending.acquire(blocking=False):  # the thread or the handler, not both
            with contextlib.suppress(OSError):
                os.write(2, b"\nStopped, with nothing to save: the same command starts or resumes the run.\n")
            os._exit(EXIT_CODES[number])

    for number in EXIT_CODES:
        signal.signal(number, end)
    watch_signals(end)


def watch_signals(act: Callable[[int], None]) -> Callable[[], None]:
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


def outlive_output() -> None:
    """From now on, drop what is printed when the reader is gone: a training goes on without it."""
    for raw in _raw():
        raw.lasting = True


def leave(code: int) -> None:
    """End the process with an exit code; after an error at once, without waiting for threads.

    After a failed write of a checkpoint, Orbax's threads may never end, and an orderly exit waits for them.
    """
    if code:
        _flush()
        os._exit(code)
    sys.exit(0)


def command(main: Callable) -> Callable:
    """Decorate `main(arguments, …) -> exit code`: print a `UserError`, return 1; return 130 after Ctrl-C.

    When the reader of its output is gone, as after `| head`, the command ends without a word and returns 141,
    unless it calls `outlive_output`.
    """

    @functools.wraps(main)
    def run(arguments: list[str] | None = None, **options) -> int:
        _guard()
        try:
            try:
                code = main(arguments, **options)
            except UserError as error:
                print(error, file=sys.stderr)
                code = 1
            except KeyboardInterrupt:
                print("\nStopped.", file=sys.stderr)
                code = 130
            except SystemExit:  # of argparse, after `--help`
                _flush()
                raise
            _flush()
            return code
        except OutputClosed:
            _discard()
            return OUTPUT_CLOSED

    return run


def _flush() -> None:
    """Write what is buffered: at the exit it would be too late to return 141."""
    sys.stdout.flush()
    sys.stderr.flush()


def _guard() -> None:
    """Make stdout and stderr raise `OutputClosed` when their reader is gone.

    A stream that the command was started without (`>&-`) drops what is written to it. Streams that something
    else has replaced, such as a test, stay as they are.
    """
    for number, name in ((1, "stdout"), (2, "stderr")):
        if getattr(sys, name) is getattr(sys, f"__{name}__"):
            setattr(sys, name, _guarded(getattr(sys, name), number))


def _discard() -> None:
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
                raise OutputClosed(OUTPUT_CLOSED) from None
            _to_null(self.fileno())  # nothing is left in the buffers that could fail at the exit
            return len(data)


def _guarded(stream, number: int) -> io.TextIOWrapper:
    if stream is None:
        _to_null(number)
        return io.TextIOWrapper(_Standard(number, "w", closefd=False), write_through=True)
    stream.flush()
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
