"""Whether an accelerator computes what the CPU computes: a forward, the loss, 20 steps of a small run.

Both get the same weights and the same batches of digits, in float32, with matrix products and convolutions at
the highest precision. The run is `configs/seed_r50_to_mbv3.py:smoke`. The tolerances:

- forward: 1e-4, the largest difference in the student's embeddings of length 1, in train mode;
- loss: 1e-5, the largest relative difference in the SEED losses of the samples of a batch;
- steps: 1e-2, the largest relative difference in the loss of a step. Rounding grows from step to
  step; by how much between two kinds of device is not known yet, so this tolerance is a guess.
"""

import dataclasses

import jax
import numpy as np

from seed_jax import config, parallel
from seed_jax.data import pipeline
from seed_jax.data.sources import open_source
from seed_jax.losses import seed_loss
from seed_jax.methods import queue as queues
from seed_jax.methods.base import unit
from seed_jax.train import build
from seed_jax.train import teacher as teachers
from seed_jax.train.state import TrainState

STEPS = 20
TOLERANCES = {"forward": 1e-4, "loss": 1e-5, f"{STEPS} steps": 1e-2}
BATCH, DIM = 256, 128  # of the loss


@dataclasses.dataclass(frozen=True)
class Start:
    """What every device starts from; all arrays are NumPy's.

    Attributes:
      teacher: with its variables.
      state: at step 0.
      batches: as the pipeline yields them, one for each step.
      rows, slots: float32 `[2, B, D]`, student and teacher, and `[S, B, D]`, the queue, of length 1; for the
        loss.
    """

    config: config.Config
    given: build.Given
    teacher: teachers.Loaded
    state: TrainState
    batches: list
    rows: np.ndarray
    slots: np.ndarray


def compare(size: int) -> dict[str, dict]:
    """For each key of `TOLERANCES` the `error` of the first device, its `tolerance` and whether it `passed`.

    On a machine without an accelerator the CPU is compared with itself.

    Args:
      size: entries of the queue of the loss, a multiple of `BATCH`.
    """
    begun = start(size)
    here, reference = (computed(begun, device) for device in (jax.devices()[0], jax.devices("cpu")[0]))
    (forward, loss, steps), (forward_cpu, loss_cpu, steps_cpu) = here, reference
    errors = (forward - forward_cpu, loss / loss_cpu - 1, steps / steps_cpu - 1)
    found = {}
    for (name, tolerance), difference in zip(TOLERANCES.items(), errors, strict=True):
        error = float(np.abs(difference).max())
        found[name] = {"error": error, "tolerance": tolerance, "passed": error <= tolerance}
    return found


def start(size: int) -> Start:
    """The weights and the batches that both devices get, for views of `size` pixels."""
    raw = config.load("seed_r50_to_mbv3:smoke")
    raw.train.precision, raw.train.steps, raw.optim.lr_batch = "fp32", STEPS, 0
    raw.method.queue_start = "noise"  # over an empty queue the first loss is 0
    c = config.resolve(raw)
    d, mesh = c.data, parallel.make_mesh(jax.devices()[:1])
    with jax.set_mesh(mesh):
        loaded = teachers.load(c.teacher, image_size=d.image_size, seed=1, precision=c.train.precision)
        given = build.make_given(c, build.Lengths(STEPS, STEPS, STEPS, STEPS), 0, loaded)
        training = build.assemble(c, mesh, given, loaded.network)
        state = jax.device_get(training.fresh(None))
        entries = queues.init(size + 2 * BATCH, BATCH, DIM, start="noise", rng=jax.random.key(0)).slots
    loaded = dataclasses.replace(loaded, variables=jax.device_get(loaded.variables))
    host = pipeline.train_batches(open_source(d.source, d.train), training.views, d.batch_size, seed=0)
    batches = [next(host) for _ in range(STEPS)]
    host.close()
    rows, slots = np.split(np.asarray(entries), [2])
    return Start(c, given, loaded, state, batches, rows, slots)


def computed(begun: Start, device: jax.Device) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """What a device computes: unit embeddings `[B, D]`, losses `[BATCH]`, the loss of each step; float64."""
    mesh = parallel.make_mesh([device])
    with jax.default_matmul_precision("highest"), jax.set_mesh(mesh):
        training = build.assemble(begun.config, mesh, begun.given, begun.teacher.network)
        everywhere = parallel.replicated(mesh)
        teacher = jax.device_put(begun.teacher.variables, everywhere)
        state = jax.device_put(begun.state, training.shardings)

        def embed(state, x):
            variables = {"params": state.params, **state.model_state}
            keys = jax.random.split(jax.random.key(0), len(x))
            return unit(training.student.apply(variables, x, True, keys)[0]["embedding"])

        x = np.float32(begun.batches[0]["views"][0][:, 0]) / 255
        forward = jax.jit(embed)(state, jax.device_put(x, everywhere))
        loss = jax.jit(seed_loss)(*jax.device_put((*begun.rows, begun.slots), everywhere))
        steps = []
        for batch in begun.batches:
            state, metrics = training.step(state, teacher, parallel.to_devices(mesh, batch))
            steps.append(metrics["loss"])
        return tuple(np.asarray(jax.device_get(found), np.float64) for found in (forward, loss, steps))
