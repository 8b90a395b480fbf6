"""The one exception that a user is meant to read."""


class UserError(Exception):
    """A mistake the user can mend: one sentence saying what is wrong, where, and what to do.

    `main.py` prints it without a traceback and exits with code 1.
    """
