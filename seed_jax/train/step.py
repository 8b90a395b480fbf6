"""The one train step: pixels to views, the method's loss, its gradient, the update."""

import jax
import jax.numpy as jnp
import optax

from seed_jax import rng
from seed_jax.data import photometric
from seed_jax.methods.base import Batch, Method, Nets
from seed_jax.models.network import Network
from seed_jax.train.state import TrainState


def make_step(method: Method, student: Network, teacher: Network | None, tx, rate, views, seed: int):
    """The pure step `(state, teacher_variables, batch) -> (state, metrics)`.

    `batch` is what `data.pipeline.train_batches` yields, on the devices. `teacher_variables` is never part
    of the state: it is not donated, not updated, not in a checkpoint, and nothing is differentiated with
    respect to it. Metrics are scalars.
    """

    def stop_if_frozen(path, parameter):
        frozen = method.frozen(tuple(k.key for k in path))
        return jax.lax.stop_gradient(parameter) if frozen else parameter

    def step(state: TrainState, teacher_variables, batch):
        keys = rng.sample_keys(rng.stream(seed, "sample"), batch["id"], batch["pass_"])
        pixels, count = [], 0
        for spec, images in zip(views, batch["views"], strict=True):
            x, _ = photometric.augment(spec.photometric, images, rng.fold(keys, 0), spec.flip, count)
            pixels.append(x)
            count += spec.count
        seen = Batch(tuple(pixels), batch["label"], rng.fold(keys, 1))

        def ask_teacher(x):
            return jax.lax.stop_gradient(teacher.apply(teacher_variables, x, False)[0])

        nets = Nets(student, ask_teacher if teacher is not None else None)

        def loss(params):
            params = jax.tree_util.tree_map_with_path(stop_if_frozen, params)
            key = jax.random.fold_in(rng.stream(seed, "step"), state.step)
            return method.loss(nets, params, state.model_state, state.aux, seen, key)

        (_, out), grads = jax.value_and_grad(loss, has_aux=True)(state.params)
        updates, opt_state = tx.update(grads, state.opt_state, state.params)
        params = optax.apply_updates(state.params, updates)
        metrics = {
            **{name: jnp.mean(value) for name, value in out.metrics.items()},
            "lr": rate(state.step),
            "grad_norm": optax.tree.norm(grads),
            "param_norm": optax.tree.norm(params),
            "bad_images": jnp.sum(batch["bad"] >= 0),
        }
        return TrainState(state.step + 1, params, out.model_state, opt_state, out.aux), metrics

    return step
