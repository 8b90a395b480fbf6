"""Orbax behind a thin wall: save asynchronously, keep the newest and the best, restore exactly.

A checkpoint holds two trees: `model` (params and model state, what a later run takes as its teacher or
start) and `train` (step, optimizer state, aux). The position in the data is the step (`data/pipeline.py`),
so nothing else is needed to go on.
"""

import contextlib
import json
import re
import shutil
from pathlib import Path

import jax
import numpy as np
from jax.experimental import multihost_utils
from orbax.checkpoint import v1 as ocp

from seed_jax.errors import UserError
from seed_jax.state import TrainState

policies = ocp.training.preservation_policies


class Checkpoints:
    """The checkpoints of one workdir.

    Args:
      directory: the `checkpoints` folder; made when missing.
      keep: how many of the newest stay; the one with the highest probe score stays too.
    """

    def __init__(self, directory: Path, keep: int):
        directory.mkdir(parents=True, exist_ok=True)
        self.directory, self._keep = directory, keep
        self.damaged: list[str] = []
        if jax.process_index() == 0:
            for path in directory.glob("[0-9]*/metrics/metrics"):  # orbax reads all of them at its start
                if not _is_json(path):
                    step = path.parent.parent.name
                    self._set_aside(step, f"The checkpoint {directory}/{step} is damaged (its score)")
        _anywhere(False)  # no process opens the folder before this is done
        self._open()

    def latest(self) -> int | None:
        """The newest finished step, or None."""
        found = self._orbax.latest
        return None if found is None else found.step

    def save(self, state: TrainState, step: int, score: float | None) -> None:
        """Start writing; the arrays are copied before this returns, so the state may be donated right
        after.

        Raises:
          UserError: the one before could not be written, or this one cannot be begun; a full disk, say.
        """
        if step == self.latest():
            return
        self.wait()
        trees = {"model": _model(state), "train": _train(state)}
        metrics = None if score is None else {"score": score}
        with self._writing(step):
            self._orbax.save_checkpointables_async(step, trees, metrics=metrics, force=True)
        self._step = step

    def restore(self, like: TrainState) -> TrainState:
        """The newest checkpoint that is whole, in the shapes and shardings of `like` (arrays or abstract).

        Damaged ones that are newer are moved out of the way, to `damaged-STEP` beside the folder, and
        `damaged` tells a sentence of each.

        Raises:
          UserError: none can be read, or they are of other networks; nothing is moved then.
        """
        errors = {}
        for step in reversed([found.step for found in self._orbax.checkpoints]):
            try:
                trees = _load(
                    self._orbax.load_checkpointables, step, self.directory, _model(like), _train(like)
                )
            except UserError as error:
                errors[step] = error
            if not _anywhere(step in errors):
                break
            errors.setdefault(step, UserError(f"The checkpoint {self.directory}/{step} is damaged."))
        else:
            raise next(iter(errors.values()))
        if errors:
            self._orbax.close()
            for damaged, error in errors.items():
                self._set_aside(damaged, str(error))
            self._open()
        return TrainState(**trees["model"], **trees["train"])

    def wait(self) -> None:
        """Until what is being written is finished.

        Raises:
          UserError: it could not be written.
        """
        with self._writing(self._step):
            self._orbax.wait()

    def close(self) -> None:
        """Wait until everything is written."""
        with self._writing(self._step):
            self._orbax.close()

    def _open(self):
        best = policies.BestN(get_metric_fn=lambda m: m["score"], n=1, keep_checkpoints_without_metrics=False)
        self._orbax = ocp.training.Checkpointer(
            self.directory.absolute(),
            preservation_policy=policies.AnyPreservationPolicy([policies.LatestN(self._keep), best]),
            cleanup_tmp_directories=True,
        )
        self._step = None

    @contextlib.contextmanager
    def _writing(self, step):
        try:
            yield
        except (OSError, ValueError) as error:  # tensorstore reports what the system said as a ValueError
            said = re.search(r"OS error \d+: ([^\]]+)", str(error))
            reason = said.group(1) if said else str(error).splitlines()[0]
            last = self.latest()
            kept = f"the one of step {last} is kept" if last else "there is none before it"
            raise UserError(
                f"The checkpoint of step {step} cannot be written to {self.directory} ({reason}); {kept}: "
                "make room, and the same command goes on from the newest."
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
    with ocp.training.Checkpointer(directory.absolute()) as orbax:
        found = orbax.latest
        if best:
            scored = [c for c in orbax.checkpoints if c.metrics]
            found = max(scored, key=lambda c: c.metrics["score"], default=None)
        if found is None:
            which = "probed" if best else "finished"
            raise UserError(f"{workdir} holds no {which} checkpoint: let its run reach its first one.")
        model = {"params": like["params"], "model_state": {k: v for k, v in like.items() if k != "params"}}
        trees = _load(orbax.load_checkpointables, found.step, directory, model)
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


def _anywhere(flag: bool) -> bool:
    """Whether the flag is true on any process."""
    return flag if jax.process_count() == 1 else bool(multihost_utils.process_allgather(np.array(flag)).any())


def _is_json(path: Path) -> bool:
    try:
        json.loads(path.read_text())
    except ValueError:
        return False
    return True
