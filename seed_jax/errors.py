"""`UserError`, the only exception meant for users, and how commands print it and exit."""

import difflib
import functools
import os
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
    """Decorate `main(arguments) -> exit code`: print a `UserError` and return 1; return 130 after Ctrl-C."""

    @functools.wraps(main)
    def run(arguments: list[str] | None = None) -> int:
        try:
            return main(arguments)
        except UserError as error:
            print(error, file=sys.stderr)
            return 1
        except KeyboardInterrupt:
            print("\nStopped.", file=sys.stderr)
            return 130

    return run
