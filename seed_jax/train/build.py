"""What a run is made of, before anything is compiled: sources, teacher, networks, lengths, step, probes."""

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import numpy as np

from seed_jax import parallel
from seed_jax.config import Config, check_splits
from seed_jax.data.images import BadImage
from seed_jax.data.pipeline import ViewSpec, steps_per_epoch
from seed_jax.data.sources import Source, open_source
from seed_jax.errors import UserError
from seed_jax.evals.online import OnlineProbe
from seed_jax.methods.base import Given
from seed_jax.models.network import Network
from seed_jax.train import optim, start, state, student, teacher
from seed_jax.train.monitor import say
from seed_jax.train.step import make_step


@dataclasses.dataclass(frozen=True)
class Sources:
    """The splits of a run. Without labels nothing can be probed: `bank` and `val` are None."""

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
        """Whether every run has a checkpoint at this step; a stopped run has others, too."""
        return step == self.total or (step > 0 and step % self.save == 0)

    def probes(self, step: int) -> bool:
        """Whether there is a probe at this step: also wherever every run has a checkpoint."""
        return self.saves(step) or step % self.probe == 0


@dataclasses.dataclass(frozen=True)
class Training:
    """The compiled part of a run, before it is compiled.

    Attributes:
      student: the network that is trained.
      views: what the loss sees of an image.
      abstract: shapes of the `TrainState`. shardings: where its arrays are.
      fresh: `fresh(backbone) -> TrainState` at step 0; the backbone is drawn if it is None.
      step: the jitted `(state, teacher_variables, batch) -> (state, metrics)`, which donates the state.
    """

    student: Network
    views: tuple[ViewSpec, ...]
    abstract: state.TrainState
    shardings: Any
    fresh: Callable
    step: Callable


@dataclasses.dataclass(frozen=True)
class Prepared:
    """All of a run that can be had before compiling.

    `backbone`: what the student starts from, or None. `facts`: for the manifest. `probe`, `teacher_probe`:
    None where there is nothing to probe with, or no teacher.
    """

    config: Config
    mesh: jax.sharding.Mesh
    sources: Sources
    length: Lengths
    training: Training
    backbone: Any
    teacher_variables: Any
    probe: OnlineProbe | None
    teacher_probe: OnlineProbe | None
    facts: dict


def prepare(config: Config, mesh, name: str) -> Prepared:
    """Whatever can fail before compiling, in each process by itself.

    Raises:
      UserError: anything the user can fix.
    """
    sources, loaded = open_inputs(config)
    length = lengths(config, len(sources.train))
    classes = sources.train.num_classes
    known = given(config, length, classes, loaded)
    backbone, init = start.load(config, student.network(config, known).backbone)
    training = assemble(config, mesh, known, loaded and loaded.network, backbone)
    _check_last(config, mesh, len(sources.train))
    probe = teacher_probe = None
    if sources.val is not None:
        network, shapes = student.served(config.method, training.student, known)
        probe = OnlineProbe(network, shapes, mesh, config, sources.bank, sources.val)
        if loaded:
            teacher_probe = OnlineProbe(
                loaded.network, loaded.variables, mesh, config, sources.bank, sources.val
            )
    elif config.evals.names:
        say(f"{name}: data.source has no labels, so there is no probe during training")
    facts = {
        "teacher": loaded.provenance if loaded else None,
        "teacher_features": loaded and _plain(known.teacher),
        "init": init,
        "data": {
            "source": config.data.source,
            "images": len(sources.train),
            "num_classes": classes,
            "fingerprint": sources.train.fingerprint(),
        },
        "steps": length.total,
        "steps_per_epoch": length.epoch,
    }
    variables = loaded.variables if loaded else {}
    return Prepared(config, mesh, sources, length, training, backbone, variables, probe, teacher_probe, facts)


def assemble(
    config: Config, mesh, given: Given, teacher: Network | None = None, backbone: Any = None
) -> Training:
    """Schedule, optimizer, networks, fresh state, shapes, shardings and step; nothing is compiled yet.

    Args:
      given: from `given`.
      teacher: the teacher's network.
      backbone: shapes or arrays of what `Training.fresh` will be called with.

    Raises:
      UserError: the devices do not divide the batch, or the method or the model does not allow a setting.
    """
    method, o, t, d = config.method, config.optim, config.train, config.data
    _check_batch(config, mesh, given)
    network = student.network(config, given)
    views = method.views(d)
    length = {"steps": given.steps, "steps_per_epoch": given.steps_per_epoch}
    rate = optim.schedule(o, batch_size=d.batch_size, **length)
    tx = optim.optimizer(
        o, rate, method.frozen, **_layers(network), milestones=optim.milestone_steps(o, **length)
    )

    def fresh(backbone):
        variables = student.init_variables(network, d.image_size, t.seed)
        if backbone is not None:
            variables = student.with_backbone(variables, backbone, config.student.init)
        return state.init(variables, method, given, tx, seed=t.seed, ema=t.ema > 0)

    abstract = jax.eval_shape(fresh, backbone)
    shardings = state.shardings(mesh, abstract)
    step = make_step(
        method,
        network,
        teacher,
        tx,
        rate,
        given,
        views,
        seed=t.seed,
        accumulate=t.accumulate,
        ema=t.ema,
    )
    step = jax.jit(step, out_shardings=(shardings, parallel.replicated(mesh)), donate_argnums=0)
    return Training(network, views, abstract, shardings, fresh, step)


def given(config: Config, length: Lengths, num_classes: int, loaded: teacher.Loaded | None) -> Given:
    """What the method may know of the run that is being built."""
    features = loaded and loaded.features(config.data.batch_size, config.data.image_size)
    return student.given(config, num_classes, length.total, length.epoch, features)


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
    if config.method.needs_teacher:
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


def lengths(config: Config, images: int) -> Lengths:
    """The lengths of a run on that many images.

    Raises:
      UserError: the images do not fill one batch.
    """
    t, batch_size = config.train, config.data.batch_size
    epoch = steps_per_epoch(images, batch_size, config.data.last)
    return Lengths(
        total=t.steps or -(-t.examples // batch_size) or max(1, round(t.epochs * epoch)),
        epoch=epoch,
        probe=max(1, round(config.evals.every_epochs * epoch)),
        save=max(1, round(t.checkpoint_epochs * epoch)),
    )


def _open_sources(config: Config) -> Sources:
    d, names = config.data, config.evals.names

    def open_split(split):
        return open_source(d.source, split, dir=d.dir or None)

    train = open_source(d.source, d.train, dir=d.dir or None, subset=d.subset, seed=config.train.seed)
    if not train.num_classes:
        return Sources(train, None, None)
    if "knn" in names:
        check_splits(d)
    open_split(d.test)  # what will be reported must be there before the time is spent
    sources = Sources(train, open_split(d.bank) if d.bank else train, open_split(d.val))
    used = [train] if config.method.needs_labels else []
    used += [sources.val] if config.method.needs_labels or "knn" in names else []
    used += [sources.bank] if "knn" in names and sources.bank not in used else []
    for source in used:
        _check_labels(source)
    return sources


def _check_labels(source: Source) -> None:
    missing = np.flatnonzero(source.labels() < 0).tolist()
    without = next((i for i in missing if _readable(source, i)), None)
    if without is not None:
        raise UserError(
            f"data.source: {len(missing)} of {len(source)} images have no label, such as "
            f"{source.name(without)}: label them or leave them out; SEED and MoCo train without labels "
            "with --config.evals.names=top1."
        )


def _readable(source: Source, i: int) -> bool:
    """Whether record `i` can be read. One that cannot has no label either, and the pipeline skips it."""
    try:
        source[i]
    except BadImage:
        return False
    return True


def _check_batch(config: Config, mesh, given: Given) -> None:
    """A batch and its micro-batches must be divisible among devices and BatchNorm groups."""
    d, t, why = config.data, config.train, config.method.whole_batch()
    if d.batch_size % mesh.size:
        raise UserError(f"data.batch_size ({d.batch_size}) must be a multiple of the {mesh.size} devices.")
    for key, value, default in (("train.accumulate", t.accumulate, 1), ("data.last", d.last, "drop")):
        if value != default and why:
            raise UserError(
                f"{key} is {value!r}, but {config.method_name} needs whole batches, for {why}: "
                f"use --config.{key}={default}."
            )
    micro, left = divmod(d.batch_size, t.accumulate)
    if t.accumulate > 1 and (left or micro % mesh.size or not t.bn_group or micro % t.bn_group):
        raise UserError(
            f"train.accumulate is {t.accumulate}, and data.batch_size divided by it must be a whole multiple "
            f"of the {mesh.size} devices and of train.bn_group ({t.bn_group}), which may not be 0: choose "
            f"divisors of {d.batch_size}."
        )


def _check_last(config: Config, mesh, images: int) -> None:
    """The shorter last batch of an epoch, if it is kept, must be divisible too."""
    d, t = config.data, config.train
    last = images % d.batch_size
    if d.last == "keep" and any(last % n for n in (mesh.size, t.accumulate, t.bn_group or 1)):
        raise UserError(
            f"data.last is 'keep', but the last batch of an epoch has {last} images, which the {mesh.size} "
            f"devices, train.accumulate ({t.accumulate}) or train.bn_group ({t.bn_group}) do not divide: use "
            "--config.data.last=drop, or --config.train.bn_group=0 for groups of a whole batch."
        )


def _layers(network: Network) -> dict:
    """How the optimizer numbers the parameters of the student: parts are in the backbone's last layer."""
    backbone = network.backbone
    last = backbone.layers
    if last is None:
        return {"undecayed": backbone.undecayed}

    def layer(path):
        return backbone.layer(path[1:]) if path[0] == "backbone" else last

    return {"layer": layer, "layers": last, "undecayed": backbone.undecayed}


def _plain(features) -> dict:
    return {name: {"shape": list(x.shape), "dtype": x.dtype.name} for name, x in features.items()}
