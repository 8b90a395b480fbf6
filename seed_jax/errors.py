"""`UserError`, the only exception meant for users, and how commands print it and exit."""

import contextlib
import difflib
import functools
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterable

from seed_jax import terminal

EXIT_CODES = {signal.SIGTERM: 0, signal.SIGINT: 130}  # of a command that such a signal stopped


class UserError(Exception):
    """A problem that the user can fix. Its message is one sentence: what is wrong, where, and what to do.

    Commands print it without a traceback and exit with code 1.
    """


def unknown(what: str, name: str, known: Iterable[str]) -> UserError:
    """The error for an unknown name: it suggests the nearest known name, or lists all of them.

    Args:
      what: kind of name, for the message.
    """
    known = sorted({*known} - {name})
    near = difflib.get_close_matches(name, known, n=1, cutoff=0.5)
    hint = f"did you mean {near[0]!r}?" if near else f"it is one of {', '.join(known)}."
    return UserError(f"Unknown {what} {name!r}: {hint}")


def end_on_signals() -> None:
    """Make SIGTERM and Ctrl-C end the process at once with a sentence, and the exit codes 0 and 130.

    For a command outside its training loop, where there is nothing to save, also while it compiles or reads
    in native code. `StopRequest` replaces these handlers during the loop and restores them. They do not act
    while processes join: `parallel.py` then restores the default handlers.
    """
    terminal.guard()  # before the pipe of `watch`, which would take the numbers of streams that are closed
    ending = threading.Lock()

    def end(number, frame=None):
        del frame
        if number in EXIT_CODES and ending.acquire(blocking=False):  # the thread or the handler, not both
            with contextlib.suppress(OSError):
                os.write(2, b"\nStopped, with nothing to save: the same command starts or resumes the run.\n")
            os._exit(EXIT_CODES[number])

    for number in EXIT_CODES:
        signal.signal(number, end)
    terminal.watch(end)


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
    unless it calls `terminal.outlive`.
    """

    @functools.wraps(main)
    def run(arguments: list[str] | None = None, **options) -> int:
        terminal.guard()
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
        except terminal.Closed:
            terminal.discard()
            return terminal.CLOSED

    return run


def _flush() -> None:
    """Write what is buffered: at the exit it would be too late to return 141."""
    sys.stdout.flush()
    sys.stderr.flush()
