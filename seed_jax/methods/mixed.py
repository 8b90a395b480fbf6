"""Mixup and CutMix of labelled images, for any method that has a loss of a label."""

import functools
from collections.abc import Callable

import jax

from seed_jax.data import mixing
from seed_jax.errors import UserError, unknown


def _either(images, key):
    """Mixup (alpha 0.8) of the whole batch, or CutMix (alpha 1), with probability 1/2 each."""
    for_choice, for_images = jax.random.split(key)
    return jax.lax.cond(
        jax.random.bernoulli(for_choice),
        functools.partial(mixing.mixup, alpha=0.8),
        functools.partial(mixing.cutmix, alpha=1.0),
        images,
        for_images,
    )


# How images are mixed. The alpha of 'mixup' and 'cutmix' is FRSKD's (MingiJi/FRSKD, README). 'either' is what
# fine-tuning recipes have: timm's Mixup in batch mode with mixup 0.8, cutmix 1, prob 1 and switch_prob 0.5,
# which takes the reversed batch for the partners where we permute it.
MIXES = {
    "mixup": functools.partial(mixing.mixup, alpha=0.2),
    "cutmix": functools.partial(mixing.cutmix, alpha=1.0),
    "either": _either,
}

OfLabels = Callable[[Callable[[jax.Array], jax.Array]], jax.Array]


def check(kind: str, data) -> None:
    """Raise `UserError` if images cannot be mixed in this way; `kind` is `method.mix`, '' for not at all."""
    if kind not in ("", *MIXES):
        raise unknown("method.mix", kind, MIXES)
    if kind and data.batch_size < 2:
        raise UserError(
            f"method.mix is '{kind}', which needs two images, and data.batch_size is {data.batch_size}: use "
            "--config.data.batch_size=2 or more."
        )


def reason(kind: str) -> str:
    """What `Method.whole_batch` says of it."""
    return "method.mix mixes samples" if kind else ""


def mix(kind: str, images, label, key) -> tuple[jax.Array, OfLabels]:
    """Mix images, and find the mean of a loss over the labels that a mixed image has.

    Partner, share and box are drawn as in `data/mixing.py`, one share or box for the batch, as in the
    released code of FRSKD. There an image may be its own partner also in CutMix.

    Args:
      kind: a key of `MIXES`, or '' for the images as they are.
      images: float32 `[B, H, W, 3]` in [0, 1].
      label: int32 `[B]`.
      key: typed key `[]` of the step.

    Returns:
      The images to train on, and a function: for `of`, from labels `[B]` to values `[B]`, it returns
      w `of(label)` + (1 - w) `of(label[partner])`, where w is the share of the image itself.
    """
    if not kind or len(images) == 1:  # a last batch of one image (data.last='keep') has nothing to mix
        return images, lambda of: of(label)
    mixed = MIXES[kind](images, key)
    weight, other = mixed.weight, label[mixed.partner]
    return mixed.images, lambda of: weight * of(label) + (1 - weight) * of(other)
