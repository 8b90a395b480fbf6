"""Assembles a run before anything is compiled: lengths, networks, state, step, probes."""

import dataclasses
import math
from collections.abc import Callable
from typing import Any

import jax

from seed_jax import parallel
from seed_jax.config import Config
from seed_jax.data.pipeline import ViewSpec, steps_per_epoch
from seed_jax.errors import UserError
from seed_jax.evals import pixels
from seed_jax.evals.online import OnlineProbe
from seed_jax.methods.base import Given, Offline
from seed_jax.models.network import Network
from seed_jax.train import inputs, optim, start, state, student, teacher
from seed_jax.train.monitor import say
from seed_jax.train.step import make_step


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
      abstract: shapes of the `TrainState`, with where its arrays are: `shardings`.
      fresh: the jitted `backbone -> TrainState` at step 0; the backbone is drawn if it is None.
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
    """Everything that a run needs before it compiles.

    `teacher`: the teacher's network, or None. `offline`: what the method finds before the training, or None.
    `backbone`: what the student starts from, or None. `facts`: for the manifest. `probe`, `teacher_probe`,
    `pixels_probe`: of student, teacher and raw pixels; None without a probe, or without a teacher.
    """

    config: Config
    mesh: jax.sharding.Mesh
    sources: inputs.Sources
    length: Lengths
    given: Given
    training: Training
    offline: Offline | None
    backbone: Any
    teacher: Network | None
    teacher_variables: Any
    probe: OnlineProbe | None
    teacher_probe: OnlineProbe | None
    pixels_probe: OnlineProbe | None
    facts: dict


def prepare(config: Config, mesh, name: str) -> Prepared:
    """Prepare a run: do whatever can fail before compiling, in each process by itself.

    Raises:
      UserError: anything the user can fix.
    """
    sources, loaded = inputs.open_all(config)
    evals = dataclasses.replace(config.evals, names=sources.names)
    config = dataclasses.replace(config, data=sources.data, evals=evals)
    if sources.note:
        say(f"{name}: {sources.note}")
    length = lengths(config, len(sources.train))
    check_batches(config, mesh.size, len(sources.train))
    classes = sources.train.num_classes
    known = make_given(config, length, classes, loaded)
    offline = config.method.offline(len(sources.train))
    backbone, init = start.load(config, student.network(config, known).backbone)
    training = assemble(config, mesh, known, loaded and loaded.network, backbone)
    if late := optim.late_milestones(config.optim, length.total, length.epoch):
        say(f"{name}: optim.milestones {late} come after the end of the run at step {length.total}")
    probe, teacher_probe, pixels_probe = _probes(config, mesh, sources, training, known, loaded)
    facts = {
        "teacher": loaded.provenance if loaded else None,
        "teacher_features": loaded and _plain(known.teacher),
        "teacher_prefix": known.teacher_prefix,
        "init": init,
        "data": {
            "source": config.data.source,
            "images": len(sources.train),
            "num_classes": classes,
            "fingerprint": sources.train.fingerprint(),
        },
        "class_names": list(sources.train.class_names),
        "train_split": config.data.train,
        "val_split": config.data.val,
        "test_split": config.data.test,
        "val_images": len(sources.val) if sources.held_out else None,
        "probe_images": None if sources.val is None else len(sources.val),
        "steps": length.total,
        "steps_per_epoch": length.epoch,
    }
    return Prepared(
        config,
        mesh,
        sources,
        length,
        known,
        training,
        offline,
        backbone,
        loaded and loaded.network,
        loaded.variables if loaded else {},
        probe,
        teacher_probe,
        pixels_probe,
        facts,
    )


def _probes(
    config: Config,
    mesh,
    sources: inputs.Sources,
    training: Training,
    given: Given,
    loaded: teacher.Loaded | None,
):
    """The probes of student, teacher and raw pixels, on the same images."""
    if sources.val is None:
        return None, None, None

    def probe(network, variables, config, teacher=None):
        return OnlineProbe(network, variables, mesh, config, sources.bank, sources.val, teacher)

    of_teacher = probe(loaded.network, loaded.variables, config) if loaded else None
    features = of_teacher and of_teacher.features
    fresh = {"params": training.abstract.params, **training.abstract.model_state}
    network, shapes = student.served(config.method, training.student, given, fresh)
    raw, of_raw = pixels.scored(config, len(sources.bank or ()), len(sources.val))
    of_pixels = probe(raw, pixels.VARIABLES, of_raw, features)
    return probe(network, shapes, config, features), of_teacher, of_pixels


def assemble(
    config: Config, mesh, given: Given, teacher: Network | None = None, backbone: Any = None
) -> Training:
    """Schedule, optimizer, networks, fresh state, shapes, shardings and step; nothing is compiled yet.

    Args:
      given: from `make_given`.
      teacher: the teacher's network.
      backbone: shapes or arrays of what `Training.fresh` will be called with.

    Raises:
      UserError: the method or the model does not allow a setting.
    """
    method, o, t, d = config.method, config.optim, config.train, config.data
    network = student.network(config, given)
    views = method.views(d)
    length = {"steps": given.steps, "steps_per_epoch": given.steps_per_epoch}
    rate = optim.schedule(o, batch_size=d.batch_size, **length)
    tx = optim.optimizer(
        o,
        rate,
        method.frozen,
        **_layers(network),
        milestones=optim.milestone_steps(o, **length),
        decay=optim.decay_schedule(o, given.steps),
        late=method.late,
        late_steps=round(method.late_epochs() * given.steps_per_epoch),
    )

    def fresh(backbone):
        variables = student.init_variables(network, d.image_size, t.seed)
        if backbone is not None:
            variables = student.with_backbone(variables, backbone, config.student.init)
        known = student.with_student(given, network)
        return state.init(variables, method, known, tx, seed=t.seed, ema=t.ema > 0)

    abstract = jax.eval_shape(fresh, backbone)
    _check_accumulation(config, abstract.aux)
    shardings = state.shardings(mesh, abstract, divided=t.shard_params)
    abstract = jax.tree.map(
        lambda x, place: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=place), abstract, shardings
    )
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
    fresh = parallel.jit_once(fresh, out_shardings=shardings)
    return Training(network, views, abstract, shardings, fresh, step)


def make_given(config: Config, length: Lengths, num_classes: int, loaded: teacher.Loaded | None) -> Given:
    """The method's `Given` for a run of that length, data and teacher.

    Raises:
      UserError: the method cannot learn from the teacher.
    """
    if loaded:
        config.method.check_teacher(loaded.network)
    features = loaded and loaded.features(config.data.batch_size, config.data.image_size)
    prefix = loaded.network.prefix_tokens if loaded else 0
    return student.make_given(config, num_classes, length.total, length.epoch, features, prefix)


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


def check_batches(config: Config, devices: int, images: int) -> None:
    """Check that devices, micro-batches and BatchNorm groups divide every batch of a run on that many images.

    Raises:
      UserError: they do not.
    """
    d, t = config.data, config.train
    unit = t.accumulate * math.lcm(devices, t.bn_group or 1)
    reasons = [f"{devices} devices"] + ([f"BatchNorm groups of {t.bn_group}"] if t.bn_group else [])
    reasons += [f"{t.accumulate} micro-batches"] if t.accumulate > 1 else []
    wanted = f"a multiple of {unit}, for {', '.join(reasons)}"
    if d.batch_size % unit:
        nearest = max(1, round(d.batch_size / unit)) * unit
        raise UserError(
            f"data.batch_size is {d.batch_size} and must be {wanted}: use --config.data.batch_size={nearest}."
        )
    if d.last == "keep" and images % d.batch_size % unit:
        raise UserError(
            f"data.last is 'keep', and the last batch of an epoch has {images % d.batch_size} images, which "
            f"must be {wanted}: use --config.data.last=drop."
        )


def _check_accumulation(config: Config, aux) -> None:
    """Raise `UserError` if micro-batches would not compute the gradient of the whole batch."""
    count, why = config.train.accumulate, config.method.whole_batch()
    if jax.tree.leaves(aux):
        why = why or "it carries state from batch to batch"
    if not config.train.bn_group:
        why = why or "train.bn_group is 0, statistics over the whole batch"
    if count > 1 and why:
        raise UserError(
            f"train.accumulate is {count}, but {config.method_name} needs the whole batch at once ({why}): "
            "use --config.train.accumulate=1."
        )


def _layers(network: Network) -> dict:
    """How the optimizer numbers the parameters of the student: parts are in the backbone's last layer."""
    backbone = network.backbone
    last, undecayed = getattr(backbone, "layers", None), getattr(backbone, "undecayed", frozenset())
    if last is None:
        return {"undecayed": undecayed}

    def layer(path):
        return backbone.layer(path[1:]) if path[0] == "backbone" else last

    return {"layer": layer, "layers": last, "undecayed": undecayed}


def _plain(features) -> dict:
    return {name: {"shape": list(x.shape), "dtype": x.dtype.name} for name, x in features.items()}
