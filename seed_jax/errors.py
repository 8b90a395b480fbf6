"""`UserError`, the only exception meant for users, and how commands print it and exit."""

import difflib
import functools
import os
import signal
import sys
from collections.abc import Callable, Iterable


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

    For a command outside its training loop, where there is nothing to save. `StopRequest` replaces these
    handlers during the loop and restores them. They do not act while processes join: JAX then waits outside
    Python, and `parallel.py` restores the default handlers.
    """

    def end(number, frame):
        del frame
        os.write(2, b"\nStopped outside the training loop: the same command starts or resumes the run.\n")
        os._exit(0 if number == signal.SIGTERM else 130)

    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, end)


def leave(code: int) -> None:
    """End the process with an exit code; after an error at once, without waiting for threads.

    After a failed write of a checkpoint, Orbax's threads may never end, and an orderly exit waits for them.
    """
    if code:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)
    sys.exit(0)


def command(main: Callable) -> Callable:
    """Decorate `main(arguments, …) -> exit code`: print a `UserError`, return 1; return 130 after Ctrl-C."""

    @functools.wraps(main)
    def run(arguments: list[str] | None = None, **options) -> int:
        try:
            return main(arguments, **options)
        except UserError as error:
            print(error, file=sys.stderr)
            return 1
        except KeyboardInterrupt:
            print("\nStopped.", file=sys.stderr)
            return 130

    return run
