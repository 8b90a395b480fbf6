"""Save checkpoints asynchronously with Orbax, keep the newest and the best, restore them exactly.

A checkpoint has two trees: `model` (parameters and model state) and `train` (step, optimizer state, aux,
EMA). A third tree, `served`, has the variables for later runs where these are not those of `model`. The
position in the data follows from the step (`data/pipeline.py`), so a run resumes from these trees alone.
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
      directory: the `checkpoints` folder; created if missing.
      keep: number of newest checkpoints to keep. The one with the highest score is kept as well.
      score: step to the score that the metrics have for it, None where they have none; replaces the score of
        a checkpoint when that is damaged.

    Attributes:
      damaged: one sentence for each checkpoint that was repaired or moved.

    Raises:
      UserError: the folder cannot be created or written.
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
                f"{directory} cannot be written ({error.strerror or error}): make it writable, or use "
                "another --workdir."
            ) from error
        logging.getLogger("absl").addFilter(self._note_failure)

    def latest(self) -> int | None:
        """The step of the newest finished checkpoint, or None."""
        newest = self._orbax.latest
        return None if newest is None else newest.step

    def save(
        self, state: TrainState, step: int, score: float | None, log: dict | None = None, served=None
    ) -> None:
        """Start to write a checkpoint.

        The arrays are copied before this returns, so the caller may donate `state` right away.

        Args:
          score: the probe's score at this step, if there is one.
          log: the monitor's state; must be JSON.
          served: variables `{'params': …, …}` for later runs; None for the state's own.

        Raises:
          UserError: the previous checkpoint could not be written, or this one cannot be started, for example
            on a full disk.
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
        """Load the newest checkpoint that can be read.

        Newer ones that cannot be read are moved to `damaged-STEP` next to the folder, and `damaged` gets a
        sentence for each.

        Args:
          like: arrays or abstract arrays with the shapes, dtypes and shardings to restore.

        Raises:
          UserError: no checkpoint can be read, or all are of other networks; nothing is moved then. Or one of
            several processes cannot read a checkpoint; it is moved, and all processes must be started again.
        """
        errors = {}
        steps = [saved.step for saved in self._orbax.checkpoints][::-1]
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
                    f"{self.damaged[-1]}: start all processes again to resume from the checkpoint before it."
                ) from error
        else:
            newest = next(iter(errors.values()))
            raise UserError(
                f"{newest}; no other checkpoint can be read either: use the config of this run, or another "
                "--workdir to start from step 0."
            ) from newest
        if errors:
            self._orbax.close()
            for step, error in errors.items():
                self.damaged.append(damage.set_aside(self.directory, step, str(error)))
            self._open()
        return TrainState(**trees["model"], **trees["train"])

    def log(self) -> dict:
        """The `log` saved with the newest checkpoint; empty if it was saved without one."""
        return self._orbax.checkpointables_metadata().custom_metadata or {}

    def rate(self, step: int, score: float | None) -> None:
        """Add the score to a finished checkpoint that was saved without one, in one step.

        Every process calls this; the score of process 0 is written.
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
        """Wait until the last checkpoint is written.

        Raises:
          UserError: it could not be written.
        """
        with self._writing(self._step):
            if jax.process_count() == 1:
                self._orbax.wait()
            else:
                self._wait_together()

    def _wait_together(self):
        """Wait in every process; raise in all of them as soon as one could not write."""
        writing = damage.in_thread(self._orbax.wait)
        while True:
            futures.wait([writing], timeout=damage.POLL_SECONDS)
            done = writing.done()
            error = self._failure or (writing.exception() if done else None)
            if parallel.anywhere(error is not None):
                raise error or OSError("another process could not write its share")
            if not parallel.anywhere(not done):
                return

    def _note_failure(self, record) -> bool:
        """Remember a failed write when Orbax logs it; a filter of its logger that drops no record.

        A process whose write fails only logs that and then waits for the others, which wait for it, for up to
        20 minutes. Orbax's `timeout_secs` would end this sooner, but it counts from the start of the write,
        and would also end a write that is only slow.
        """
        if record.threadName == "async_save" and record.exc_info:
            self._failure = record.exc_info[1]
        return True

    def close(self) -> None:
        """Wait until everything is written, and release Orbax's threads."""
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
        # For its statistics, Orbax asks JAX in a thread of process 0 whether to stop, with an old step. JAX
        # counts steps by these calls, so that only `stop.py` may make them.
        self._orbax._manager.reached_preemption = lambda step: False
        self._step = None

    @contextlib.contextmanager
    def _writing(self, step):
        try:
            yield
        except (OSError, ValueError) as error:  # tensorstore raises a ValueError for an error of the system
            line = getattr(error, "strerror", None) or str(error).splitlines()[0]
            system = re.search(r"OS error \d+: ([^\]]+)|: ([^:]+) \[os_error_code", line)
            reason = system[1] or system[2] if system else line
            last = max((saved.step for saved in self._orbax.checkpoints if saved.step != step), default=None)
            kept = f"the checkpoint of step {last} is kept" if last else "there is no earlier checkpoint"
            raise UserError(
                f"The checkpoint of step {step} cannot be written to {self.directory} ({reason}); {kept}: "
                "free some space or make the folder writable, then run the same command to resume."
            ) from error


def load_model(workdir: Path, like: dict, *, best: bool = False) -> tuple[dict, int]:
    """Load the variables of a run for later use: its `served` tree, or `model` where there is no other.

    Args:
      like: variables `{'params': …, …}`, arrays or abstract arrays, with the shapes, dtypes and shardings to
        load.
      best: take the checkpoint with the highest score instead of the newest.

    Returns:
      The variables and the step of their checkpoint.

    Raises:
      UserError: the run has no such checkpoint, or it cannot be read.
    """
    with _opened(workdir, best) as (orbax, directory, step):
        name = "served" if (directory / str(step) / "served").exists() else "model"
        try:
            trees = _load(orbax.load_checkpointables, step, directory, **{name: _split(like)})
        except UserError as error:
            raise UserError(
                f"{error}; start its run again, which resumes from the newest checkpoint that can be read."
            ) from error
    return {"params": trees[name]["params"], **trees[name]["model_state"]}, step


def step_of(workdir: Path, *, best: bool = False) -> int:
    """The step of the checkpoint that `load_model` loads; raises `UserError` if the run has none."""
    with _opened(workdir, best) as (_, _, step):
        return step


def kept_steps(workdir: Path) -> list[int]:
    """The steps of the checkpoints in a workdir, lowest first; raises `UserError` if there are none."""
    with _opened(workdir, best=False) as (orbax, _, _):
        return [saved.step for saved in orbax.checkpoints]


def load_state(workdir: Path, like: TrainState, step: int) -> TrainState:
    """The whole state of a run at one of its `kept_steps`; nothing in the workdir changes.

    Args:
      like: arrays or abstract arrays with the shapes, dtypes and shardings to load.

    Raises:
      UserError: the checkpoint cannot be read.
    """
    with _opened(workdir, best=False) as (orbax, directory, _):
        trees = _load(orbax.load_checkpointables, step, directory, model=_model(like), train=_train(like))
    return TrainState(**trees["model"], **trees["train"])


@contextlib.contextmanager
def _opened(workdir: Path, best: bool):
    """A context with the open checkpoints of a run, their folder, and the step of the newest or best one."""
    directory = workdir / "checkpoints"
    if not directory.is_dir():
        raise UserError(f"{workdir} holds no checkpoint (no folder {directory}): name the workdir of a run.")
    if damaged := damage.damaged_files(directory):
        raise UserError(
            f"{damaged[0]} is damaged: start its run again, which repairs the checkpoint or says what to do."
        )
    with ocp.training.Checkpointer(directory.absolute()) as orbax:
        saved = orbax.latest
        if best:
            scored = [each for each in orbax.checkpoints if each.metrics]
            saved = max(scored, key=lambda each: each.metrics["score"], default=None)
        if saved is None:
            which = "scored" if best else "finished"
            raise UserError(f"{workdir} holds no {which} checkpoint: let its run reach the first one.")
        yield orbax, directory, saved.step


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
