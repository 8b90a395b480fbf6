"""Options that several commands have."""

import argparse
import os
from pathlib import Path

from seed_jax.errors import UserError


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


def claim(out: Path) -> None:
    """Create the folder that --out names, so that a command stops before minutes are spent.

    Raises:
      UserError: the folder cannot be created or written to.
    """
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"--out: {out} cannot be created ({error.strerror}): use another folder.") from error
    if not os.access(out, os.W_OK):
        raise UserError(f"--out: {out} cannot be written to: use another folder.")
