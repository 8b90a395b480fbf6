"""The one loop: data, step, metrics, probe, checkpoint. There is no maths in it."""

import contextlib
import itertools
import time
from pathlib import Path

import jax
import ml_collections

from seed_jax import config as config_lib
from seed_jax import parallel, report
from seed_jax.data.pipeline import BadImages, prefetch, train_batches
from seed_jax.errors import UserError
from seed_jax.evals.base import Abandoned
from seed_jax.evals.pixels import VARIABLES
from seed_jax.report.metrics import MetricsWriter, last_score, read
from seed_jax.train import build, compiling, offline, state, workdir
from seed_jax.train.build import Prepared
from seed_jax.train.checkpoint import Checkpoints
from seed_jax.train.monitor import Monitor, NotFinite, say
from seed_jax.train.profile import Profiler
from seed_jax.train.stop import Stopped, StopRequest


def run(
    raw: ml_collections.ConfigDict,
    directory: str | Path,
    *,
    name: str = "train",
    started: float | None = None,
    profile: int = 0,
):
    """Train as the config says, or resume from the newest checkpoint in the workdir.

    Args:
      directory: the workdir: config.json, manifest.json, metrics.jsonl, checkpoints/, report.html.
      name: shown next to the progress bar.
      started: `time.time()` when the command started, for the time to the first step.
      profile: number of steps to trace into the workdir's `profile` folder, from the third on; 0 for none.

    Returns:
      The last score that decides the best checkpoint (`metrics.last_score`), or None without a probe.

    Raises:
      UserError: anything the user can fix. Every check that needs no compiled program runs before
        compilation.
      Stopped: SIGTERM or Ctrl-C came after the first step; the state is saved. Before, a signal acts as the
        caller has set it: in a command, `end_on_signals` ends the process at once.
    """
    started = time.time() if started is None else started
    config, directory = config_lib.resolve(raw), Path(directory)
    say(f"{name}: reading the data and the networks")
    mesh = parallel.make_mesh()
    with jax.set_mesh(mesh), _ending_with_the_others(directory):
        # Prepare: whatever can fail before compiling fails here, in all processes together.
        p = parallel.together(lambda: build.prepare(config, mesh, name))
        workdir.agree(directory, raw, p.facts)
        with workdir.hold(directory), contextlib.ExitStack() as stack:
            workdir.claim(directory, raw)
            workdir.write_manifest(directory, **p.facts)
            p = offline.with_found(p, directory, name)
            _loop(p, directory, name, started, profile, stack.enter_context)
        if jax.process_index() == 0:
            page = report.run_report(directory)
            say(f"{name}: {report.answer(directory)[0]}")
            say(f"{name}: done, {page}")
        parallel.wait_for_all("done")
    return last_score(read(directory))


def _loop(p: Prepared, directory: Path, name: str, started: float, profile: int, enter):
    """From the newest checkpoint to the last step; `enter` keeps contexts open until then."""
    config, length, training = p.config, p.length, p.training

    # Resume: from the newest checkpoint, or a fresh state; metrics.jsonl is cut back to that step.
    writer = enter(MetricsWriter(directory, config.log.tensorboard, config.log.wandb or None))
    checkpoints = Checkpoints(directory / "checkpoints", config.train.keep, writer.score)
    enter(contextlib.closing(checkpoints))
    divided = config.train.shard_params
    of_teacher = parallel.variable_shardings(p.mesh, p.teacher_variables, divided=divided)
    teacher_variables = jax.device_put(p.teacher_variables, of_teacher)
    current, begin = _newest_state(p, directory, checkpoints, name)
    if begin == 0:
        fresh = compiling.ahead(f"{name}: the start", training.fresh, p.backbone)
    earlier = checkpoints.log() if begin else {}
    _cut_back(writer, begin, earlier, name)

    # Start what runs next to the loop: reading, progress, tracing.
    bad = BadImages(p.sources.train)
    monitor = _monitor(p, writer, bad, begin, earlier, name)
    enter(contextlib.closing(monitor))
    batches = enter(contextlib.closing(_batches(p, begin, bad)))
    stop = StopRequest()
    profiler = enter(Profiler(directory / "profile", first=begin + 3, count=profile))
    enter(_ending_with_the_others(directory))  # before the contexts above wait for one that is gone
    enter(_not_finite_named(directory, checkpoints))

    # Compile the step while the state it begins with is drawn and scored.
    if begin < length.total:
        say(f"{name}: compiling for {p.mesh.size} x {jax.devices()[0].device_kind}")
        batches, like = _peeked(batches)
        update = compiling.ahead(
            f"{name}: the step", training.step, training.abstract, teacher_variables, like
        )
    if begin == 0:
        current = fresh(p.backbone)

    at_start = writer.scores(0)

    def probe(step):
        """The score of the current state; raises `Abandoned` if a stop is requested meanwhile."""
        with monitor.pause():
            scores = _scores(p, current, step, teacher_variables, stop)
        if scores:
            writer.write(step, scores)
            images = p.facts["probe_images"]
            say(f"{name}: step {step}: {report.probe_line(scores, at_start, images)}")
            if step == 0:
                at_start.update(scores)
            if jax.process_index() == 0:
                early = report.milestones(directory).get(step)
                if early:
                    say(f"{name}: {early}")
                if early or step == 0:
                    with monitor.pause():
                        report.run_report(directory)
        return last_score([scores])

    def end_here(step):
        checkpoints.wait()
        say(f"{name}: stopped at step {step} of {length.total}; the same command resumes there")
        raise Stopped(stop.exit_code)

    # Probe the state that the run begins with unless it has a score: a stop saves without a probe.
    if stop.reached(begin) and begin < length.total:
        end_here(begin)
    score = writer.score(begin)
    if length.probes(begin) and not parallel.anywhere(writer.probed(begin)):
        score = probe(begin)
    if begin and length.saves(begin):
        checkpoints.rate(begin, score)

    for step in range(begin + 1, length.total + 1):
        # Update. The first time waits for the compiler, which is no training time.
        first = step == begin + 1
        with monitor.pause() if first else contextlib.nullcontext(), profiler.step(step) as last_traced:
            asked = time.perf_counter()
            samples, batch = next(batches)
            waited = time.perf_counter() - asked
            with jax.transfer_guard("allow" if first else "disallow"):
                current, metrics = update(current, teacher_variables, batch)
            if first or last_traced:
                jax.block_until_ready(current)
            if first:
                say(f"{name}: first step done {time.time() - started:.1f} s after the start")
                enter(stop)  # until here a signal ended the process at once: there was nothing to save
        monitor.step(step, metrics, samples, None if first else waited)

        # Probe, unless the run is to stop.
        stopping = stop.reached(step) and step < length.total
        if length.probes(step):
            monitor.flush()
            if not stopping:
                try:
                    score = probe(step)
                except Abandoned:
                    stopping = True

        # Save. All metrics up to here are known to be finite, and on the disk.
        if length.saves(step) or stopping:
            log = monitor.state()
            with monitor.pause():
                writer.sync()
                kept = state.served(config.method, current)
                checkpoints.save(current, step, None if stopping else score, log, served=kept)
        if stopping:
            end_here(step)
    checkpoints.wait()


def _newest_state(p: Prepared, directory: Path, checkpoints: Checkpoints, name: str):
    """The state of the newest checkpoint that is whole, and its step; (None, 0) if there is none."""
    total, newest = p.length.total, checkpoints.latest()
    if newest is None:
        return None, 0
    if newest > total:
        raise UserError(
            f"{directory} is already at step {newest}, past the {total} steps of this config: use another "
            "--workdir, or a longer run."
        )
    current = checkpoints.restore(p.training.abstract)
    begin = checkpoints.latest()
    for sentence in checkpoints.damaged:
        say(f"{name}: {sentence}")
    say(f"{name}: resuming from step {begin} of {total} in {directory}")
    return current, begin


def _cut_back(writer: MetricsWriter, begin: int, earlier: dict, name: str) -> None:
    """Remove the lines after the checkpoint, which will be written again; say if some before it are lost."""
    expected = begin - len(earlier.get("window", [])) if begin else -1
    last = writer.truncate(expected)
    if last < expected:
        say(f"{name}: {writer.path} ends at step {last}: its lines up to step {expected} are lost")


def _monitor(p: Prepared, writer, bad: BadImages, begin: int, earlier: dict, name: str) -> Monitor:
    return Monitor(
        writer,
        bad,
        name=name,
        start=begin,
        earlier=earlier,
        steps=p.length.total,
        steps_per_epoch=p.length.epoch,
        every=p.config.log.every_steps,
        batch_size=p.config.data.batch_size,
        notice=lambda means: p.config.method.notice(means, p.given),
    )


def _batches(p: Prepared, begin: int, bad: BadImages):
    """Batches on the devices, each with what the monitor needs of it on the host."""
    d = p.config.data
    return prefetch(
        train_batches(
            p.sources.train,
            p.training.views,
            d.batch_size,
            p.config.train.seed,
            begin,
            workers=d.workers,
            bad=bad,
            last=d.last,
            background=d.background,
        ),
        lambda batch: ({k: batch[k] for k in ("id", "bad")}, parallel.to_devices(p.mesh, batch)),
    )


def _peeked(batches):
    """The same batches, and shapes and shardings of the first one's arrays on the devices."""
    samples, batch = next(batches)
    like = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=x.sharding), batch)
    return itertools.chain([(samples, batch)], batches), like


def _scores(p: Prepared, current, step: int, teacher_variables, stop: StopRequest) -> dict[str, float]:
    """Scores of the student by name; at step 0 also those of teacher and raw pixels, with their prefixes."""
    scores = {}
    if p.probe is not None:
        scores |= p.probe(state.served(p.config.method, current), stop.asked_here)
    if step == 0 and p.teacher_probe is not None:
        of_teacher = p.teacher_probe(teacher_variables, stop.asked_here)
        scores |= {f"teacher_{k}": v for k, v in of_teacher.items()}
    if step == 0 and p.pixels_probe is not None:
        of_pixels = p.pixels_probe(VARIABLES, stop.asked_here)
        scores |= {f"pixels_{k}": v for k, v in of_pixels.items()}
    return scores


def _ending_with_the_others(directory: Path):
    return parallel.ending_with_the_others(
        f"start all of them again, and the run resumes from the newest checkpoint in {directory}"
    )


@contextlib.contextmanager
def _not_finite_named(directory: Path, checkpoints: Checkpoints):
    """A context that ends the run if a metric is not finite; the error says which checkpoint is kept."""
    try:
        yield
    except NotFinite as error:
        checkpoints.wait()
        last = checkpoints.latest()
        kept = f"the checkpoint of step {last} is kept" if last else "there is no checkpoint yet"
        fix = "lower optim.lr or set optim.clip_norm" + (", in another --workdir" if last else "")
        raise UserError(f"{error}; {kept} in {directory}: {fix}.") from error
