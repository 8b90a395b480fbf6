"""Find damaged checkpoints, repair their scores, and move those that cannot be repaired.

When it starts, Orbax reads the scores and windows of all checkpoints, and fails if one of them is damaged.
"""

import json
import shutil
from collections.abc import Callable
from concurrent import futures
from pathlib import Path

import jax

from seed_jax import parallel
from seed_jax.data import files
from seed_jax.errors import UserError

SCORE, WINDOW = "metrics/metrics", "_CHECKPOINT_METADATA"  # Orbax's names
POLL_SECONDS = 0.2  # between two checks whether all processes are done
PATIENCE_SECONDS = 10  # from the first process that cannot read a checkpoint until all give it up


def saved_steps(directory: Path) -> list[int]:
    """Steps of the finished checkpoints in a folder, ascending; half-written ones have a suffix."""
    return sorted(int(path.name) for path in directory.glob("[0-9]*") if path.name.isdigit())


def damaged_files(directory: Path) -> list[Path]:
    """Paths of the scores and windows that cannot be read, by ascending step."""
    paths = (directory / str(step) / name for step in saved_steps(directory) for name in (SCORE, WINDOW))
    return [path for path in paths if path.exists() and not _is_readable(path)]


def repair(directory: Path, score: Callable[[int], float | None]) -> list[str]:
    """Repair a folder of checkpoints so that Orbax can open it; only process 0 calls this.

    A damaged score is replaced by the one in the metrics, or removed if they have none. A checkpoint with a
    damaged window is moved to `damaged-STEP` next to the folder.

    Args:
      score: step to the score that the metrics have for it, None where they have none.

    Returns:
      One sentence for each repair.

    Raises:
      UserError: the windows of all checkpoints are damaged; nothing is changed then.
    """
    damaged = damaged_files(directory)
    windows = [path for path in damaged if path.name == WINDOW]
    if windows and len(windows) == len(saved_steps(directory)):
        raise UserError(
            f"{windows[-1]} is damaged, and there is no other checkpoint: copy it again, or use another "
            "--workdir to start from step 0."
        )
    sentences = [_repair_score(path, score) for path in damaged if path.name != WINDOW]
    for path in windows:
        reason = f"The checkpoint {path.parent} is damaged (its window)"
        sentences.append(set_aside(directory, int(path.parent.name), reason))
    return sentences


def _repair_score(path: Path, score) -> str:
    checkpoint = path.parent.parent
    known = score(int(checkpoint.name))
    if known is None:
        shutil.rmtree(path.parent)
        return f"The score of {checkpoint} was damaged and was removed"
    write_score(path, known)
    return f"The score of {checkpoint} was damaged and was taken from the metrics"


def set_aside(directory: Path, step: int, reason: str) -> str:
    """Move a checkpoint to `damaged-STEP` next to its folder, and return a sentence about it.

    Every process may call this; process 0 moves the checkpoint.
    """
    aside = directory.with_name(f"damaged-{step}")
    if jax.process_index() == 0:
        shutil.rmtree(aside, ignore_errors=True)
        (directory / str(step)).rename(aside)
    return f"{reason}; it was moved to {aside}"


def read_together(read: Callable, checkpoint: Path) -> tuple[object, UserError | None, bool]:
    """Call `read` in every process; report a failure of any process to all of them.

    Without this, a process that has read its share waits 300 s in Orbax's barrier for one that could not, and
    Orbax cannot read another checkpoint until then.

    Args:
      read: reads this process's share of `checkpoint`; raises UserError if it is damaged.

    Returns:
      The result of `read`, or None after a failure; the error, or None without a failure; whether a process
      still waits in the barrier.
    """
    reading = in_thread(read)
    polls = round(PATIENCE_SECONDS / POLL_SECONDS)  # counts polls, so that all processes give up together
    while True:
        futures.wait([reading], timeout=POLL_SECONDS)
        done = reading.done()
        error = reading.exception() if done else None
        failed, waiting = parallel.anywhere(error is not None), parallel.anywhere(not done)
        polls -= failed
        if not waiting or polls < 0:
            break
    if error is not None and not isinstance(error, UserError):
        raise error
    if failed and error is None:
        error = UserError(f"The checkpoint {checkpoint} is damaged (another process cannot read its share)")
    return (None if error else reading.result()), error, waiting


def in_thread(function: Callable, *args) -> futures.Future:
    """Call a function in a new thread."""
    thread = futures.ThreadPoolExecutor(1)
    future = thread.submit(function, *args)
    thread.shutdown(wait=False)
    return future


def write_score(path: Path, score: float) -> None:
    """Write a score in Orbax's format, in one step."""
    with files.whole(path, "w") as file:
        json.dump({"score": score}, file)


def _is_readable(path: Path) -> bool:
    try:
        content = json.loads(path.read_text())
    except ValueError:
        return False
    return isinstance(content, dict) and (path.name == WINDOW or isinstance(content.get("score"), float))
