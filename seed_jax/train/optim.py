"""The learning-rate schedule and the optimizer, from the config's `optim` section."""

import math

import jax
import jax.numpy as jnp
import optax

from seed_jax.config import Optim


def schedule(o: Optim, *, batch_size: int, steps: int, steps_per_epoch: int):
    """The learning rate as a function of the step, linear scaling, warm-up and decay included."""
    peak = o.lr * batch_size / o.lr_batch if o.lr_batch else o.lr
    warmup = o.warmup_epochs * steps_per_epoch
    begin = 0.0 if o.warmup_from == "zero" else o.lr

    def rate(step):
        step = jnp.asarray(step, jnp.int32)
        if o.update == "epoch":
            step = step // steps_per_epoch * steps_per_epoch
        share = jnp.clip(step / steps, 0.0, 1.0)
        if o.schedule == "cosine":
            value = peak * 0.5 * (1 + jnp.cos(math.pi * share))
        elif o.schedule == "steps":
            passed = sum((step >= round(m * steps)).astype(jnp.float32) for m in o.milestones)
            value = peak * 0.1**passed
        else:
            value = jnp.full_like(share, peak)
        if warmup:
            value = jnp.where(step < warmup, begin + (peak - begin) * step / warmup, value)
        return value

    return rate


def optimizer(o: Optim, rate, params, frozen) -> optax.GradientTransformation:
    """The gradient transformation; parameters whose path `frozen` accepts get neither updates nor slots.

    SGD adds weight decay to the gradient before momentum and multiplies by the rate last, as PyTorch does.
    """

    def kernels(tree):
        return jax.tree.map(lambda p: p.ndim > 1, tree)

    mask = None if o.decay == "all" else kernels
    if o.name == "sgd":
        main = optax.chain(
            optax.add_decayed_weights(o.weight_decay, mask), optax.sgd(rate, o.momentum or None)
        )
    elif o.name == "adamw":
        main = optax.adamw(rate, weight_decay=o.weight_decay, mask=mask)
    else:
        main = optax.lars(
            rate,
            weight_decay=o.weight_decay,
            weight_decay_mask=True if mask is None else mask,
            trust_ratio_mask=kernels,
            momentum=o.momentum,
        )
    if o.clip_norm:
        main = optax.chain(optax.clip_by_global_norm(o.clip_norm), main)
    labels = jax.tree_util.tree_map_with_path(
        lambda path, _: "frozen" if frozen(tuple(k.key for k in path)) else "trained", params
    )
    return optax.partition({"trained": main, "frozen": optax.set_to_zero()}, labels)
