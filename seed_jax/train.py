"""The one loop: data, step, log, probe, checkpoint. There is no maths in it."""

import dataclasses
import time
from pathlib import Path

import jax
import ml_collections

from seed_jax import config as config_lib
from seed_jax import models, optim, parallel, report, state, teacher, workdir
from seed_jax.checkpoint import Checkpoints
from seed_jax.config import Config
from seed_jax.data.pipeline import BadImages, prefetch, steps_per_epoch, train_batches
from seed_jax.data.sources import Source, open_source
from seed_jax.errors import UserError
from seed_jax.evals.online import OnlineKnn
from seed_jax.methods.base import TeacherNeed
from seed_jax.monitor import Monitor, NotFinite
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
      The final kNN accuracy on the validation split, or None where it was not probed.

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
    bank: Source
    val: Source


def _open(config: Config):
    """The sources and the teacher; every problem of either in one message, before anything is compiled."""
    problems, opened = [], []
    d = config.data
    for split in (d.train, d.bank or d.train, d.val if config.evals.knn else d.train):
        try:
            opened.append(open_source(d.source, split, dir=d.dir or None))
        except UserError as error:
            problems.append(str(error))
    loaded = None
    if config.method.teacher is not TeacherNeed.NONE:
        try:
            loaded = teacher.load(
                config.teacher,
                image_size=d.image_size,
                seed=config.train.seed,
                precision=config.train.precision,
            )
        except UserError as error:
            problems.append(str(error))
    if problems:
        raise UserError("\n".join(dict.fromkeys(problems)))
    return _Sources(*opened), loaded


def _run(config, raw, directory, mesh, sources, loaded, name, started):
    t, d, e = config.train, config.data, config.evals
    if d.batch_size % mesh.size:
        raise UserError(f"data.batch_size ({d.batch_size}) must be a multiple of the {mesh.size} devices.")
    per_epoch = steps_per_epoch(sources.train, d.batch_size)
    total = t.steps or -(-t.examples // d.batch_size) or max(1, round(t.epochs * per_epoch))
    probe_every = max(1, round(e.every_epochs * per_epoch))
    save_every = max(1, round(t.checkpoint_epochs * per_epoch))

    backbone = models.create(
        config.student.model, precision=t.precision, bn_group=t.bn_group or None, **config.student.options
    )
    dim = loaded.dim if loaded else None
    student = config.method.network(backbone, sources.train.num_classes, dim)
    rate = optim.schedule(config.optim, batch_size=d.batch_size, steps=total, steps_per_epoch=per_epoch)
    start_backbone = _backbone_of(config.student.init) if config.student.init else None

    def fresh():
        variables = state.init_variables(student, d.image_size, t.seed)
        if start_backbone is not None:
            variables = state.with_backbone(variables, start_backbone, config.student.init)
        tx = optim.optimizer(config.optim, rate, variables["params"], config.method.frozen)
        return state.init_state(
            variables, config.method, tx, seed=t.seed, batch_size=d.batch_size, teacher_dim=dim
        )

    abstract = jax.eval_shape(fresh)
    shardings = state.shardings(mesh, abstract)
    tx = optim.optimizer(config.optim, rate, abstract.params, config.method.frozen)
    views = config.method.views(d)
    step_fn = jax.jit(
        make_step(config.method, student, loaded and loaded.network, tx, rate, views, t.seed),
        out_shardings=(shardings, parallel.replicated(mesh)),
        donate_argnums=0,
    )

    workdir.claim(directory, raw)
    checkpoints = Checkpoints(directory / "checkpoints", t.keep)
    begin = checkpoints.latest() or 0
    if begin > total:
        raise UserError(f"{directory} is already at step {begin}, past the {total} steps of this config.")
    if begin:
        like = jax.tree.map(
            lambda x, s: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=s), abstract, shardings
        )
        current = checkpoints.restore(like)
        print(f"{name}: going on from step {begin} of {total} in {directory}", flush=True)
    else:
        current = jax.jit(fresh, out_shardings=shardings)()
    teacher_variables = jax.device_put(loaded.variables if loaded else {}, parallel.replicated(mesh))

    probe = teacher_probe = None
    if e.knn and sources.val.num_classes:
        settings = {
            "size": d.image_size,
            "batch_size": e.batch_size,
            "k": e.k,
            "feature": e.feature,
            "bank_size": e.bank_size,
        }
        probe = OnlineKnn(student, mesh, sources.bank, sources.val, **settings)
        if loaded:
            teacher_probe = OnlineKnn(loaded.network, mesh, sources.bank, sources.val, **settings)
    elif e.knn:
        print(f"{name}: no labels in data.source, so no kNN during training", flush=True)

    if not begin:
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

    def variables_of(current):
        return {"params": current.params, **current.model_state}

    def probed(step, current):
        scores = {"knn": probe(variables_of(current))}
        if step == 0 and teacher_probe is not None:
            scores["teacher_knn"] = teacher_probe(teacher_variables)
        writer.write(step, scores)
        return scores["knn"]

    score = None
    try:
        for step in range(begin, total + 1):
            if step == total or step % probe_every == 0 or step % save_every == 0:
                monitor.flush()
                with monitor.pause():
                    due = step == total or step % probe_every == 0
                    if probe is not None and due and (step > begin or step == 0):
                        score = probed(step, current)
                    if step > begin and (step == total or step % save_every == 0):
                        checkpoints.save(current, step, score if due else None)
            if step == total:
                break
            before = time.perf_counter()
            ids, batch = next(batches)
            waited = time.perf_counter() - before
            with jax.transfer_guard("disallow"):
                current, metrics = step_fn(current, teacher_variables, batch)
            if step == begin:
                jax.block_until_ready(metrics)
                print(f"{name}: first step done {time.time() - started:.1f} s after the start", flush=True)
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
        print(f"{name}: done, {report.run_report(directory)}", flush=True)
    return score


def _backbone_of(path: str):
    """{collection: tree} of another run's backbone."""
    _, variables, _ = workdir.load_run(path)
    return {name: trees["backbone"] for name, trees in variables.items() if "backbone" in trees}
