"""The metrics of a run: one JSON object per line of `metrics.jsonl`, mirrored to TensorBoard and W&B."""

import contextlib
import importlib.util
import json
import math
import os
import zlib
from collections.abc import Callable, Collection, Iterable, Mapping
from pathlib import Path

import jax
import numpy as np

from seed_jax.data import files
from seed_jax.errors import UserError

FILE = "metrics.jsonl"
BASELINES = ("teacher_", "pixels_")  # prefixes of the scores of other networks than the student
DECIDING = ("top1", "knn", "neighbours")  # the first of these decides the best checkpoint
SHARES = frozenset({"knn", "linear", "accuracy", "top1", "top5", "neighbours"})  # see `is_share`
MOST_IMAGES = {"neighbours": 512}  # scores that are of at most so many of a probe's images


class MetricsWriter:
    """Appends numbers to `metrics.jsonl` in a workdir and flushes every line. Only process 0 writes.

    JSON has neither NaN nor infinity: both are written as null and read back as NaN.

    Args:
      workdir: created if missing. If a killed run left the last line incomplete, the line is removed.
      tensorboard: also write event files to `workdir/tensorboard`, if tensorboardX is installed.
      wandb: project to log to, or None. A resumed run continues under the same W&B id.

    Raises:
      UserError: a W&B project is named but wandb is not installed. The constructor and every method raise it
        when the file cannot be written.
    """

    def __init__(self, workdir: str | os.PathLike, tensorboard: bool = True, wandb: str | None = None):
        self._active = jax.process_index() == 0
        self._tensorboard = self._wandb = self._file = None
        self.path = Path(workdir) / FILE
        if not self._active:
            return
        if wandb and not importlib.util.find_spec("wandb"):
            raise UserError(
                f"log.wandb is {wandb!r}, but the package wandb is not installed: run `pip install wandb`."
            )
        with self._writing():
            self.path.parent.mkdir(parents=True, exist_ok=True)
            if self.path.exists() and not self.path.read_bytes().endswith(b"\n"):
                _rewrite(self.path, keep=lambda row: True)
            self._file = self.path.open("a")
            if tensorboard and importlib.util.find_spec("tensorboardX"):
                self._tensorboard = _start_tensorboard(self.path.parent)
        if wandb:
            self._wandb = _start_wandb(wandb, self.path.parent.resolve())

    def write(self, step: int, metrics: Mapping[str, float], **texts: str) -> None:
        """Append one line `{"step": step, name: number, ..., name: text, ...}`.

        Args:
          step: of the run.
          metrics: numbers, or 0-d NumPy or JAX arrays, by name.
          texts: not mirrored to TensorBoard and W&B.
        """
        if not self._active:
            return
        numbers = {name: float(value) for name, value in metrics.items()}
        line = {name: value if math.isfinite(value) else None for name, value in numbers.items()} | texts
        with self._writing():
            self._file.write(json.dumps({"step": int(step), **line}, allow_nan=False) + "\n")
            self._file.flush()
        if self._tensorboard is not None:
            for name, value in numbers.items():
                self._tensorboard.add_scalar(name, value, int(step))
        if self._wandb is not None:
            self._wandb.log(numbers, step=int(step))

    def sync(self) -> None:
        """Flush the lines to the disk. A checkpoint relies on the lines before it, even after a power cut."""
        if self._active:
            with self._writing():
                os.fsync(self._file.fileno())

    def truncate(self, step: int) -> int:
        """Drop the lines after `step`, where a run resumes. The file is replaced atomically.

        TensorBoard hides its events after `step`; W&B keeps them.

        Args:
          step: negative for a run that starts again from nothing: then the dropped lines are appended to
            `metrics.jsonl.old`.

        Returns:
          The step of the last line that is left, or 0 if none is; in processes other than 0, `step`.
        """
        if not self._active:
            return step
        rows = read(self.path)
        kept = [row["step"] for row in rows if row["step"] <= step]
        last = int(max(kept, default=0))
        if len(kept) == len(rows):
            return last
        with self._writing():
            self._file.close()
            if step < 0:
                with self.path.with_suffix(".jsonl.old").open("a") as old:
                    old.write(self.path.read_text())
            _rewrite(self.path, keep=lambda row: row["step"] <= step)
            self._file = self.path.open("a")
            if self._tensorboard is not None:
                self._tensorboard.close()
                self._tensorboard = _start_tensorboard(self.path.parent, purge_step=step + 1)
        return last

    def score(self, step: int) -> float | None:
        """The score in the lines of `step`; None if there is none, and in processes other than 0."""
        return last_score(row for row in read(self.path) if row["step"] == step) if self._active else None

    def scores(self, step: int) -> dict[str, float]:
        """The scores by name in the lines of `step`, without texts; empty in processes other than 0."""
        rows = [r for r in read(self.path) if r["step"] == step and "loss" not in r] if self._active else []
        return {name: value for row in rows for name, value in row.items() if name != "step"}

    def probed(self, step: int) -> bool:
        """Whether the lines of `step` have a probe; False in processes other than 0."""
        return self._active and any(r["step"] == step and "loss" not in r for r in read(self.path))

    def close(self) -> None:
        if self._file is not None:
            with contextlib.suppress(
                OSError
            ):  # a line that could not be written was already an error in `write`
                self._file.close()
        if self._tensorboard is not None:
            self._tensorboard.close()
        if self._wandb is not None:
            self._wandb.finish()

    @contextlib.contextmanager
    def _writing(self):
        try:
            yield
        except OSError as error:
            raise UserError(
                f"{self.path} cannot be written ({error.strerror}): free some space or make it writable, and "
                "run the same command again to resume from the newest checkpoint."
            ) from error

    def __enter__(self) -> "MetricsWriter":
        return self

    def __exit__(self, *unused) -> None:
        self.close()


def read(path: str | os.PathLike) -> list[dict[str, float | str]]:
    """Read the lines of a `metrics.jsonl`. Null becomes NaN, and an incomplete last line is dropped.

    Args:
      path: the file, or the workdir that has it.

    Raises:
      UserError: the file does not exist, or a line other than the last is damaged.
    """
    path = Path(path)
    path = path / FILE if path.is_dir() else path
    if not path.exists():
        raise UserError(f"{path} does not exist: use the --workdir of a run, which contains one.")
    try:
        complete, _, _ = path.read_text().rpartition("\n")
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{path} cannot be read ({error}): restore it, or use another folder.") from error
    rows = []
    for number, line in enumerate(complete.splitlines(), start=1):
        try:
            row = json.loads(line)
            rows.append({name: math.nan if value is None else value for name, value in row.items()})
            row["step"] + 0  # a number
        except (ValueError, AttributeError, KeyError, TypeError) as error:
            raise UserError(
                f"{path}, line {number} is not a line of metrics ({error}): remove it."
            ) from error
    return rows


def clock(rows: Iterable[Mapping[str, float | str]], batch_size: int) -> tuple[np.ndarray, np.ndarray]:
    """Steps, and the seconds that training had taken by then: of steps alone, not of probes or compiling.

    >>> clock([{"step": 2, "images_per_second": 32.0}, {"step": 4, "images_per_second": 64.0}], batch_size=64)
    (array([0, 2, 4]), array([0., 4., 6.]))
    """
    timed = [(row["step"], row["images_per_second"]) for row in rows if "images_per_second" in row]
    steps = np.array([0, *(step for step, _ in timed)])
    seconds = np.diff(steps) * batch_size / np.array([speed for _, speed in timed])
    return steps, np.cumsum([0.0, *seconds])


def last_score(rows: Iterable[Mapping[str, float]]) -> float | None:
    """The score of the last probe, which decides the best checkpoint; None without a probe.

    The score is the first of `DECIDING` that the probe has, else the first by name. Skip rows with a loss,
    which are training rows, and ignore the scores of `BASELINES`.

    >>> last_score([{"step": 0, "knn": 0.1, "top1": 0.2}, {"step": 2, "knn": 0.3}, {"step": 4, "loss": 1.0}])
    0.3
    """
    score = None
    for row in rows:
        names = {name for name in row if name != "step" and not name.startswith(BASELINES)}
        if names and "loss" not in names:
            score = row[deciding(names)]
    return score


def deciding(names: Collection[str]) -> str:
    """The score that decides the best checkpoint, of the names of all scores of the student."""
    return next((name for name in DECIDING if name in names), None) or min(names)


def is_share(name: str) -> bool:
    """Whether a score is a share in [0, 1], shown in percent: a word of its name is one of `SHARES`.

    >>> is_share("exit1_top1"), is_share("effective_rank")
    (True, False)
    """
    return not SHARES.isdisjoint(name.replace("_", "/").split("/"))


def _rewrite(path: Path, keep: Callable[[dict], bool]) -> None:
    rows = [row for row in read(path) if keep(row)]
    lines = (json.dumps({k: None if v != v else v for k, v in row.items()}) + "\n" for row in rows)
    with files.whole(path, "w") as file:
        file.writelines(lines)


def _start_tensorboard(workdir: Path, **options):
    from tensorboardX import SummaryWriter

    return SummaryWriter(str(workdir / "tensorboard"), **options)


def _start_wandb(project: str, workdir: Path):
    import wandb

    run_id = f"{zlib.crc32(str(workdir).encode()):08x}"
    return wandb.init(project=project, name=workdir.name, dir=str(workdir), id=run_id, resume="allow")
