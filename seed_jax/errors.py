"""The one exception that a user is meant to read."""

import difflib
import functools
import os
import sys
from collections.abc import Callable, Iterable


class UserError(Exception):
    """A mistake the user can mend: one sentence saying what is wrong, where, and what to do.

    `main.py` prints it without a traceback and exits with code 1.
    """


def unknown(what: str, name: str, known: Iterable[str]) -> UserError:
    """The error for a name that does not exist, with the nearest that does, or all of them."""
    known = sorted({*known} - {name})
    near = difflib.get_close_matches(name, known, n=1, cutoff=0.5)
    hint = f"did you mean {near[0]!r}?" if near else f"it is one of {', '.join(known)}."
    return UserError(f"Unknown {what} {name!r}: {hint}")


def leave(code: int) -> None:
    """End the process with an exit code; after an error at once.

    Orbax's threads may wait for ever after a checkpoint that could not be written, and Python for them.
    """
    if code:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)
    sys.exit(0)


def command(main: Callable) -> Callable:
    """A decorator of `main(arguments) -> exit code`: a `UserError` is printed and gives 1, Ctrl-C 130."""

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
