"""Orbax behind a thin wall: save asynchronously, keep the newest and the best, restore exactly.

A checkpoint holds two trees: `model` (params and model state, what a later run takes as its teacher or
start) and `train` (step, optimizer state, aux). The position in the data is the step (`data/pipeline.py`),
so nothing else is needed to go on.
"""

import contextlib
import json
import logging
import re
import shutil
from collections.abc import Callable
from concurrent import futures
from pathlib import Path

import jax
from orbax.checkpoint import v1 as ocp

from seed_jax import parallel
from seed_jax.data import files
from seed_jax.errors import UserError
from seed_jax.train.state import TrainState

SCORE, WINDOW = "metrics/metrics", "_CHECKPOINT_METADATA"  # Orbax's names
policies = ocp.training.preservation_policies
POLL_SECONDS = 0.2  # how often several processes ask one another whether all are done
PATIENCE_SECONDS = 10  # how long those that cannot read a checkpoint wait for the others to fail too


class Checkpoints:
    """The checkpoints of one workdir.

    Args:
      directory: the `checkpoints` folder; made when missing.
      keep: how many of the newest stay; the one with the highest probe score stays too.
      score: what the metrics say was the score at a step, for a checkpoint whose own is damaged.

    Raises:
      UserError: the folder cannot be made or written.
    """

    def __init__(self, directory: Path, keep: int, score: Callable[[int], float | None] = lambda step: None):
        self.directory, self._keep = directory, keep
        self.damaged: list[str] = []
        self._failure: BaseException | None = None
        try:
            directory.mkdir(parents=True, exist_ok=True)
            if jax.process_index() == 0:
                self._mend(score)
            parallel.wait_for_all("checkpoints mended")
            self._open()
        except OSError as error:
            raise UserError(
                f"{directory} cannot be written ({error.strerror or error}): make it writable, or give "
                "another --workdir."
            ) from error
        logging.getLogger("absl").addFilter(self._note_failure)

    def _mend(self, score):
        """Take away what keeps Orbax from its start: damaged scores, checkpoints with a damaged window."""
        damaged = _damaged_files(self.directory)
        lost = [path.parent.name for path in damaged if path.name == WINDOW]
        if lost and len(lost) == len(_steps(self.directory)):
            raise UserError(
                f"{self.directory}/{lost[-1]}/{WINDOW} is damaged, and there is no other checkpoint: copy it "
                "again, or give another --workdir to begin anew."
            )
        for path in damaged:
            if path.name != WINDOW:
                found = score(int(path.parent.parent.name))
                shutil.rmtree(path.parent) if found is None else _write_score(path, found)
                how = "removed" if found is None else "taken from the metrics"
                self.damaged.append(f"The score of {path.parent.parent} was damaged and was {how}")
        for step in lost:
            self._set_aside(step, f"The checkpoint {self.directory}/{step} is damaged (its window)")

    def latest(self) -> int | None:
        """The newest finished step, or None."""
        found = self._orbax.latest
        return None if found is None else found.step

    def save(self, state: TrainState, step: int, score: float | None, log: dict | None = None) -> None:
        """Start writing; the arrays are copied before this returns, so the state may be donated right
        after.

        Args:
          log: the monitor's state, such as JSON can hold.

        Raises:
          UserError: the one before could not be written, or this one cannot be begun; a full disk, say.
        """
        self.wait()
        trees = {"model": _model(state), "train": _train(state)}
        metrics = None if score is None else {"score": score}
        with self._writing(step):
            self._orbax.save_checkpointables_async(
                step, trees, metrics=metrics, force=True, custom_metadata=log or {}
            )
        self._step = step

    def restore(self, like: TrainState) -> TrainState:
        """The newest checkpoint that is whole, in the shapes and shardings of `like` (arrays or abstract).

        Damaged ones that are newer are moved out of the way, to `damaged-STEP` beside the folder, and
        `damaged` tells a sentence of each.

        Raises:
          UserError: none can be read, or they are of other networks; nothing is moved then. Or some of
            several processes cannot read one, which is moved, and all of them are to start again.
        """
        errors = {}
        steps = [found.step for found in self._orbax.checkpoints][::-1]
        for step in steps:
            loading = _in_thread(
                _load, self._orbax.load_checkpointables, step, self.directory, _model(like), _train(like)
            )
            error, stuck = self._load_together(loading, step)
            if error is None:
                trees = loading.result()
                break
            errors[step] = error
            if stuck and step != steps[-1]:
                self._set_aside(step, str(error))
                parallel.wait_for_all("checkpoint moved")
                raise UserError(
                    f"{self.damaged[-1]}: start all of them again, and the run goes on from the one before."
                ) from error
        else:
            newest = next(iter(errors.values()))
            raise UserError(
                f"{newest}; no other can be read either: give the config that it was trained with, or "
                "another --workdir to begin anew."
            ) from newest
        if errors:
            self._orbax.close()
            for damaged, error in errors.items():
                self._set_aside(damaged, str(error))
            self._open()
        return TrainState(**trees["model"], **trees["train"])

    def log(self) -> dict:
        """The `log` that the newest was saved with; empty for those of older versions."""
        return self._orbax.checkpointables_metadata().custom_metadata or {}

    def _load_together(self, loading, step):
        """Why not all processes can load, or None; and whether some still wait for those that cannot.

        In Orbax's barrier they would wait 300 s, and its next load is not safe until then.
        """
        patience = round(PATIENCE_SECONDS / POLL_SECONDS)  # in polls, so that all lose it together
        while True:
            futures.wait([loading], timeout=POLL_SECONDS)
            done = loading.done()
            error = loading.exception() if done else None
            failed, waiting = parallel.anywhere(error is not None), parallel.anywhere(not done)
            patience -= failed
            if not waiting or patience < 0:
                break
        if error is not None and not isinstance(error, UserError):
            raise error
        if failed and error is None:
            error = UserError(
                f"The checkpoint {self.directory}/{step} is damaged (another process cannot read its part)"
            )
        return error, waiting

    def rate(self, step: int, score: float | None) -> None:
        """Give the finished checkpoint of `step` its score, if it was saved without one.

        Only the score of process 0 counts. It is written whole or not at all.
        """
        folder = self.directory / str(step)
        if jax.process_index() == 0 and score is not None and not (folder / "metrics").exists():
            written = self.directory.with_name("score")
            with self._writing(step):
                written.mkdir(exist_ok=True)
                _write_score(written / "metrics", score)
                written.rename(folder / "metrics")
        parallel.wait_for_all("checkpoint rated")
        self._orbax.reload()

    def wait(self) -> None:
        """Until what is being written is finished.

        Raises:
          UserError: it could not be written.
        """
        with self._writing(self._step):
            if jax.process_count() == 1:
                self._orbax.wait()
            else:
                self._wait_together()

    def _wait_together(self):
        """As soon as one process could not write, all of them raise."""
        writing = _in_thread(self._orbax.wait)
        while True:
            futures.wait([writing], timeout=POLL_SECONDS)
            done = writing.done()
            error = self._failure or (writing.exception() if done else None)
            if parallel.anywhere(error is not None):
                raise error or OSError("another process could not write its part")
            if not parallel.anywhere(not done):
                return

    def _note_failure(self, record) -> bool:
        """Sees what is logged. A process that could not write tells its log only, and waits for the others.

        They wait for it up to 20 minutes. Orbax's `timeout_secs` would cut that short, but it counts from the
        start of the write, and a slow one is none that failed.
        """
        if record.threadName == "async_save" and record.exc_info:
            self._failure = record.exc_info[1]
        return True

    def close(self) -> None:
        """Wait until everything is written."""
        logging.getLogger("absl").removeFilter(self._note_failure)
        with self._writing(self._step):
            self._orbax.close()

    def _open(self):
        best = policies.BestN(get_metric_fn=lambda m: m["score"], n=1, keep_checkpoints_without_metrics=False)
        self._orbax = ocp.training.Checkpointer(
            self.directory.absolute(),
            preservation_policy=policies.AnyPreservationPolicy([policies.LatestN(self._keep), best]),
            cleanup_tmp_directories=True,
        )
        # Orbax asks JAX whether to stop, for a statistic, from a thread of process 0 that comes with an old
        # step; JAX counts the steps by such questions, and only `stop.py` may ask.
        self._orbax._manager.reached_preemption = lambda step: False
        self._step = None

    @contextlib.contextmanager
    def _writing(self, step):
        try:
            yield
        except (OSError, ValueError) as error:  # tensorstore reports what the system said as a ValueError
            line = getattr(error, "strerror", None) or str(error).splitlines()[0]
            said = re.search(r"OS error \d+: ([^\]]+)|: ([^:]+) \[os_error_code", line)
            reason = said[1] or said[2] if said else line
            last = max((found.step for found in self._orbax.checkpoints if found.step != step), default=None)
            kept = f"the one of step {last} is kept" if last else "there is none before it"
            raise UserError(
                f"The checkpoint of step {step} cannot be written to {self.directory} ({reason}); {kept}: "
                "make room or make it writable, and the same command goes on from the newest."
            ) from error

    def _set_aside(self, step, reason):
        """Move a damaged checkpoint out of the way, beside the folder."""
        aside = self.directory.with_name(f"damaged-{step}")
        self.damaged.append(f"{reason}; it was moved to {aside}")
        if jax.process_index() == 0:
            shutil.rmtree(aside, ignore_errors=True)
            (self.directory / str(step)).rename(aside)


def load_model(workdir: Path, like: dict, *, best: bool = False) -> tuple[dict, int]:
    """Variables `{'params': …, …}` of a run, in the shapes and shardings of `like`, and their step.

    Of the newest checkpoint, or of the one with the highest probe score.
    """
    directory = workdir / "checkpoints"
    if not directory.is_dir():
        raise UserError(f"{workdir} holds no checkpoint: there is no folder {directory}.")
    if damaged := _damaged_files(directory):
        raise UserError(
            f"{damaged[0]} is damaged; start its run again, which mends its checkpoints or names the way out."
        )
    with ocp.training.Checkpointer(directory.absolute()) as orbax:
        found = orbax.latest
        if best:
            scored = [c for c in orbax.checkpoints if c.metrics]
            found = max(scored, key=lambda c: c.metrics["score"], default=None)
        if found is None:
            which = "probed" if best else "finished"
            raise UserError(f"{workdir} holds no {which} checkpoint: let its run reach its first one.")
        model = {"params": like["params"], "model_state": {k: v for k, v in like.items() if k != "params"}}
        try:
            trees = _load(orbax.load_checkpointables, found.step, directory, model)
        except UserError as error:
            raise UserError(
                f"{error}; start its run again, which goes on from the newest one that is whole."
            ) from error
    return {"params": trees["model"]["params"], **trees["model"]["model_state"]}, found.step


def _model(state):
    return {"params": state.params, "model_state": state.model_state}


def _train(state):
    return {"step": state.step, "opt_state": state.opt_state, "aux": state.aux}


def _load(load, step, directory, model, train=None):
    abstract = {"model": model} if train is None else {"model": model, "train": train}
    abstract = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=x.sharding), abstract)
    try:
        return load(step, abstract)
    except (OSError, ValueError, KeyError, TypeError) as error:
        reason = " ".join(str(error.__cause__ or error).strip().splitlines()[:4])
        raise UserError(
            f"The checkpoint {directory}/{step} is damaged or does not fit this config's networks: {reason}"
        ) from error


def _in_thread(function, *args) -> futures.Future:
    thread = futures.ThreadPoolExecutor(1)
    future = thread.submit(function, *args)
    thread.shutdown(wait=False)
    return future


def _steps(directory: Path) -> list[str]:
    """The names of the finished checkpoints; those that are half-written have a suffix."""
    return sorted((path.name for path in directory.iterdir() if path.name.isdigit()), key=int)


def _damaged_files(directory: Path) -> list[Path]:
    """The scores and windows that cannot be read: Orbax reads all of them at its start."""
    small = (directory / step / name for step in _steps(directory) for name in (SCORE, WINDOW))
    return [path for path in small if path.exists() and not _is_whole(path)]


def _write_score(path: Path, score: float) -> None:
    with files.whole(path, "w") as file:
        json.dump({"score": score}, file)


def _is_whole(path: Path) -> bool:
    try:
        found = json.loads(path.read_text())
    except ValueError:
        return False
    return isinstance(found, dict) and (path.name == WINDOW or isinstance(found.get("score"), float))
