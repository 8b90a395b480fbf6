"""The one loop: data, step, log, probe, checkpoint. There is no maths in it."""

import dataclasses
import time
from pathlib import Path

import jax
import ml_collections

from seed_jax import config as config_lib
from seed_jax import optim, parallel, report, state, teacher, workdir
from seed_jax.checkpoint import Checkpoints
from seed_jax.config import Config
from seed_jax.data.pipeline import BadImages, prefetch, steps_per_epoch, train_batches
from seed_jax.data.sources import Source, open_source
from seed_jax.errors import UserError
from seed_jax.evals.online import OnlineProbe
from seed_jax.methods.base import TeacherNeed
from seed_jax.monitor import Monitor, NotFinite, say
from seed_jax.report.metrics import MetricsWriter
from seed_jax.step import make_step


def run(
    raw: ml_collections.ConfigDict,
    directory: str | Path,
    *,
    name: str = "train",
    started: float | None = None,
):
    """Train as the config says, or go on from the newest checkpoint in the workdir.

    Args:
      directory: the workdir: config.json, manifest.json, metrics.jsonl, checkpoints/, report.html.
      name: shown beside the progress bar.
      started: `time.time()` of the command's start, for the time to the first step.

    Returns:
      The last score on the validation split (top-1 of a classifier, else kNN), or None without one.

    Raises:
      UserError: anything the user can mend; all that can be known before compiling is checked before
        compiling.
    """
    started = time.time() if started is None else started
    config = config_lib.resolve(raw)
    sources, loaded = _open(config)
    mesh = parallel.make_mesh()
    with jax.set_mesh(mesh):
        return _run(config, raw, Path(directory), mesh, sources, loaded, name, started)


@dataclasses.dataclass(frozen=True)
class _Sources:
    train: Source
    bank: Source | None
    val: Source | None


def _open(config: Config):
    """The sources and the teacher; every problem of either in one message, before anything is compiled."""
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


def _open_sources(config: Config) -> _Sources:
    d = config.data

    def open_split(split):
        return open_source(d.source, split, dir=d.dir or None)

    train = open_split(d.train)
    if not train.num_classes:
        return _Sources(train, None, None)
    open_split(d.test)  # what will be reported must be there before the time is spent
    return _Sources(train, open_split(d.bank) if d.bank else train, open_split(d.val))


def _run(config, raw, directory, mesh, sources, loaded, name, started):
    t, d, e = config.train, config.data, config.evals
    if d.batch_size % mesh.size:
        raise UserError(f"data.batch_size ({d.batch_size}) must be a multiple of the {mesh.size} devices.")
    per_epoch = steps_per_epoch(sources.train, d.batch_size)
    total = t.steps or -(-t.examples // d.batch_size) or max(1, round(t.epochs * per_epoch))
    probe_every = max(1, round(e.every_epochs * per_epoch))
    save_every = max(1, round(t.checkpoint_epochs * per_epoch))

    dim = loaded.dim if loaded else None
    student = state.student_network(config, sources.train.num_classes, dim)
    rate = optim.schedule(config.optim, batch_size=d.batch_size, steps=total, steps_per_epoch=per_epoch)
    start = _backbone_of(config.student.init) if config.student.init else None

    def fresh(start):
        variables = state.init_variables(student, d.image_size, t.seed)
        if start is not None:
            variables = state.with_backbone(variables, start, config.student.init)
        tx = optim.optimizer(config.optim, rate, variables["params"], config.method.frozen)
        return state.init_state(
            variables, config.method, tx, seed=t.seed, batch_size=d.batch_size, teacher_dim=dim
        )

    abstract = jax.eval_shape(fresh, start)
    shardings = state.shardings(mesh, abstract)
    tx = optim.optimizer(config.optim, rate, abstract.params, config.method.frozen)
    views = config.method.views(d)
    step_fn = jax.jit(
        make_step(config.method, student, loaded and loaded.network, tx, rate, views, t.seed),
        out_shardings=(shardings, parallel.replicated(mesh)),
        donate_argnums=0,
    )

    probe = teacher_probe = None
    if sources.val is not None:
        like = {"params": abstract.params, **abstract.model_state}
        probe = OnlineProbe(student, like, mesh, config, sources.bank, sources.val)
        if loaded:
            teacher_probe = OnlineProbe(
                loaded.network, loaded.variables, mesh, config, sources.bank, sources.val
            )
    elif config.evals.knn:
        say(f"{name}: data.source has no labels, so there is no probe during training")

    workdir.claim(directory, raw)
    workdir.write_manifest(
        directory,
        teacher=loaded.provenance if loaded else None,
        teacher_dim=dim,
        data={
            "source": d.source,
            "images": len(sources.train),
            "num_classes": sources.train.num_classes,
            "fingerprint": sources.train.fingerprint(),
        },
        steps=total,
        steps_per_epoch=per_epoch,
    )
    checkpoints = Checkpoints(directory / "checkpoints", t.keep)
    begin = checkpoints.latest() or 0
    if begin > total:
        raise UserError(f"{directory} is already at step {begin}, past the {total} steps of this config.")
    if begin:
        like = jax.tree.map(
            lambda x, s: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=s), abstract, shardings
        )
        current = checkpoints.restore(like)
        say(f"{name}: going on from step {begin} of {total} in {directory}")
    else:
        current = parallel.jit_once(fresh, out_shardings=shardings)(start)
    teacher_variables = jax.device_put(loaded.variables if loaded else {}, parallel.replicated(mesh))

    writer = MetricsWriter(directory, tensorboard=config.log.tensorboard, wandb=config.log.wandb or None)
    writer.truncate(begin if begin else -1)
    bad = BadImages(sources.train)
    monitor = Monitor(
        writer,
        bad,
        name=name,
        start=begin,
        steps=total,
        every=config.log.every_steps,
        batch_size=d.batch_size,
    )
    batches = prefetch(
        train_batches(sources.train, views, d.batch_size, t.seed, begin, bad=bad),
        lambda batch: (batch["id"], parallel.to_devices(mesh, batch)),
    )

    score = None
    try:
        for step in range(begin, total + 1):
            saving = step > begin and (step == total or step % save_every == 0)
            if saving or step % probe_every == 0 and (step > begin or step == 0):
                monitor.flush()
                with monitor.pause():
                    scores = probe({"params": current.params, **current.model_state}) if probe else {}
                    score = scores.get("top1", scores.get("knn"))
                    if step == 0 and teacher_probe is not None:
                        scores |= {f"teacher_{k}": v for k, v in teacher_probe(teacher_variables).items()}
                    if scores:
                        writer.write(step, scores)
                    if saving:
                        checkpoints.save(current, step, score)
            if step == total:
                break
            before = time.perf_counter()
            ids, batch = next(batches)
            waited = time.perf_counter() - before
            if step == begin:
                with monitor.pause():
                    current, metrics = jax.block_until_ready(step_fn(current, teacher_variables, batch))
                say(f"{name}: first step done {time.time() - started:.1f} s after the start")
            else:
                with jax.transfer_guard("disallow"):
                    current, metrics = step_fn(current, teacher_variables, batch)
            monitor.step(step + 1, metrics, ids, waited)
    except NotFinite as error:
        checkpoints.wait()
        last = checkpoints.latest()
        kept = f"the checkpoint of step {last} is kept" if last else "there is no checkpoint yet"
        way_out = "lower optim.lr or set optim.clip_norm" + (", in another --workdir" if last else "")
        raise UserError(f"{error}; {kept} in {directory}: {way_out}.") from error
    finally:
        monitor.close()
        batches.close()
        checkpoints.close()
        writer.close()
    if jax.process_index() == 0:
        say(f"{name}: done, {report.run_report(directory)}")
    return score


def _backbone_of(path: str):
    """{collection: tree} of another run's backbone, on the host."""
    variables = workdir.load_run(path).variables
    return jax.device_get({k: trees["backbone"] for k, trees in variables.items() if "backbone" in trees})
