"""The one loop: data, step, log, probe, checkpoint. There is no maths in it."""

import contextlib
import dataclasses
import time
from collections.abc import Iterator
from pathlib import Path

import jax
import ml_collections

from seed_jax import config as config_lib
from seed_jax import parallel, report
from seed_jax.config import Config
from seed_jax.data.pipeline import BadImages, prefetch, train_batches
from seed_jax.errors import UserError
from seed_jax.evals.base import Abandoned
from seed_jax.evals.online import OnlineProbe
from seed_jax.report.metrics import MetricsWriter, last_score, read
from seed_jax.train import build, workdir
from seed_jax.train.build import Lengths, Sources, Training
from seed_jax.train.checkpoint import Checkpoints
from seed_jax.train.monitor import Monitor, NotFinite, say
from seed_jax.train.stop import Stopped, StopRequest


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
    mesh = parallel.make_mesh()
    with jax.set_mesh(mesh), _ending_with_the_others(directory):
        prepared = parallel.together(lambda: _prepare(config, Path(directory), mesh, name))
        workdir.agree(prepared.directory, raw, prepared.facts)
        with workdir.hold(prepared.directory):
            workdir.claim(prepared.directory, raw)
            workdir.write_manifest(prepared.directory, **prepared.facts)
            _loop(prepared, started)
        if jax.process_index() == 0:
            say(f"{name}: done, {report.run_report(directory)}")
        parallel.wait_for_all("done")
    return last_score(read(directory))


@dataclasses.dataclass(frozen=True)
class _Prepared:
    config: Config
    directory: Path
    mesh: jax.sharding.Mesh
    name: str
    sources: Sources
    length: Lengths
    training: Training
    facts: dict
    teacher_variables: dict
    probe: OnlineProbe | None
    teacher_probe: OnlineProbe | None


def _prepare(config, directory, mesh, name) -> _Prepared:
    """Everything that can fail before compiling, in each process for itself."""
    sources, loaded = build.open_inputs(config)
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
    elif config.evals.names:
        say(f"{name}: data.source has no labels, so there is no probe during training")

    facts = {
        "teacher": loaded.provenance if loaded else None,
        "teacher_dim": loaded.dim if loaded else None,
        "init": training.init,
        "data": {
            "source": config.data.source,
            "images": len(sources.train),
            "num_classes": sources.train.num_classes,
            "fingerprint": sources.train.fingerprint(),
        },
        "steps": length.total,
        "steps_per_epoch": length.epoch,
    }
    return _Prepared(
        config=config,
        directory=directory,
        mesh=mesh,
        name=name,
        sources=sources,
        length=length,
        training=training,
        facts=facts,
        teacher_variables=loaded.variables if loaded else {},
        probe=probe,
        teacher_probe=teacher_probe,
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
    with contextlib.ExitStack() as stack:
        enter = stack.enter_context
        teacher_variables = jax.device_put(p.teacher_variables, parallel.replicated(p.mesh))
        p = dataclasses.replace(p, teacher_variables=teacher_variables)
        log = p.config.log
        writer = enter(MetricsWriter(p.directory, tensorboard=log.tensorboard, wandb=log.wandb or None))
        checkpoints = Checkpoints(p.directory / "checkpoints", p.config.train.keep, writer.score)
        enter(contextlib.closing(checkpoints))
        current, begin = _first_state(p, checkpoints)
        earlier = checkpoints.log() if begin else {}
        written = begin - len(earlier.get("window", [])) if begin else -1
        found = writer.truncate(written)
        if found < written:
            say(f"{p.name}: {writer.path} ends at step {found}: its lines up to step {written} are lost")
        bad = BadImages(p.sources.train)
        monitor = Monitor(
            writer,
            bad,
            name=p.name,
            start=begin,
            earlier=earlier,
            steps=p.length.total,
            steps_per_pass=p.length.epoch,
            every=log.every_steps,
            batch_size=p.config.data.batch_size,
        )
        enter(contextlib.closing(monitor))
        batches = enter(contextlib.closing(_batches(p, begin, bad)))
        stop = enter(StopRequest())
        enter(_ending_with_the_others(p.directory))  # before closing waits for one that is gone
        try:
            _Run(p, checkpoints, writer, monitor, batches, stop).go(current, begin, started)
        except NotFinite as error:
            checkpoints.wait()
            last = checkpoints.latest()
            kept = f"the checkpoint of step {last} is kept" if last else "there is no checkpoint yet"
            way_out = "lower optim.lr or set optim.clip_norm" + (", in another --workdir" if last else "")
            raise UserError(f"{error}; {kept} in {p.directory}: {way_out}.") from error
        checkpoints.wait()


@dataclasses.dataclass(frozen=True)
class _Run:
    """A run under way."""

    p: _Prepared
    checkpoints: Checkpoints
    writer: MetricsWriter
    monitor: Monitor
    batches: Iterator
    stop: StopRequest

    def go(self, current, begin, started):
        """From the state of step `begin` to the last step."""
        name, length = self.p.name, self.p.length
        score = self.writer.score(begin)
        probed = parallel.anywhere(score is not None)  # a stop saves without the probe
        for step in range(begin, length.total + 1):
            stopping = self.stop.reached(step) and step < length.total
            if length.probes(step):
                self.monitor.flush()
                if not stopping and not (probed and step == begin):
                    try:
                        score = self.probe(current, step)
                    except Abandoned:
                        stopping = True
            if step > begin and (length.saves(step) or stopping):
                log = self.monitor.state()
                with self.monitor.pause():
                    self.writer.sync()
                    self.checkpoints.save(current, step, None if stopping else score, log)
            if stopping:
                self.checkpoints.wait()
                say(f"{name}: stopped at step {step} of {length.total}; the same command goes on there")
                raise Stopped(self.stop.exit_code)
            if begin and step == begin and length.saves(step):
                self.checkpoints.rate(step, score)
            if step == begin < length.total:
                current = self.first_step(current, step, started)
            elif step < length.total:
                current = self.step(current, step)

    def probe(self, current, step):
        """Write the probe's scores; the one that counts, or None.

        Raises:
          Abandoned: a stop was asked for meanwhile.
        """
        scores = {}
        with self.monitor.pause():
            if self.p.probe is not None:
                scores |= self.p.probe(
                    {"params": current.params, **current.model_state}, self.stop.asked_here
                )
            if step == 0 and self.p.teacher_probe is not None:
                found = self.p.teacher_probe(self.p.teacher_variables, self.stop.asked_here)
                scores |= {f"teacher_{k}": v for k, v in found.items()}
        if scores:
            self.writer.write(step, scores)
        return last_score([scores])

    def first_step(self, current, step, started):
        """The state after one more step, which is compiled before; its time is no training time."""
        p = self.p
        say(f"{p.name}: compiling for {p.mesh.size} x {jax.devices()[0].device_kind}")
        with self.monitor.pause():
            samples, batch = next(self.batches)
            current, metrics = jax.block_until_ready(p.training.step(current, p.teacher_variables, batch))
        say(f"{p.name}: first step done {time.time() - started:.1f} s after the start")
        self.monitor.step(step + 1, metrics, samples, None)
        return current

    def step(self, current, step):
        """The state after one more step."""
        before = time.perf_counter()
        samples, batch = next(self.batches)
        waited = time.perf_counter() - before
        with jax.transfer_guard("disallow"):
            current, metrics = self.p.training.step(current, self.p.teacher_variables, batch)
        self.monitor.step(step + 1, metrics, samples, waited)
        return current


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
