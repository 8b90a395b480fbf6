"""What a run will need, before it is started: `main.py --config=… --plan`.

Nothing is computed or compiled and no accelerator is touched: shapes come from `jax.eval_shape`, FLOPs from
XLA's analysis of the lowered, uncompiled program.
"""

import dataclasses
from pathlib import Path

import jax
import jax.numpy as jnp

from seed_jax import config as config_lib
from seed_jax import parallel
from seed_jax.config import Config
from seed_jax.data.sources import open_source
from seed_jax.errors import UserError
from seed_jax.methods.base import Batch, Given, Offline
from seed_jax.methods.queue import Queue
from seed_jax.models.network import Network
from seed_jax.report.plan import Memory, Plan, text
from seed_jax.train import build, inputs, teacher
from seed_jax.train.step import objective

ASSUMED_CLASSES = 1000


def run(
    raw, *, devices: int, images: int | None, images_per_second: float | None, tflops: float | None
) -> None:
    """Print the plan of a config. Raise `UserError` for every mistake that would also stop the run."""
    jax.config.update("jax_platforms", "cpu")
    made = make(config_lib.resolve(raw), devices=devices, images=images)
    print(text(made, images_per_second=images_per_second, tflops=tflops))


def make(c: Config, *, devices: int, images: int | None = None) -> Plan:
    """The plan of a run on that number of devices.

    Args:
      images: size of the training data; None to ask the source.

    Raises:
      UserError: the devices do not divide the batch, or the number of images is not known.
    """
    batch_size, notes = c.data.batch_size, []
    images, classes = _data(c, images, notes)
    build.check_batches(c, devices, images)
    length = build.lengths(c, images)
    loaded = _teacher(c, notes)
    given = build.make_given(c, length, classes, loaded)
    offline = c.method.offline(images)
    mesh = parallel.make_mesh(jax.devices()[:1])
    training = build.assemble(c, mesh, given, loaded and loaded.network)
    shapes, variables = training.abstract, loaded.variables if loaded else {}
    teacher_flops, all_flops, asked, kept, pixels = _one_step(c, training, given, loaded, offline)
    offline_flops = images * _forward_flops(loaded, batch_size, c.data.image_size) if offline else 0.0
    queues = [x for x in jax.tree.leaves(shapes.aux, is_leaf=_is_queue) if _is_queue(x)]
    copies = jax.tree.map(lambda x: None if _is_queue(x) else x, shapes.aux, is_leaf=_is_queue)
    gathers = c.train.shard_params and devices > 1
    if gathers:
        notes.append(
            "train.shard_params: gradients and what is gathered are counted in full, as if all layers were "
            "there at once; XLA may gather and scatter them one after the other, and then needs less."
        )

    def replicated(name, tree):
        return Memory(name, devices * _bytes(tree), _bytes(tree), "on every device")

    def held(name, tree):
        if not c.train.shard_params:
            return replicated(name, tree)
        each = sum(_share(x, devices) for x in jax.tree.leaves(tree))
        return Memory(name, devices * each, each, "a share on each")

    def sharded(name, total):
        return Memory(name, total, -(-total // devices), "a share on each")

    rows = (
        held("student: parameters", shapes.params),
        replicated("student: gradients", shapes.params),
        held("student: running statistics", shapes.model_state),
        held(f"optimizer ({c.optim.name})", shapes.opt_state),
        held("teacher: variables", variables),
        replicated("gathered: student and teacher", (shapes.params, variables) if gathers else ()),
        held("moving averages", (copies, shapes.ema)),
        sharded(f"queues ({len(queues)})", _bytes(queues)),
        sharded("views, uint8 and float32", 5 * pixels),
        sharded("activations kept for the backward pass", kept),
    )
    return Plan(
        images=images,
        batch_size=batch_size,
        devices=devices,
        steps_per_epoch=length.epoch,
        steps=length.total,
        student_parameters=_count(shapes.params),
        teacher_parameters=_count(_fresh(loaded.network, c.data.image_size)["params"]) if loaded else 0,
        teacher_flops=teacher_flops / batch_size,
        student_flops=(all_flops - teacher_flops) / batch_size,
        teacher_images=asked / batch_size,
        offline_images=images if offline else 0,
        offline_flops=offline_flops,
        memory=tuple(row for row in rows if row.total),
        notes=tuple(notes),
    )


def _data(c: Config, images: int | None, notes: list) -> tuple[int, int]:
    """Images and classes of the training data."""
    try:
        d = inputs.settled(c)
        source = open_source(d.source, d.train, dir=d.dir or None, subset=d.subset, seed=c.train.seed)
    except UserError as error:
        if images is None:
            raise UserError(
                f"{error} To plan without the data, pass the number of images with --images=N."
            ) from None
        notes.append(f"The data is not here: {images} images, as --images says.")
        return images, ASSUMED_CLASSES
    return len(source) if images is None else images, source.num_classes


def _teacher(c: Config, notes: list) -> teacher.Loaded | None:
    """The teacher; shapes stand for its variables."""
    if not c.method.needs_teacher:
        return None
    t, size = c.teacher, c.data.image_size
    here = Path(t.weights).exists() or t.weights.startswith("pip:")
    if t.weights not in ("", "random") and here:
        loaded = teacher.load(t, image_size=size, seed=0, precision=c.train.precision)
        return dataclasses.replace(loaded, variables=jax.eval_shape(lambda: loaded.variables))
    if not t.model:
        raise UserError(
            f"teacher.weights: there is no {t.weights} here: fetch it, or name the architecture by "
            "--config.teacher.model."
        )
    network = teacher.undrawn(t, c.train.precision)
    if t.weights != "random":
        notes.append(
            f"teacher.weights is not here: assumed to be {t.model} with a head of two layers to {t.dim}."
        )
    return teacher.prepare(teacher.Loaded(network, _fresh(network, size), {}), size)


def _fresh(network: Network, size: int):
    """Shapes of the variables of a network, not folded."""
    sample = jax.ShapeDtypeStruct((2, size, size, 3), jnp.float32)
    return jax.eval_shape(network.init, jax.random.key(0), sample)


def _forward_flops(loaded: teacher.Loaded, batch_size: int, size: int) -> float:
    """FLOPs of the teacher's forward, per image."""
    x = jax.ShapeDtypeStruct((batch_size, size, size, 3), jnp.float32)
    return flops(lambda v, x: loaded.network.apply(v, x, False)[0], loaded.variables, x) / batch_size


def _one_step(
    c: Config,
    training: build.Training,
    given: Given,
    loaded: teacher.Loaded | None,
    offline: Offline | None,
):
    """FLOPs of the teacher and of all for one batch, images that the teacher sees for it, bytes kept for the
    backward pass and pixels of one micro-batch.
    """
    count = c.train.accumulate
    size, shapes, questions = given.batch_size // count, training.abstract, []
    variables = loaded.variables if loaded else {}

    def features(variables, x):
        return loaded.network.apply(variables, x, False)[0]

    def loss(params, model_state, aux, variables, seen, step):
        def ask(x, views=None):
            questions.append(jax.ShapeDtypeStruct(x.shape, x.dtype))
            return features(jax.lax.stop_gradient(variables), x)

        loss_of = objective(c.method, training.student, ask if loaded else None, given, c.train.seed)
        return loss_of(params, model_state, aux, seen, step)

    def kept(*arguments):
        backward = jax.vjp(lambda params: loss(params, *arguments[1:]), arguments[0], has_aux=True)[1]
        passed = {id(leaf) for leaf in jax.tree.leaves(arguments)}
        return [x for x in jax.tree.leaves(backward) if id(x) not in passed]

    def each(*shape, dtype=jnp.float32):
        return tuple(
            jax.ShapeDtypeStruct((size, spec.count, *(n or spec.size for n in shape)), dtype)
            for spec in training.views
        )

    seen = Batch(
        views=each(0, 0, 3),
        label=jax.ShapeDtypeStruct((size,), jnp.int32),
        keys=jax.eval_shape(lambda: jax.random.split(jax.random.key(0), size)),
        targets={
            name: jax.ShapeDtypeStruct((size, *row.shape), row.dtype)
            for name, row in (offline.rows if offline else {}).items()
        },
        crops=each(4),
        flipped=each(dtype=jnp.bool_),
    )
    step = jax.ShapeDtypeStruct((), jnp.int32)
    arguments = (shapes.params, shapes.model_state, shapes.aux, variables, seen, step)
    residuals = jax.eval_shape(kept, *arguments)
    questions.clear()
    everything = flops(jax.grad(loss, has_aux=True), *arguments)
    of_teacher = sum(flops(features, variables, x) for x in questions)
    pixels = sum(x.size for x in seen.views)
    asked = count * sum(x.shape[0] for x in questions)
    return count * of_teacher, count * everything, asked, _bytes(residuals), pixels


def flops(function, *arguments) -> float:
    """FLOPs of a program as written, in XLA's count: two for a multiplication and an addition.

    The program is lowered for a CPU, on every machine: accelerators count compiled programs alone, where a
    convolution may be a call of a library, which counts as nothing.

    Args:
      arguments: arrays or shapes.

    Raises:
      UserError: JAX_PLATFORMS leaves out the CPU.
    """
    try:
        (cpu, *_) = jax.local_devices(backend="cpu")
    except RuntimeError:
        raise UserError(
            f"FLOPs are counted on the CPU, and JAX_PLATFORMS={jax.config.jax_platforms} leaves it out: use "
            f"JAX_PLATFORMS={jax.config.jax_platforms},cpu."
        ) from None
    shapes = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype), arguments)
    with jax.default_device(cpu):
        return jax.jit(function).lower(*shapes).cost_analysis()["flops"]


def _is_queue(x) -> bool:
    return isinstance(x, Queue)


def _count(tree) -> int:
    return sum(x.size for x in jax.tree.leaves(tree))


def _share(x, devices: int) -> int:
    """Bytes of one array on each device if the trainer divides it."""
    return _bytes(x) // (1 if parallel.divided_axis(x.shape, devices) is None else devices)


def _bytes(tree) -> int:
    return sum(x.size * x.dtype.itemsize for x in jax.tree.leaves(tree))
