"""Write files atomically, read JSON, and locate the user's cache folder."""

import contextlib
import json
import os
from pathlib import Path

from seed_jax.errors import UserError


@contextlib.contextmanager
def whole(path: str | os.PathLike, mode: str = "wb"):
    """Open a temporary file for writing and rename it to `path` when the block ends.

    If the block raises or the machine stops, `path` keeps its old content, or still does not exist.

    Args:
      path: the file to replace or create.
      mode: "wb" for bytes, "w" for text.
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


def write(path: Path, text: str) -> None:
    """Write a text file as `whole` does; its folder is created if missing.

    Raises:
      UserError: the file cannot be written.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with whole(path) as file:
            file.write(text.encode())
    except OSError as error:
        raise UserError(
            f"{path} cannot be written ({error.strerror}): free some space or make it writable, and run the "
            "same command again."
        ) from error


def claim(out: Path) -> None:
    """Create the folder that the option --out names: a command that cannot write stops before it measures.

    Raises:
      UserError: the folder cannot be created or written to.
    """
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"--out: {out} cannot be created ({error.strerror}): use another folder.") from error
    if not os.access(out, os.W_OK):
        raise UserError(f"--out: {out} cannot be written to: use another folder.")


def read_json(path: Path) -> dict:
    """The JSON object in a file; raises `UserError` if it cannot be read or is not a JSON object."""
    try:
        content = json.loads(path.read_text())
        if not isinstance(content, dict):
            raise ValueError("it is not a JSON object")
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise UserError(f"{path} cannot be read ({reason}): restore it, or use another folder.") from error
    return content


def cache_home() -> Path:
    """The user's cache folder: `$XDG_CACHE_HOME/seed_jax`, by default `~/.cache/seed_jax`."""
    return Path(os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache")) / "seed_jax"
