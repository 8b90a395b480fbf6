"""A training step and its parts, each a compiled program of its own, for the benchmarks that time them."""

import dataclasses
import functools
import time
from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P

from seed_jax import parallel
from seed_jax.config import Config
from seed_jax.data import photometric
from seed_jax.data.pipeline import train_batches
from seed_jax.data.sources import Arrays
from seed_jax.losses import info_nce, seed_loss
from seed_jax.methods import queue as queues
from seed_jax.methods.base import Method
from seed_jax.methods.moco import MoCo
from seed_jax.train import build, optim, plan
from seed_jax.train import teacher as teachers
from seed_jax.train.state import TrainState

IMAGES = 512  # of noise, 256 x 256 pixels; more for a larger batch
LENGTHS = build.Lengths(total=1000, epoch=100, probe=100, save=100)


@dataclasses.dataclass
class Run:
    """A run of the config, assembled as the trainer assembles it, with one batch of noise on the devices.

    Attributes:
      teacher: with its variables on the devices; None if the method has none.
      state: at step 0; the part 'step' replaces it.
      host: the batches of the pipeline, of which `batch` was the first. Close it to end its threads.
    """

    config: Config
    mesh: jax.sharding.Mesh
    training: build.Training
    teacher: teachers.Loaded | None
    state: TrainState
    host: Iterator
    batch: Any


@dataclasses.dataclass(frozen=True)
class Part:
    """A compiled program on arrays that are on the devices.

    Attributes:
      call: runs it once and returns without waiting.
      flops: over all devices; None where only elementwise work is done.
      compile_s: seconds to trace, lower and compile it.
    """

    name: str
    call: Callable[[], Any]
    program: jax.stages.Compiled
    flops: float | None
    compile_s: float


@dataclasses.dataclass(frozen=True, eq=False)
class Network:
    """A pass of a network in a step: `forward(*arguments)` gives the embeddings.

    Attributes:
      arguments: as the state has them now; the parameters, or the variables of the teacher, come first.
      trained: whether the gradient of the parameters belongs to the pass.
    """

    forward: Callable
    arguments: tuple
    trained: bool = False

    def __call__(self, *arguments):
        """The pass as the step has it: embeddings, or the gradient of their sum."""
        if not self.trained:
            return self.forward(*arguments)
        params, *others = arguments
        return jax.grad(lambda params: self.forward(params, *others).sum())(params)

    def part(self, name: str) -> Part:
        """The pass, compiled; its FLOPs are not counted."""
        return _part(name, None, self, *self.arguments)


def start(c: Config, mesh, classes: int = 0) -> Run:
    """The run of a config; a teacher has weights 'random'. Call it inside `jax.set_mesh`.

    Args:
      classes: of random labels; 0 for none.
    """
    d, loaded = c.data, None
    if c.method.needs_teacher:
        loaded = teachers.load(c.teacher, image_size=d.image_size, seed=1, precision=c.train.precision)
        there = jax.device_put(loaded.variables, parallel.replicated(mesh))
        loaded = dataclasses.replace(loaded, variables=there)
    given = build.make_given(c, LENGTHS, classes, loaded)
    training = build.assemble(c, mesh, given, loaded and loaded.network)
    state = training.fresh(None)
    count = max(IMAGES, d.batch_size)
    numbers = np.random.default_rng(0)
    pixels = numbers.integers(0, 256, (count, 256, 256, 3), np.uint8)
    labels = numbers.integers(0, classes, count) if classes else None
    host = train_batches(Arrays("noise", pixels, labels), training.views, d.batch_size, seed=0)
    return Run(c, mesh, training, loaded, state, host, parallel.to_devices(mesh, next(host)))


def step(run: Run, flops: float | None = None) -> Part:
    """The whole step as training compiles it; it donates the state."""
    variables = run.teacher.variables if run.teacher else {}
    program, seconds = _compile(run.training.step, run.state, variables, run.batch)

    def call():
        run.state, metrics = program(run.state, variables, run.batch)
        return metrics

    return Part("step", call, program, flops, seconds)


def parts(run: Run) -> Iterator[Part]:
    """The step, then its parts, each compiled when it is asked for.

    Call the step before asking for the next part, not after: it deletes the state that the others read.

    The FLOPs of the step are the sum of those of its networks and its loss. Those of the networks are XLA's
    count for the program as written (`flops`), those of the loss `loss_flops`.
    """
    batch, size = run.config.data.batch_size, run.config.data.image_size
    own = parallel.batch_sharding(run.mesh)
    keys = jax.device_put(jax.random.split(jax.random.key(2), batch), own)
    method, slots = run.config.method, run.state.aux["queue"].slots
    x = jax.ShapeDtypeStruct((batch, size, size, 3), jnp.float32)
    counted = {name: flops(n, *n.arguments) for name, n in _networks(run, x, keys).items()}
    dim = slots.shape[-1]
    yield step(run, sum(counted.values()) + loss_flops(method, batch, dim, method.queue_size))

    spec, images = run.training.views[0], run.batch["views"][0]

    def colour(images, keys):
        return photometric.augment(spec.photometric, images, keys, spec.flip)[0]

    colours = _part(f"photometrics ({spec.photometric})", None, colour, images, keys)
    yield colours
    x = jax.device_put(colours.call()[:, 0], own)
    for name, network in _networks(run, x, keys).items():
        yield _part(name, counted[name], network, *network.arguments)
    yield loss(method, run.mesh, batch, dim, method.queue_size)


def networks(run: Run) -> dict[str, Network]:
    """The passes of networks in the step, by the names of their parts, on one batch of noise."""
    batch, size = run.config.data.batch_size, run.config.data.image_size
    own = parallel.batch_sharding(run.mesh)
    x = jax.device_put(jax.random.uniform(jax.random.key(1), (batch, size, size, 3)), own)
    return _networks(run, x, jax.device_put(jax.random.split(jax.random.key(2), batch), own))


def _networks(run: Run, x, keys) -> dict[str, Network]:
    student, state, found = run.training.student, run.state, {}

    def embed(params, model_state, x, keys):
        return student.apply({"params": params, **model_state}, x, True, keys)[0]["embedding"]

    if run.teacher:
        network = run.teacher.network

        def forward(variables, x):
            return network.apply(variables, x, False)[0]["embedding"]

        found["teacher forward"] = Network(forward, (run.teacher.variables, x))
    arguments = state.params, state.model_state, x, keys
    found["student forward + backward"] = Network(embed, arguments, trained=True)
    if isinstance(run.config.method, MoCo):
        found["key encoder forward"] = Network(embed, arguments)
    return found


def optimizer(run: Run) -> Part:
    """The update of the parameters from a gradient, as the step makes it."""
    o, length = run.config.optim, {"steps": 1000, "steps_per_epoch": 100}
    rate = optim.schedule(o, batch_size=run.config.data.batch_size, **length)
    tx = optim.optimizer(o, rate, run.config.method.frozen)

    def update(gradient, opt_state, params):
        updates, opt_state = tx.update(gradient, opt_state, params)
        return optax.apply_updates(params, updates), opt_state

    params = run.state.params
    return _part("optimizer", None, update, params, jax.jit(tx.init)(params), params)


def loss(method: Method, mesh, batch: int, dim: int, size: int) -> Part:
    """The loss of SEED or MoCo over a queue of `size` random entries, and its gradient.

    The program is `(student [B, D], teacher or key [B, D], slots [S, B, D]) -> (loss, gradient)`.
    """
    slots = queues.init(size, batch, dim, start="noise", rng=jax.random.key(0)).slots
    rows = parallel.batch_sharding(mesh)
    student, teacher = (jax.device_put(slots[i % len(slots)], rows) for i in range(2))
    slots = jax.device_put(slots, NamedSharding(mesh, P(None, parallel.DATA_AXIS)))
    if isinstance(method, MoCo):
        of_rows = functools.partial(info_nce, temperature=method.temperature)
    else:
        of_rows = functools.partial(seed_loss, tau_student=method.tau_student, tau_teacher=method.tau_teacher)

    def mean(student, teacher, slots):
        return of_rows(student, teacher, slots).mean()

    count = loss_flops(method, batch, dim, size)
    return _part("loss and its gradient", count, jax.value_and_grad(mean), student, teacher, slots)


def loss_flops(method: Method, batch: int, dim: int, size: int) -> float:
    """FLOPs of the loss over a queue of `size`: two products with it for each distribution (`readout.py`).

    By hand, since XLA counts the body of a loop once.
    """
    return (1 if isinstance(method, MoCo) else 2) * 2 * 2 * batch * dim * size


def flops(function, *arguments) -> float:
    """As `plan.flops`, also inside a mesh of other devices."""
    with jax.set_mesh(parallel.make_mesh(jax.devices("cpu")[:1])):
        return plan.flops(function, *arguments)


def program_bytes(program: jax.stages.Compiled) -> int:
    """Bytes that a program needs on a device: arguments, results that replace none of them, temporaries."""
    m = program.memory_analysis()
    return m.argument_size_in_bytes + m.output_size_in_bytes - m.alias_size_in_bytes + m.temp_size_in_bytes


def _part(name, flops, function, *arguments) -> Part:
    program, seconds = _compile(jax.jit(function), *arguments)
    return Part(name, lambda: program(*arguments), program, flops, seconds)


def _compile(jitted, *arguments):
    began = time.perf_counter()
    program = jitted.lower(*arguments).compile()
    return program, time.perf_counter() - began
