"""The one loop: data, step, log, probe, checkpoint. There is no maths in it."""

import contextlib
import dataclasses
import time
from pathlib import Path

import jax
import ml_collections

from seed_jax import build, parallel, report, workdir
from seed_jax import config as config_lib
from seed_jax.build import Lengths, Sources, Training
from seed_jax.checkpoint import Checkpoints
from seed_jax.config import Config
from seed_jax.data.pipeline import BadImages, prefetch, train_batches
from seed_jax.errors import UserError
from seed_jax.evals.online import OnlineProbe
from seed_jax.monitor import Monitor, NotFinite, say
from seed_jax.report.metrics import MetricsWriter
from seed_jax.stop import Stopped, StopRequest


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
      Stopped: SIGTERM or Ctrl-C came; the state is saved.
    """
    started = time.time() if started is None else started
    config = config_lib.resolve(raw)
    sources, loaded = build.open_inputs(config)
    mesh = parallel.make_mesh()
    with jax.set_mesh(mesh), _ending_with_the_others(directory):
        prepared = _prepare(config, raw, Path(directory), mesh, sources, loaded, name)
        score = _loop(prepared, started)
        if jax.process_index() == 0:
            say(f"{name}: done, {report.run_report(directory)}")
        parallel.wait_for_all("done")
    return score


@dataclasses.dataclass(frozen=True)
class _Prepared:
    config: Config
    directory: Path
    mesh: jax.sharding.Mesh
    name: str
    sources: Sources
    length: Lengths
    training: Training
    teacher_variables: dict
    probe: OnlineProbe | None
    teacher_probe: OnlineProbe | None


def _prepare(config, raw, directory, mesh, sources, loaded, name) -> _Prepared:
    """Everything that can fail before compiling, and the files that say what the run is."""
    length = build.lengths(config, len(sources.train))
    training = build.training(config, mesh, length, sources.train.num_classes, loaded)
    probe = teacher_probe = None
    if sources.val is not None:
        like = {"params": training.abstract.params, **training.abstract.model_state}
        probe = OnlineProbe(training.student, like, mesh, config, sources.bank, sources.val)
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
        teacher_dim=loaded.dim if loaded else None,
        init=training.init,
        data={
            "source": config.data.source,
            "images": len(sources.train),
            "num_classes": sources.train.num_classes,
            "fingerprint": sources.train.fingerprint(),
        },
        steps=length.total,
        steps_per_epoch=length.epoch,
    )
    teacher_variables = jax.device_put(loaded.variables if loaded else {}, parallel.replicated(mesh))
    return _Prepared(
        config, directory, mesh, name, sources, length, training, teacher_variables, probe, teacher_probe
    )


def _first_state(p: _Prepared, checkpoints: Checkpoints):
    """The state to begin with, and its step: of the newest checkpoint that is whole, or fresh."""
    t, total = p.training, p.length.total
    newest = checkpoints.latest()
    if newest is not None and newest > total:
        raise UserError(f"{p.directory} is already at step {newest}, past the {total} steps of this config.")
    if newest is None:
        current, begin = parallel.jit_once(t.fresh, out_shardings=t.shardings)(t.start), 0
    else:
        like = jax.tree.map(
            lambda x, s: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=s), t.abstract, t.shardings
        )
        current = checkpoints.restore(like)
        begin = checkpoints.latest()
    for sentence in checkpoints.damaged:
        say(f"{p.name}: {sentence}")
    if begin:
        say(f"{p.name}: going on from step {begin} of {total} in {p.directory}")
    return current, begin


def _loop(p: _Prepared, started: float):
    config, length, name = p.config, p.length, p.name
    with contextlib.ExitStack() as stack:
        checkpoints = stack.enter_context(
            contextlib.closing(Checkpoints(p.directory / "checkpoints", config.train.keep))
        )
        current, begin = _first_state(p, checkpoints)
        writer = stack.enter_context(
            MetricsWriter(p.directory, tensorboard=config.log.tensorboard, wandb=config.log.wandb or None)
        )
        writer.truncate(begin if begin else -1)
        bad = BadImages(p.sources.train)
        monitor = stack.enter_context(
            contextlib.closing(
                Monitor(
                    writer,
                    bad,
                    name=name,
                    start=begin,
                    steps=length.total,
                    steps_per_pass=length.epoch,
                    every=config.log.every_steps,
                    batch_size=config.data.batch_size,
                )
            )
        )
        batches = stack.enter_context(contextlib.closing(_batches(p, begin, bad)))
        stop = stack.enter_context(StopRequest())
        stack.enter_context(_ending_with_the_others(p.directory))  # before closing waits for one that is gone

        def measure(step):
            """Write the probe's scores; the one that counts, or None."""
            scores = p.probe({"params": current.params, **current.model_state}) if p.probe else {}
            score = scores.get("top1", scores.get("knn"))
            if step == 0 and p.teacher_probe is not None:
                scores |= {f"teacher_{k}": v for k, v in p.teacher_probe(p.teacher_variables).items()}
            if scores:
                writer.write(step, scores)
            return score

        score = None
        try:
            for step in range(begin, length.total + 1):
                stopping = stop.reached(step) and step < length.total
                saving = step > begin and (step == length.total or step % length.save == 0)
                probing = saving or (step % length.probe == 0 and (step > begin or step == 0))
                if probing or stopping:
                    monitor.flush()
                    with monitor.pause():
                        if probing and not stopping:
                            score = measure(step)
                        if saving or (stopping and step > begin):
                            checkpoints.save(current, step, None if stopping else score)
                if stopping:
                    checkpoints.wait()
                    say(f"{name}: stopped at step {step} of {length.total}; the same command goes on there")
                    raise Stopped(stop.exit_code)
                if step == length.total:
                    break
                before = time.perf_counter()
                samples, batch = next(batches)
                waited = time.perf_counter() - before
                if step == begin:
                    say(f"{name}: compiling for {p.mesh.size} x {jax.devices()[0].device_kind}")
                    with monitor.pause():
                        current, metrics = jax.block_until_ready(
                            p.training.step(current, p.teacher_variables, batch)
                        )
                    say(f"{name}: first step done {time.time() - started:.1f} s after the start")
                else:
                    with jax.transfer_guard("disallow"):
                        current, metrics = p.training.step(current, p.teacher_variables, batch)
                monitor.step(step + 1, metrics, samples, waited, compiled=step == begin)
        except NotFinite as error:
            checkpoints.wait()
            last = checkpoints.latest()
            kept = f"the checkpoint of step {last} is kept" if last else "there is no checkpoint yet"
            way_out = "lower optim.lr or set optim.clip_norm" + (", in another --workdir" if last else "")
            raise UserError(f"{error}; {kept} in {p.directory}: {way_out}.") from error
    return score


def _ending_with_the_others(directory):
    return parallel.ending_with_the_others(
        f"start all of them again, and the run goes on from the newest checkpoint in {directory}"
    )


def _batches(p: _Prepared, begin: int, bad: BadImages):
    """Batches on the devices, each with what the monitor needs of it on the host."""
    config = p.config
    return prefetch(
        train_batches(
            p.sources.train,
            p.training.views,
            config.data.batch_size,
            config.train.seed,
            begin,
            workers=config.data.workers,
            bad=bad,
        ),
        lambda batch: ({k: batch[k] for k in ("id", "bad")}, parallel.to_devices(p.mesh, batch)),
    )
