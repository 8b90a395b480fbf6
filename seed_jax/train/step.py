"""The one train step: pixels to views, the method's loss, its gradient, the update."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import optax
from jax.sharding import PartitionSpec as P

from seed_jax import parallel
from seed_jax.data import augmentations, photometric, rng
from seed_jax.methods.base import Batch, Clock, Given, LossOut, Method, Nets, Teacher
from seed_jax.models.network import Network
from seed_jax.train.state import TrainState
from seed_jax.train.teacher import Frozen

OWN_METRICS = {"loss", "lr", "grad_norm", "param_norm", "bad_images"}


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
    """Return the pure step `(state, teacher_variables, batch) -> (state, metrics)`.

    `batch` is what `data.pipeline.train_batches` yields, on the devices. `teacher_variables` is never part of
    the state: it is not donated, not updated and not saved, and no gradient reaches it. Metrics are scalars:
    those of the method, averaged over the batch, and `OWN_METRICS`.

    Args:
      rate: the learning rate by step, for the metrics; `tx` has its own.
      views: the ViewSpecs of the batch.
      accumulate: micro-batches per step, computed one after the other; their gradients are averaged.
      ema: decay of the moving average of parameters and model state; 0 for none.

    Raises:
      ValueError: a metric of the method has the name of one of `OWN_METRICS`.
    """

    def step(state: TrainState, teacher_variables, batch):
        frozen_teacher = None if teacher is None else Frozen(teacher, teacher_variables)
        loss_of = objective(method, student, frozen_teacher, given, seed)
        projected = method.project(state.params, _clock(state.step, given))

        def gradient(batch, number):
            seen = _seen(batch, views, seed, student)
            loss = jax.value_and_grad(loss_of, has_aux=True)
            (value, out), grads = loss(projected, state.model_state, state.aux, seen, state.step, number)
            return (value, out.model_state, jax.tree.map(jnp.mean, out.metrics), grads), out.aux

        (loss, model_state, of_method, grads), aux = _accumulated(gradient, accumulate, batch)
        with jax.named_scope("update"):
            updates, opt_state = tx.update(grads, state.opt_state, projected)
            params = optax.apply_updates(projected, updates)
        if taken := OWN_METRICS & of_method.keys():
            raise ValueError(f"The metrics {sorted(taken)} are the step's own: rename those of the method.")
        metrics = {
            **of_method,
            "loss": loss,
            "lr": rate(state.step),
            "grad_norm": optax.tree.norm(grads),
            "param_norm": optax.tree.norm(params),
            "bad_images": jnp.sum(batch["bad"] >= 0),
        }
        average = state.ema
        if ema:
            average = optax.incremental_update({"params": params, **model_state}, average, 1 - ema)
        return TrainState(state.step + 1, params, model_state, opt_state, aux, average), metrics

    return step


def make_gradient(
    method: Method, student: Network, teacher: Network | None, given: Given, views, *, seed: int
):
    """Return the pure `(state, teacher_variables, batch) -> gradients` of the loss, those of a step.

    Arguments are those of `make_step`; the batch is computed at once.
    """

    def gradient(state: TrainState, teacher_variables, batch):
        frozen_teacher = None if teacher is None else Frozen(teacher, teacher_variables)
        loss_of = objective(method, student, frozen_teacher, given, seed)
        projected = method.project(state.params, _clock(state.step, given))
        seen = _seen(batch, views, seed, student)
        grads, _ = jax.grad(loss_of, has_aux=True)(projected, state.model_state, state.aux, seen, state.step)
        return grads

    return gradient


def objective(method: Method, student: Network, teacher: Teacher | None, given: Given, seed: int):
    """Return the loss of a batch, to differentiate by its first argument.

    The loss gets the step's PRNG key; with micro-batches, that key folded by the micro-batch's index.
    """

    def loss_of(params, model_state, aux, seen: Batch, step, micro_batch=None) -> tuple[jax.Array, LossOut]:
        key = jax.random.fold_in(rng.stream(seed, "step"), step)
        key = key if micro_batch is None else jax.random.fold_in(key, micro_batch)
        nets = Nets(student, teacher, given.teacher_prefix)
        with jax.named_scope("loss"):
            return method.loss(
                nets, _stop_frozen(method, params), model_state, aux, seen, _clock(step, given), key
            )

    return loss_of


def _clock(step, given: Given) -> Clock:
    return Clock(step, given.steps, given.steps_per_epoch)


def _seen(batch, views, seed, student) -> Batch:
    """The batch as the loss sees it: flips, photometrics, policies and erasing happen here."""
    keys = rng.sample_keys(rng.stream(seed, "sample"), batch["id"], batch["pass_"])
    pixels, flipped, count = [], [], 0
    with jax.named_scope("views"):
        for spec, images in zip(views, batch["views"], strict=True):
            x, flips = photometric.augment(spec.photometric, images, rng.fold(keys, 0), spec.flip, count)
            if spec.policy or spec.erase:
                x = augmentations.of_views(spec, x, rng.fold(keys, 2), student.mean, student.std, count)
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


def _accumulated(gradient, count: int, batch):
    """`gradient(batch, None) -> (terms, aux)`; or the mean of its terms over `count` micro-batches.

    Micro-batches are consecutive samples, and all start from the same model state. Running statistics are
    linear in those of the batch, so their mean is that of the whole batch if `bn_group` divides the
    micro-batch. A method with `aux` has no micro-batches (`build.py`).
    """
    if count == 1:
        return gradient(batch, None)

    def split(x):
        x = x.reshape(count, -1, *x.shape[1:])
        if jax.sharding.get_abstract_mesh().empty:
            return x
        return jax.lax.with_sharding_constraint(x, P(None, parallel.DATA_AXIS))

    def add(total, numbered):
        terms, _ = gradient(*numbered)
        return jax.tree.map(jnp.add, total, terms), None

    numbered = jax.tree.map(split, batch), jnp.arange(count)
    shapes, aux = jax.eval_shape(gradient, *jax.tree.map(lambda x: x[0], numbered))
    zeros = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), shapes)
    total, _ = jax.lax.scan(add, zeros, numbered)
    return jax.tree.map(lambda x: x / count, total), aux
