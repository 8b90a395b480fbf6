"""What a run is made of, before anything is compiled: sources, teacher, networks, step, lengths."""

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import numpy as np

from seed_jax import models, parallel, pretrained
from seed_jax.config import Config, check_splits
from seed_jax.data.images import BadImage
from seed_jax.data.pipeline import ViewSpec, steps_per_epoch
from seed_jax.data.sources import Source, open_source
from seed_jax.errors import UserError
from seed_jax.methods.base import TeacherNeed
from seed_jax.models.network import LinenNetwork, Network
from seed_jax.train import optim, state, teacher
from seed_jax.train.step import make_step


@dataclasses.dataclass(frozen=True)
class Sources:
    """The splits of a run; without labels there is nothing to probe, so no `bank` and no `val`."""

    train: Source
    bank: Source | None
    val: Source | None


@dataclasses.dataclass(frozen=True)
class Lengths:
    """Steps of the whole run, of an epoch, between probes, between checkpoints."""

    total: int
    epoch: int
    probe: int
    save: int

    def saves(self, step: int) -> bool:
        """Whether every run has a checkpoint at this step; one that was stopped has others too."""
        return step == self.total or (step > 0 and step % self.save == 0)

    def probes(self, step: int) -> bool:
        """Whether there is a probe at this step; wherever every run has a checkpoint, there is."""
        return self.saves(step) or step % self.probe == 0


@dataclasses.dataclass(frozen=True)
class Training:
    """The step and what it needs.

    Attributes:
      abstract: shapes of the `TrainState`. shardings: where its arrays lie.
      fresh: `fresh(start) -> TrainState` at step 0, with the backbone `start` if it is not None.
      init: where `start` came from, for the manifest.
      step: the jitted `(state, teacher_variables, batch) -> (state, metrics)`, which donates the state.
    """

    student: Network
    views: tuple[ViewSpec, ...]
    abstract: state.TrainState
    shardings: Any
    fresh: Callable
    start: Any
    init: dict | None
    step: Callable


def open_inputs(config: Config) -> tuple[Sources, teacher.Loaded | None]:
    """The sources and the teacher.

    Raises:
      UserError: every problem of either in one message.
    """
    problems, sources, loaded = [], None, None
    try:
        sources = _open_sources(config)
    except UserError as error:
        problems.append(str(error))
    if config.method.teacher is not TeacherNeed.NONE:
        try:
            loaded = teacher.load(
                config.teacher,
                image_size=config.data.image_size,
                seed=config.train.seed,
                precision=config.train.precision,
            )
        except UserError as error:
            problems.append(str(error))
    if problems:
        raise UserError("\n".join(problems))
    return sources, loaded


def _open_sources(config: Config) -> Sources:
    d = config.data

    def open_split(split):
        return open_source(d.source, split, dir=d.dir or None)

    train = open_source(d.source, d.train, dir=d.dir or None, subset=d.subset, seed=config.train.seed)
    if not train.num_classes:
        return Sources(train, None, None)
    if config.evals.knn:
        check_splits(d)
    open_split(d.test)  # what will be reported must be there before the time is spent
    sources = Sources(train, open_split(d.bank) if d.bank else train, open_split(d.val))
    used = [train] if config.method.needs_labels else []
    used += [sources.val] if config.method.needs_labels or config.evals.knn else []
    used += [sources.bank] if config.evals.knn and sources.bank not in used else []
    for source in used:
        _check_labels(source)
    return sources


def _check_labels(source: Source) -> None:
    missing = np.flatnonzero(source.labels() < 0).tolist()
    without = next((i for i in missing if _readable(source, i)), None)
    if without is not None:
        raise UserError(
            f"data.source: {len(missing)} of {len(source)} images have no label, such as "
            f"{source.name(without)}: label them or leave them out; without labels, SEED and MoCo "
            "train with --config.evals.knn=False."
        )


def _readable(source: Source, i: int) -> bool:
    """Whether record `i` can be read; one that cannot has no label either, and the pipeline skips it."""
    try:
        source[i]
    except BadImage:
        return False
    return True


def lengths(config: Config, images: int) -> Lengths:
    """The lengths of a run on so many images; raises `UserError` if they do not fill one batch."""
    t, batch_size = config.train, config.data.batch_size
    epoch = steps_per_epoch(images, batch_size)
    return Lengths(
        total=t.steps or -(-t.examples // batch_size) or max(1, round(t.epochs * epoch)),
        epoch=epoch,
        probe=max(1, round(config.evals.every_epochs * epoch)),
        save=max(1, round(t.checkpoint_epochs * epoch)),
    )


def training(config: Config, mesh, length: Lengths, num_classes: int, loaded) -> Training:
    """Shapes first, then shardings, then the jitted step; nothing is compiled yet.

    Raises:
      UserError: the devices do not divide the batch.
    """
    t, d = config.train, config.data
    if d.batch_size % mesh.size:
        raise UserError(f"data.batch_size ({d.batch_size}) must be a multiple of the {mesh.size} devices.")
    dim = loaded.dim if loaded else None
    student = state.student_network(config, num_classes, dim)
    rate = optim.schedule(
        config.optim, batch_size=d.batch_size, steps=length.total, steps_per_epoch=length.epoch
    )

    def fresh(start):
        variables = state.init_variables(student, d.image_size, t.seed)
        if start is not None:
            variables = state.with_backbone(variables, start, config.student.init)
        tx = optim.optimizer(config.optim, rate, variables["params"], config.method.frozen)
        return state.init_state(
            variables, config.method, tx, seed=t.seed, batch_size=d.batch_size, teacher_dim=dim
        )

    start, init = _start(config, student.backbone) if config.student.init else (None, None)
    abstract = jax.eval_shape(fresh, start)
    shardings = state.shardings(mesh, abstract)
    tx = optim.optimizer(config.optim, rate, abstract.params, config.method.frozen)
    views = config.method.views(d)
    step = jax.jit(
        make_step(config.method, student, loaded and loaded.network, tx, rate, views, t.seed),
        out_shardings=(shardings, parallel.replicated(mesh)),
        donate_argnums=0,
    )
    return Training(student, views, abstract, shardings, fresh, start, init, step)


# What other arrays, or training alone, differ by.
NOT_COMPARED = {*models.NOT_OPTIONS, "num_classes", "dropout", "drop_path", "bn_momentum", "remat"}


def _settings(network: LinenNetwork) -> dict:
    """All that a backbone computes by beside its arrays."""
    fields = {f.name: getattr(network.module, f.name) for f in dataclasses.fields(network.module)}
    compared = {name: value for name, value in fields.items() if name not in NOT_COMPARED}
    return {**compared, "mean": tuple(network.mean), "std": tuple(network.std)}


def _start(config: Config, backbone: LinenNetwork):
    """{collection: tree} of the network that `student.init` names, on the host, and where it came from.

    Raises:
      UserError: it computes something else than `backbone`, the student's, with the same arrays.
    """
    s = config.student
    untold = {key: s.options[key] for key in ("form", "small_stem") if key in s.options}  # by tensors
    found = pretrained.load(
        s.init,
        model=s.model,
        options={"num_classes": s.options.get("num_classes"), **untold},
        where="student.init",
        flags=("--config.student.model", "config.student.options.form"),
    )
    theirs, ours = (_settings(network) for network in (found.network.backbone, backbone))
    if found.assumed:
        theirs |= {"mean": ours["mean"], "std": ours["std"]}
    if differ := [key for key in theirs.keys() & ours.keys() if theirs[key] != ours[key]]:
        there, here = (", ".join(f"{k}={v[k]!r}" for k in sorted(differ)) for v in (theirs, ours))
        raise UserError(
            f"student.init: the network of {s.init} has {there}, and the student {here}: set the same in "
            "config.student.options of the config file, or its model by --config.student.model."
        )
    variables = jax.device_get(found.variables)
    start = {name: trees["backbone"] for name, trees in variables.items() if "backbone" in trees}
    return start, found.provenance
