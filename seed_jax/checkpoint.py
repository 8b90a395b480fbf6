"""Orbax behind a thin wall: save asynchronously, keep the newest and the best, restore exactly.

A checkpoint holds two trees: `model` (params and model state, what a later run takes as its teacher or
start) and `train` (step, optimizer state, aux). The position in the data is the step (`data/pipeline.py`),
so nothing else is needed to go on.
"""

from pathlib import Path

import jax
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
        best = policies.BestN(get_metric_fn=lambda m: m["score"], n=1, keep_checkpoints_without_metrics=False)
        self._orbax = ocp.training.Checkpointer(
            directory.absolute(),
            preservation_policy=policies.AnyPreservationPolicy([policies.LatestN(keep), best]),
            cleanup_tmp_directories=True,
        )
        self.directory = directory

    def latest(self) -> int | None:
        """The newest finished step, or None."""
        found = self._orbax.latest
        return None if found is None else found.step

    def save(self, state: TrainState, step: int, score: float | None) -> None:
        """Start writing; the arrays are copied before this returns, so the state may be donated right
        after.
        """
        if step == self.latest():
            return
        trees = {"model": _model(state), "train": _train(state)}
        metrics = None if score is None else {"score": score}
        self._orbax.save_checkpointables_async(step, trees, metrics=metrics, force=True)

    def restore(self, like: TrainState) -> TrainState:
        """The newest checkpoint in the shapes and shardings of `like` (arrays or abstract)."""
        step = self.latest()
        trees = _load(self._orbax.load_checkpointables, step, self.directory, _model(like), _train(like))
        return TrainState(**trees["model"], **trees["train"])

    def wait(self) -> None:
        """Until what is being written is finished."""
        self._orbax.wait()

    def close(self) -> None:
        """Wait until everything is written."""
        self._orbax.close()


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
    except OSError as error:
        raise UserError(
            f"The checkpoint {directory}/{step} is damaged ({error}): remove that folder, and the run goes "
            "on from the one before."
        ) from error
    except (ValueError, KeyError, TypeError) as error:
        reason = str(error.__cause__ or error).strip().splitlines()
        raise UserError(
            f"The checkpoint {directory}/{step} does not fit this config's networks: {' '.join(reason[:4])}"
        ) from error
