"""Our side of the paired benchmark, in a process of its own: prints what it measured as one line of JSON.

python -m experiments.benchmarks.paired.ours WORK FOLDER REPEATS
"""

import itertools
import json
import sys
from collections.abc import Iterator
from pathlib import Path

import jax
from absl import logging

from experiments.benchmarks import parts, quiet
from experiments.benchmarks.paired import work as work_lib
from experiments.benchmarks.timing import median_ms
from seed_jax import config, parallel, weights


def main(arguments: list[str]) -> None:
    logging.set_verbosity(logging.ERROR)
    work, folder = work_lib.Work(**json.loads(arguments[0])), Path(arguments[1])
    parallel.start()
    mesh = parallel.make_mesh(jax.devices())
    with jax.set_mesh(mesh):
        run = _start(work, folder, mesh)
        step = parts.step(run)
        losses = [float(step.call()["loss"]) for _ in range(work_lib.LOSSES)]
        times, shares = {}, {}
        for part in itertools.chain([step], _parts(run)):
            with quiet.Others() as others:
                times[part.name] = median_ms(part.call, int(arguments[2]))
            shares[part.name] = others.share
    versions = f"JAX {jax.__version__}, {mesh.size} device{'s' if mesh.size > 1 else ''}"
    print(json.dumps({"losses": losses, "ms": times, "others": shares, "versions": versions}))


def _parts(run: parts.Run) -> Iterator[parts.Part]:
    """The parts of the step, compiled when they are asked for, from the state as the step has left it."""
    for name, network in parts.networks(run).items():
        yield network.part(name)
    method, slots = run.config.method, run.state.aux["queue"].slots
    yield parts.loss(method, run.mesh, slots.shape[1], slots.shape[2], method.queue_size)


def _start(work: work_lib.Work, folder: Path, mesh) -> parts.Run:
    teacher, student = work_lib.files(folder, work)
    raw = config.default("seed")
    raw.teacher.model, raw.teacher.weights = work.teacher, str(teacher)
    raw.student.model = work.student
    for section, model in ((raw.teacher, work.teacher), (raw.student, work.student)):
        section.options = {"width": work.base / 64} if model.startswith("resnet") else {"dropout": 0.0}
    raw.method.queue_size, raw.method.queue_start = work.queue, "noise"
    raw.method.tau_student, raw.method.tau_teacher = work_lib.TAU_STUDENT, work_lib.TAU_TEACHER
    raw.data.batch_size, raw.data.image_size = work.batch, work.size
    raw.data.photometric, raw.data.flip = "none", 0.0
    raw.optim.lr, raw.optim.lr_batch, raw.optim.schedule = work_lib.RATE, work_lib.RATE_BATCH, "constant"
    raw.optim.momentum, raw.optim.weight_decay = work_lib.MOMENTUM, work_lib.DECAY
    raw.train.steps, raw.train.precision, raw.train.bn_group = 1000, "fp32", 0
    run = parts.start(config.resolve(raw), mesh)
    run.host.close()  # its threads would prepare batches while the step is timed

    loaded = weights.load(student, run.training.student)
    state, queue = run.state, run.state.aux["queue"]
    queue = queue.replace(slots=work_lib.queue(work).reshape(queue.slots.shape))
    given = {
        "params": loaded["params"],
        "model_state": {name: tree for name, tree in loaded.items() if name != "params"},
        "aux": {"queue": queue},
    }
    run.state = jax.device_put(state.replace(**given), run.training.shardings)
    views = (work_lib.images(work)[:, None],)
    run.batch = {**run.batch, "views": parallel.to_devices(mesh, views)}
    return run


if __name__ == "__main__":
    main(sys.argv[1:])
