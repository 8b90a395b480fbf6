"""Files that are there whole or not at all, or can be thrown away."""

import contextlib
import json
import os
from pathlib import Path

from seed_jax.errors import UserError


@contextlib.contextmanager
def whole(path: str | os.PathLike, mode: str = "wb"):
    """A file to write, which takes the place of `path` in one step when the block ends.

    If the block raises, or the machine stops, what was at `path` stays.
    """
    path = Path(path)
    temporary = path.with_name(f"{path.name}.{os.getpid()}.tmp")
    try:
        with open(temporary, mode) as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    finally:
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)


def read_json(path: Path) -> dict:
    """The JSON object in a file; raises `UserError` for a file that cannot be read or holds anything else."""
    try:
        found = json.loads(path.read_text())
        if not isinstance(found, dict):
            raise ValueError("it holds no JSON object")
    except (OSError, ValueError) as error:
        why = getattr(error, "strerror", None) or error
        raise UserError(f"{path} cannot be read ({why}): restore it, or use another folder.") from error
    return found


def cache_home() -> Path:
    """The user's cache: `$XDG_CACHE_HOME/seed_jax`, by default `~/.cache/seed_jax`."""
    return Path(os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache")) / "seed_jax"
