"""Orbax behind a thin wall: save asynchronously, keep the newest and the best, restore exactly.

A checkpoint holds two trees: `model` (params and model state) and `train` (step, optimizer state, aux, EMA).
Where later runs are served other variables than those of `model`, a third tree `served` holds them. The
position in the data is the step (`data/pipeline.py`), so nothing else is needed to go on.
"""

import contextlib
import functools
import logging
import re
from collections.abc import Callable
from concurrent import futures
from pathlib import Path

import jax
from orbax.checkpoint import v1 as ocp

from seed_jax import parallel
from seed_jax.errors import UserError
from seed_jax.train import damage
from seed_jax.train.state import TrainState

policies = ocp.training.preservation_policies


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
                self.damaged = damage.repair(directory, score)
            parallel.wait_for_all("checkpoints repaired")
            self._open()
        except OSError as error:
            raise UserError(
                f"{directory} cannot be written ({error.strerror or error}): make it writable, or give "
                "another --workdir."
            ) from error
        logging.getLogger("absl").addFilter(self._note_failure)

    def latest(self) -> int | None:
        """The newest finished step, or None."""
        found = self._orbax.latest
        return None if found is None else found.step

    def save(
        self, state: TrainState, step: int, score: float | None, log: dict | None = None, served=None
    ) -> None:
        """Start writing; the arrays are copied before this returns, so the state may be donated right
        after.

        Args:
          log: the monitor's state, such as JSON can hold.
          served: variables for later runs; None for the state's own.

        Raises:
          UserError: the one before could not be written, or this one cannot be begun; a full disk, say.
        """
        self.wait()
        trees = {"model": _model(state), "train": _train(state)}
        if served is not None and not _same_arrays(_split(served), trees["model"]):
            trees["served"] = _split(served)
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
            read = functools.partial(
                _load,
                self._orbax.load_checkpointables,
                step,
                self.directory,
                model=_model(like),
                train=_train(like),
            )
            trees, error, stuck = damage.read_together(read, self.directory / str(step))
            if error is None:
                break
            errors[step] = error
            if stuck and step != steps[-1]:
                self.damaged.append(damage.set_aside(self.directory, step, str(error)))
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
            for step, error in errors.items():
                self.damaged.append(damage.set_aside(self.directory, step, str(error)))
            self._open()
        return TrainState(**trees["model"], **trees["train"])

    def log(self) -> dict:
        """The `log` that the newest was saved with; empty for those of older versions."""
        return self._orbax.checkpointables_metadata().custom_metadata or {}

    def rate(self, step: int, score: float | None) -> None:
        """Give the finished checkpoint of `step` its score, if it was saved without one.

        Only the score of process 0 counts. It is written whole or not at all.
        """
        folder = self.directory / str(step)
        if jax.process_index() == 0 and score is not None and not (folder / "metrics").exists():
            written = self.directory.with_name("score")
            with self._writing(step):
                written.mkdir(exist_ok=True)
                damage.write_score(written / "metrics", score)
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
        writing = damage.in_thread(self._orbax.wait)
        while True:
            futures.wait([writing], timeout=damage.POLL_SECONDS)
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


def load_model(workdir: Path, like: dict, *, best: bool = False) -> tuple[dict, int]:
    """Variables `{'params': …, …}` of a run, in the shapes and shardings of `like`, and their step.

    Of the newest checkpoint, or of the one with the highest probe score.
    """
    directory = workdir / "checkpoints"
    if not directory.is_dir():
        raise UserError(f"{workdir} holds no checkpoint: there is no folder {directory}.")
    if damaged := damage.damaged_files(directory):
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
        name = "served" if (directory / str(found.step) / "served").exists() else "model"
        try:
            trees = _load(orbax.load_checkpointables, found.step, directory, **{name: _split(like)})
        except UserError as error:
            raise UserError(
                f"{error}; start its run again, which goes on from the newest one that is whole."
            ) from error
    return {"params": trees[name]["params"], **trees[name]["model_state"]}, found.step


def _model(state):
    return {"params": state.params, "model_state": state.model_state}


def _train(state):
    ema = {"ema": state.ema} if state.ema else {}
    return {"step": state.step, "opt_state": state.opt_state, "aux": state.aux, **ema}


def _split(variables):
    state = {name: tree for name, tree in variables.items() if name != "params"}
    return {"params": variables["params"], "model_state": state}


def _same_arrays(a, b):
    if jax.tree.structure(a) != jax.tree.structure(b):
        return False
    return all(x is y for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True))


def _load(load, step, directory, **trees):
    abstract = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=x.sharding), trees)
    try:
        return load(step, abstract)
    except (OSError, ValueError, KeyError, TypeError) as error:
        reason = " ".join(str(error.__cause__ or error).strip().splitlines()[:4])
        raise UserError(
            f"The checkpoint {directory}/{step} is damaged or does not fit this config's networks: {reason}"
        ) from error
