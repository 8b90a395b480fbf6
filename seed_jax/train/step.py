"""The one train step: pixels to views, the method's loss, its gradient, the update."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import optax
from jax.sharding import PartitionSpec as P

from seed_jax import parallel, rng
from seed_jax.data import photometric
from seed_jax.methods.base import Batch, Clock, Given, LossOut, Method, Nets
from seed_jax.models.network import Network
from seed_jax.train.state import TrainState
from seed_jax.train.teacher import Frozen


def make_step(
    method: Method,
    student: Network,
    teacher: Network | None,
    tx: optax.GradientTransformation,
    rate: Callable,
    given: Given,
    views: tuple,
    *,
    seed: int,
    accumulate: int = 1,
    ema: float = 0.0,
):
    """The pure step `(state, teacher_variables, batch) -> (state, metrics)`.

    Args:
      rate: the learning rate by step, for the metrics; `tx` has its own.
      views: the ViewSpecs of the batch.
      accumulate: micro-batches per step, computed one after the other; their gradients are averaged.
      ema: decay of the moving average of parameters and model state; 0 for none.

    `batch` is what `data.pipeline.train_batches` yields, on the devices. `teacher_variables` is never part of
    the state: it is not donated, not updated and not saved, and no gradient reaches it. Metrics are scalars:
    the loss, the method's metrics averaged over the batch, `lr`, `grad_norm`, `param_norm`, `bad_images`.
    """

    def step(state: TrainState, teacher_variables, batch):
        seen = _seen(batch, views, seed)
        clock = Clock(state.step, given.steps, given.steps_per_epoch)
        nets = Nets(student, None if teacher is None else Frozen(teacher, teacher_variables))

        def objective(params, seen):
            params = _stop_frozen(method, params)
            key = jax.random.fold_in(rng.stream(seed, "step"), state.step)
            with jax.named_scope("loss"):
                return method.loss(nets, params, state.model_state, state.aux, seen, clock, key)

        gradient = jax.value_and_grad(objective, has_aux=True)
        start = method.project(state.params, clock)
        (loss, out), grads = _accumulated(gradient, accumulate, start, seen)
        with jax.named_scope("update"):
            updates, opt_state = tx.update(grads, state.opt_state, start)
            params = optax.apply_updates(start, updates)
        metrics = {
            **{name: jnp.mean(value) for name, value in out.metrics.items()},
            "loss": loss,
            "lr": rate(state.step),
            "grad_norm": optax.tree.norm(grads),
            "param_norm": optax.tree.norm(params),
            "bad_images": jnp.sum(batch["bad"] >= 0),
        }
        average = state.ema
        if ema:
            average = optax.incremental_update({"params": params, **out.model_state}, average, 1 - ema)
        state = TrainState(state.step + 1, params, out.model_state, opt_state, out.aux, average)
        return state, metrics

    return step


def _seen(batch, views, seed) -> Batch:
    """The batch as the loss sees it: flips and photometrics happen here."""
    keys = rng.sample_keys(rng.stream(seed, "sample"), batch["id"], batch["pass_"])
    pixels, flipped, count = [], [], 0
    with jax.named_scope("views"):
        for spec, images in zip(views, batch["views"], strict=True):
            x, flips = photometric.augment(spec.photometric, images, rng.fold(keys, 0), spec.flip, count)
            pixels.append(x)
            flipped.append(flips)
            count += spec.count
    return Batch(
        views=tuple(pixels),
        label=batch["label"],
        keys=rng.fold(keys, 1),
        targets=batch["targets"],
        crops=batch["crops"],
        flipped=tuple(flipped),
    )


def _stop_frozen(method, params):
    def stop(path, parameter):
        frozen = method.frozen(tuple(k.key for k in path))
        return jax.lax.stop_gradient(parameter) if frozen else parameter

    return jax.tree_util.tree_map_with_path(stop, params)


def _accumulated(gradient, count: int, params, seen: Batch):
    """`gradient(params, seen)`, averaged over `count` micro-batches of consecutive samples.

    All of them start from the same model state. Running statistics are linear in those of the batch, so their
    average is that of the whole batch if `bn_group` divides the micro-batch. `aux` does not depend on the
    batch (`Method.whole_batch`): the last one is taken.
    """
    if count == 1:
        return gradient(params, seen)

    def split(x):
        x = x.reshape(count, -1, *x.shape[1:])
        if jax.sharding.get_abstract_mesh().empty:
            return x
        return jax.lax.with_sharding_constraint(x, P(None, parallel.DATA_AXIS))

    def of_one(micro_batch):
        (loss, out), grads = gradient(params, micro_batch)
        return (loss, out.model_state, jax.tree.map(jnp.mean, out.metrics), grads), out.aux

    def add(carry, micro_batch):
        terms, aux = of_one(micro_batch)
        return (jax.tree.map(jnp.add, carry[0], terms), aux), None

    micro_batches = jax.tree.map(split, seen)
    empty = jax.eval_shape(of_one, jax.tree.map(lambda x: x[0], micro_batches))
    empty = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), empty)
    (terms, aux), _ = jax.lax.scan(add, empty, micro_batches)
    loss, model_state, metrics, grads = jax.tree.map(lambda x: x / count, terms)
    return (loss, LossOut(model_state, aux, metrics)), grads
