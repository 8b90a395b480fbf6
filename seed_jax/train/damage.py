"""Damaged checkpoints: find them, fix what can be fixed, move the others out of the way.

Orbax reads the scores and windows of all checkpoints when it starts, and the arrays of one when it restores.
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
POLL_SECONDS = 0.2  # between two questions of several processes whether all of them are done
PATIENCE_SECONDS = 10  # for the other processes to fail too, after one of them cannot read a checkpoint


def saved_steps(directory: Path) -> list[int]:
    """Steps of the finished checkpoints in a folder, ascending; half-written ones have a suffix."""
    return sorted(int(path.name) for path in directory.glob("[0-9]*") if path.name.isdigit())


def damaged_files(directory: Path) -> list[Path]:
    """Scores and windows that cannot be read, by step."""
    paths = (directory / str(step) / name for step in saved_steps(directory) for name in (SCORE, WINDOW))
    return [path for path in paths if path.exists() and not _is_readable(path)]


def repair(directory: Path, score: Callable[[int], float | None]) -> list[str]:
    """Make a folder of checkpoints readable for Orbax's start; process 0 alone calls this.

    A damaged score is written again, or removed when `score` does not know it. A checkpoint whose window is
    damaged is moved to `damaged-STEP` next to the folder.

    Args:
      score: step to the score in the metrics, None where they have none.

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
        sentences.append(
            set_aside(
                directory, int(path.parent.name), f"The checkpoint {path.parent} is damaged (its window)"
            )
        )
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
    """Move a checkpoint to `damaged-STEP` next to its folder; process 0 moves it. Returns a sentence."""
    aside = directory.with_name(f"damaged-{step}")
    if jax.process_index() == 0:
        shutil.rmtree(aside, ignore_errors=True)
        (directory / str(step)).rename(aside)
    return f"{reason}; it was moved to {aside}"


def read_together(read: Callable, checkpoint: Path) -> tuple[object, UserError | None, bool]:
    """Call `read` in every process, and learn whether it failed in any of them.

    A process that can read its part waits 300 s in Orbax's barrier for one that cannot, and Orbax cannot
    read again until then.

    Args:
      read: reads `checkpoint`; raises UserError when it is damaged.

    Returns:
      What `read` returned, or None; why not all processes could read, or None; whether some process still
      waits in the barrier.
    """
    reading = in_thread(read)
    polls = round(PATIENCE_SECONDS / POLL_SECONDS)  # counted, so that all processes give up at the same one
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
        error = UserError(f"The checkpoint {checkpoint} is damaged (another process cannot read its part)")
    return (None if error else reading.result()), error, waiting


def in_thread(function: Callable, *args) -> futures.Future:
    """Call a function in a thread of its own."""
    thread = futures.ThreadPoolExecutor(1)
    future = thread.submit(function, *args)
    thread.shutdown(wait=False)
    return future


def write_score(path: Path, score: float) -> None:
    """Write a score as Orbax does, in one step."""
    with files.whole(path, "w") as file:
        json.dump({"score": score}, file)


def _is_readable(path: Path) -> bool:
    try:
        content = json.loads(path.read_text())
    except ValueError:
        return False
    return isinstance(content, dict) and (path.name == WINDOW or isinstance(content.get("score"), float))
