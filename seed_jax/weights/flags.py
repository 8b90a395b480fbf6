"""The flags of commands that open RUN_OR_WEIGHTS: what a weights file may not say about its network."""

import argparse
from collections.abc import Sequence
from pathlib import Path

from seed_jax.errors import UserError
from seed_jax.weights import swin

FLAGS = ("--arch", "--form", "--window")  # the names of the first three, for messages


def add(parser: argparse.ArgumentParser) -> None:
    """Add --arch, --form, --window and --size."""
    parser.add_argument("--arch", default="", help="the architecture, if the weights do not determine it")
    parser.add_argument("--form", default="", help="the form of a vision transformer, likewise")
    parser.add_argument(
        "--window",
        type=swin.windows_of,
        default={},
        help="the windows of a Swin V2, likewise, as its name has them: 16 or 12to16",
    )
    parser.add_argument(
        "--size", type=int, default=0, help="side of the images of weights in pixels (default: their own)"
    )


def check(given: argparse.Namespace, specs: Sequence[str]) -> None:
    """Check the values of `add` and that no network is named twice.

    Args:
      specs: RUN_OR_WEIGHTS as the user wrote them.

    Raises:
      UserError: they do not fit.
    """
    resolved = [Path(spec).resolve() for spec in specs]
    for spec, path in zip(specs, resolved, strict=True):
        if resolved.count(path) > 1:
            raise UserError(f"RUN_OR_WEIGHTS names {spec} twice: name each once.")
    files = [spec for spec in specs if not Path(spec).is_dir()]
    for flag in ("arch", "form", "window"):
        if getattr(given, flag) and len(files) != 1:
            raise UserError(
                f"--{flag} is for one weights file, and RUN_OR_WEIGHTS has {len(files)}: leave it out, "
                "or `python -m seed_jax.weights export` the others, whose files then say it."
            )
    if given.size and not files:
        raise UserError("--size is for weights, and RUN_OR_WEIGHTS has none: leave it out.")
    if given.size < 0:
        raise UserError(f"--size is {given.size}: use 1 or more.")
