"""The learning-rate schedule and the optimizer, from the config's `optim` section."""

import functools
import math
from collections.abc import Callable, Collection
from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax

from seed_jax.config import Optim
from seed_jax.errors import UserError


def schedule(o: Optim, *, batch_size: int, steps: int, steps_per_epoch: int) -> Callable:
    """Return `rate(step)`, the learning rate of a step.

    `rate` takes an integer or an integer array (steps, counted from 0), traced or not, and returns float32 of
    the same shape. After the last step, 'cosine' and 'poly' stay at `optim.lr_min`.

    'steps' and 'poly' are torch's MultiStepLR and PolynomialLR. 'cosine' with `optim.decay_from='warmup'` is
    timm's CosineLRScheduler with `warmup_prefix=True` and `t_initial` the number of steps after warm-up
    (SwinTransformer/Feature-Distillation, lr_scheduler.py; that code uses at step t + 1 our rate of step t).

    Args:
      o: the `optim` section.
      batch_size: images per step, over all devices; scales `optim.lr` and `optim.lr_min`.
      steps: length of the run.
      steps_per_epoch: of the training data; the unit of warm-up, of milestones in epochs and of
        `optim.update='epoch'`.
    """
    peak, floor = (lr * batch_size / o.lr_batch if o.lr_batch else lr for lr in (o.lr, o.lr_min))
    warmup = o.warmup_epochs * steps_per_epoch
    warmup_start = 0.0 if o.warmup_from == "zero" else o.lr
    decay_start = warmup if o.decay_from == "warmup" else 0
    decay_steps = max(steps - decay_start, 1)
    milestones = milestone_steps(o, steps, steps_per_epoch)

    def rate(step):
        step = jnp.asarray(step, jnp.int32)
        if o.update == "epoch":
            step = step // steps_per_epoch * steps_per_epoch
        share = jnp.clip((step - decay_start) / decay_steps, 0.0, 1.0)
        if o.schedule == "cosine":
            value = floor + (peak - floor) * 0.5 * (1 + jnp.cos(math.pi * share))
        elif o.schedule == "poly":
            value = floor + (peak - floor) * (1 - share) ** o.power
        elif o.schedule == "steps":
            passed = sum(((step >= m).astype(jnp.float32) for m in milestones), jnp.zeros_like(share))
            value = peak * o.factor**passed
        else:
            value = jnp.full_like(share, peak)
        if warmup:
            value = jnp.where(step < warmup, warmup_start + (peak - warmup_start) * step / warmup, value)
        return value

    return rate


def decay_schedule(o: Optim, steps: int) -> float | Callable:
    """Return the weight decay, or with `optim.weight_decay_end` a function of the step (int), float32.

    It moves from the one to the other along half a cosine (facebookresearch/dino, utils.py:
    cosine_scheduler).
    """
    first, last = o.weight_decay, o.weight_decay_end
    if not last:
        return first
    return lambda step: last + (first - last) * 0.5 * (1 + jnp.cos(math.pi * jnp.clip(step / steps, 0, 1)))


def milestone_steps(o: Optim, steps: int, steps_per_epoch: int) -> tuple[int, ...]:
    """Return the first step of the lower rate for each of `optim.milestones`, counted from 0.

    With `optim.update='epoch'` a milestone within an epoch takes effect at the start of the next epoch.
    """
    unit = steps if all(m < 1 for m in o.milestones) else steps_per_epoch
    first = (round(m * unit) for m in o.milestones)
    if o.update == "epoch":
        return tuple(-(-m // steps_per_epoch) * steps_per_epoch for m in first)
    return tuple(first)


def late_milestones(o: Optim, steps: int, steps_per_epoch: int) -> list[float]:
    """Those of `optim.milestones` that a run of that many steps never reaches."""
    first = milestone_steps(o, steps, steps_per_epoch) if o.schedule == "steps" else ()
    return [m for m, step in zip(o.milestones, first, strict=False) if step >= steps]


def optimizer(
    o: Optim,
    rate: Callable,
    frozen: Callable[[tuple[str, ...]], bool],
    *,
    layer: Callable[[tuple[str, ...]], int] | None = None,
    layers: int = 0,
    undecayed: Collection[str] = frozenset(),
    milestones: tuple[int, ...] = (),
    decay: float | Callable | None = None,
    late: Callable[[tuple[str, ...]], bool] | None = None,
    late_steps: int = 0,
) -> optax.GradientTransformation:
    """Return the gradient transformation for a tree of nested dicts of parameters.

    A path is the tuple of keys from the root of that tree to a parameter.

    SGD adds weight decay to the gradient before momentum and multiplies by the rate last, as PyTorch does.
    LARS multiplies by the rate before momentum (You et al. 2017), where MAE's code does it after. The trust
    ratio of LARS applies to parameters with more than one axis.

    Layer decay multiplies every update, weight decay included, by `layer_decay ** (layers - layer(path))`: at
    every step, as BEiT (run_class_finetuning.py) and MAE (util/lr_sched.py) do. Feature-Distillation
    (optimizer.py, lr_scheduler.py) scales the peak rate alone; its minimum, 1e-6 where the peak is 5e-3, and
    the start of its warm-up are the same for all layers. We do not offer that.

    `optim.parts_lr` multiplies the updates of all parameters outside 'backbone' in the same way.

    Args:
      o: the `optim` section.
      rate: the learning rate of a step, from `schedule`.
      frozen: whether the parameter at a path stays as it is; it gets neither updates nor optimizer slots.
      layer: the layer number of the parameter at a path, 0 to `layers`; None if the network has none. In a
        ViT: 0 for the patch embedding, tokens and position table, i + 1 for block i, depth + 1 for the rest.
      layers: the highest layer number, whose scale is 1; depth + 1 for a ViT.
      undecayed: keys of the parameters and modules that `optim.decay='kernels'` exempts from weight decay
        whatever their shape, such as 'pos_embed'.
      milestones: from `milestone_steps`; only read with `optim.restart_momentum`.
      decay: from `decay_schedule`; None for `optim.weight_decay`.
      late: whether the parameter at a path stays as it is, and its optimizer slots too, in the first
        `late_steps` steps.
      late_steps: 0 for none.

    Raises:
      UserError: `optim.layer_decay` is set and `layer` is None.
    """
    if o.layer_decay != 1 and layer is None:
        raise UserError(
            f"optim.layer_decay is {o.layer_decay}, but the network of student.model has no layer numbers: "
            "use --config.optim.layer_decay=1.0, or a model of seed_jax.models."
        )
    mask = None if o.decay == "all" else functools.partial(_kernels, undecayed=undecayed)
    decay = o.weight_decay if decay is None else decay
    main = _rule(o, rate, decay, mask, milestones)
    if late_steps:
        shifted = tuple(milestone - late_steps for milestone in milestones)
        after = _rule(o, _shifted(rate, late_steps), _shifted(decay, late_steps), mask, shifted)
        main = optax.partition(
            {"now": main, "late": _starting(after, late_steps)},
            lambda tree: _map(lambda path, _: "late" if late(path) else "now", tree),
        )
    if o.clip_norm:
        main = optax.chain(optax.clip_by_global_norm(o.clip_norm), main)
    if o.layer_decay != 1:
        main = optax.chain(main, _scaled(lambda path: o.layer_decay ** (layers - layer(path))))
    if o.parts_lr:
        main = optax.chain(main, _scaled(lambda path: 1.0 if path[0] == "backbone" else o.parts_lr / o.lr))
    return optax.partition(
        {"trained": main, "frozen": optax.set_to_zero()},
        lambda tree: _map(lambda path, _: "frozen" if frozen(path) else "trained", tree),
    )


def _rule(o: Optim, rate, decay, mask, milestones) -> optax.GradientTransformation:
    """The optimizer `optim.name` alone."""
    if o.name == "sgd":
        momentum = optax.trace(o.momentum, o.nesterov) if o.momentum else optax.identity()
        if o.restart_momentum:
            momentum = _restarted(momentum, milestones)
        # Nested as optax.sgd nests it: checkpoints store this structure.
        return optax.chain(
            optax.add_decayed_weights(decay, mask),
            optax.chain(momentum, optax.scale_by_learning_rate(rate)),
        )
    if o.name == "adamw":
        return optax.adamw(rate, weight_decay=decay, mask=mask)
    return optax.lars(
        rate,
        weight_decay=decay,
        weight_decay_mask=True if mask is None else mask,
        trust_ratio_mask=_kernels,
        momentum=o.momentum,
    )


def _shifted(value: float | Callable, steps: int):
    """A function of the step, read `steps` later; a number as it is."""
    return (lambda step: value(step + steps)) if callable(value) else value


def _map(function: Callable, tree):
    """`function(path, leaf)` of every leaf."""
    return jax.tree_util.tree_map_with_path(
        lambda path, leaf: function(tuple(k.key for k in path), leaf), tree
    )


def _kernels(tree, undecayed: Collection[str] = frozenset()):
    """Whether each parameter has more than one axis and no key of its path is in `undecayed`."""
    return _map(lambda path, leaf: leaf.ndim > 1 and not set(path) & set(undecayed), tree)


def _scaled(scale: Callable[[tuple[str, ...]], float]) -> optax.GradientTransformation:
    """Multiply each update by the scale of its path."""
    return optax.stateless(lambda updates, _: _map(lambda path, leaf: scale(path) * leaf, updates))


class CountedState(NamedTuple):
    """The number of updates so far, int32, and the state of the transformation within."""

    step: jax.Array
    inner: optax.OptState


def _restarted(inner: optax.GradientTransformation, milestones: tuple[int, ...]):
    """Set the state of `inner` to zero before the update of each step in `milestones`."""

    def init(params):
        return CountedState(jnp.zeros((), jnp.int32), inner.init(params))

    def update(updates, state, params=None):
        restart = jnp.isin(state.step, jnp.asarray(milestones, jnp.int32))
        kept = jax.tree.map(lambda x: jnp.where(restart, jnp.zeros_like(x), x), state.inner)
        updates, kept = inner.update(updates, kept, params)
        return updates, CountedState(state.step + 1, kept)

    return optax.GradientTransformation(init, update)


def _starting(inner: optax.GradientTransformation, first: int):
    """Before the step `first`: no updates, and the state of `inner` as it was."""

    def init(params):
        return CountedState(jnp.zeros((), jnp.int32), inner.init(params))

    def update(updates, state, params=None):
        started = state.step >= first
        updates, after = inner.update(updates, state.inner, params)
        updates = jax.tree.map(lambda x: jnp.where(started, x, jnp.zeros_like(x)), updates)
        kept = jax.tree.map(lambda new, old: jnp.where(started, new, old), after, state.inner)
        return updates, CountedState(state.step + 1, kept)

    return optax.GradientTransformation(init, update)
