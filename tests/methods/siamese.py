"""A network of one matrix product under real heads, filled by formula: what released codes were run on."""

import jax
import jax.numpy as jnp
import numpy as np
from fake import given

from seed_jax.methods.base import Batch, Clock, Nets

B, F = 6, 7  # images of 12 numbers, width of `pooled`


def wave(rows, columns, phase):
    return 3 * np.sin(1.7 * np.arange(rows * columns) ** 1.3 + phase).reshape(rows, columns)


class Pooled:
    """`pooled` is the pixels times `w`; no statistics."""

    def init(self, rng, sample):
        return {"params": {"w": jnp.zeros((12, F))}}

    def apply(self, variables, x, train, keys=None):
        return {"pooled": x.reshape(len(x), -1) @ variables["params"]["w"]}, {}


def pixels(n, view):
    return jnp.asarray(wave(B, 12, 0.1 + n + 0.37 * view).reshape(B, 1, 2, 2, 3), jnp.float32)


def train(method, steps, rate, views, change=lambda params: None):
    """Losses of some steps of plain gradient descent, the last parameters, model state and aux."""
    network = method.network(Pooled(), given(B))
    variables = network.init(jax.random.key(0), jnp.zeros((2, 2, 2, 3)))
    params, state = variables["params"], {"batch_stats": variables["batch_stats"]}
    params["backbone"]["w"] = jnp.asarray(0.3 * wave(12, F, 0.0), jnp.float32)
    linears = [(part, layer) for part in ("head", "predictor") for layer in sorted(params[part])]
    linears = [place for place in linears if place[1].startswith("linear")]
    for number, (part, layer) in enumerate(linears, start=1):
        leaves = params[part][layer]
        leaves["kernel"] = jnp.asarray(0.3 * wave(*leaves["kernel"].shape, 0.1 * number), jnp.float32)
    change(params)
    aux, losses = method.init_aux(jax.random.key(0), given(B), {"params": params, **state}), []

    @jax.jit
    def step(params, state, aux, views, n):
        seen = Batch(views, jnp.zeros(B, jnp.int32), jax.random.split(jax.random.key(0), B))

        def loss(params):
            clock = Clock(n, steps, steps)
            return method.loss(Nets(network, None), params, state, aux, seen, clock, jax.random.key(0))

        (value, out), grads = jax.value_and_grad(loss, has_aux=True)(params)
        moved = jax.tree_util.tree_map_with_path(
            lambda path, p, g: p if method.frozen(tuple(k.key for k in path)) else p - rate * g, params, grads
        )
        return moved, out, value

    for n in range(steps):
        params, out, value = step(params, state, aux, views(n), jnp.int32(n))
        state, aux = out.model_state, out.aux
        losses.append(float(value))
    return losses, params, out
