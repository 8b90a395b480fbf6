"""Augmentations of a batch by name: what a distilled student may see besides the images themselves.

The names are those of "What Makes a Good Data Augmentation in Knowledge Distillation" (Wang et al., NeurIPS
2022, arXiv 2012.02909) and of MingSun-Tse/Good-DA-in-KD, helper/loops.py. CutMixPick asks the teacher, so
that `mixing.pick` and the caller do the second half of it.
"""

import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp

from seed_jax.data import image_ops, mixing, policies, rng
from seed_jax.errors import unknown

TORCHVISION_0_10 = policies.Rules(torchvision_0_10=True, truncate=True)


def augment(name: str, images, key, keys=None, *, fill=0.0, released: bool = False):
    """The augmentation `name` of AUGMENTATIONS, drawn anew.

    Args:
      images: float32 `[B, H, W, 3]` in [0, 1], after the usual crop and flip.
      key: typed key of the step `[]`.
      keys: typed keys of the samples `[B]` for one draw an image; None for one draw for the batch, as in the
        released code.
      fill: colour of erased pixels, and of what 'timm_rand_augment' moves in, a number or `[3]`: the mean of
        the normalisation, where normalised images are to be 0.
      released: cut the results of flips, crops and policies to whole levels and use torchvision 0.10's
        rules for policies, as the released code does.

    Returns:
      float32 `[B, H, W, 3]`.

    Raises:
      UserError: unknown name; a batch of one image where images are mixed; images that are not RGB.
    """
    if name not in AUGMENTATIONS:
        raise unknown("augmentation", name, AUGMENTATIONS)
    return AUGMENTATIONS[name](images, key, keys, fill, released)


def of_views(spec, x, keys, mean, std, first_view: int = 0):
    """Apply a ViewSpec's policy to its views, then erase; each view has its own draws.

    As timm's training transform (timm/data/transforms_factory.py): erased pixels are noise of the
    normalisation's mean and std, and may leave [0, 1].

    Args:
      spec: a `ViewSpec`; `policy` and `erase` are read.
      x: float32 `[B, V, H, W, 3]` in [0, 1], after flip and photometrics.
      keys: typed keys of the samples `[B]`; view `v` uses them folded by `first_view + v`.
      mean, std: `[3]`, of the network that is trained.
      first_view: index of the first view, where a sample has views in several arrays.
    """

    def one(view):
        drawn, images = rng.fold(keys, first_view + view), x[:, view]
        if spec.policy:
            images = augment(spec.policy, images, None, rng.fold(drawn, 0), fill=jnp.asarray(mean))
        if not spec.erase:
            return images
        return mixing.random_erase(
            images,
            rng.fold(drawn, 1),
            fill=mean,
            noise=std,
            probability=spec.erase,
            area=(0.02, 1 / 3),
            aspect=(0.3, 1 / 0.3),
        )

    return jnp.stack([one(view) for view in range(x.shape[1])], axis=1)


def _identity(images, key, keys, fill, released):
    return images


def _flip(images, key, keys, fill, released):
    drawn = rng.one_or_each(key if keys is None else keys, len(images))
    mirrored = jax.vmap(jax.random.bernoulli)(drawn).reshape(-1, 1, 1, 1)
    return _levels(jnp.where(mirrored, images[:, :, ::-1], images), released)


def _crop_flip(images, key, keys, fill, released):
    """Moved by up to an eighth of the height, with black where nothing was, then perhaps mirrored."""
    pad, (height, width) = images.shape[1] // 8, images.shape[1:3]
    drawn = rng.one_or_each(key if keys is None else keys, len(images))
    places = jax.vmap(lambda k: jax.random.randint(jax.random.fold_in(k, 1), (2,), 0, 2 * pad + 1))(drawn)
    padded = jnp.pad(images, ((0, 0), (pad, pad), (pad, pad), (0, 0)))

    def crop(image, place):
        return jax.lax.dynamic_slice(image, (*place, 0), (height, width, image.shape[-1]))

    places = jnp.broadcast_to(places, (len(images), 2))
    return _flip(jax.vmap(crop)(padded, places), key, keys, fill, released)


def _cutout(images, key, keys, fill, released):
    return mixing.cutout(images, key if keys is None else keys, fill=fill)


def _random_erase(images, key, keys, fill, released):
    return mixing.random_erase(images, key if keys is None else keys, fill=fill)


def _mixup(images, key, keys, fill, released):
    return mixing.mixup(images, key, keys).images


def _cutmix(images, key, keys, fill, released):
    return mixing.cutmix(images, key, keys).images


def _policy(apply: Callable, images, key, keys, fill, released):
    rules = TORCHVISION_0_10 if released else policies.Rules()
    return apply(images, key if keys is None else keys, rules=rules)


def _timm_rand_augment(images, key, keys, fill, released):
    return policies.timm_rand_augment(images, key if keys is None else keys, fill=fill)


def _levels(images, released):
    return image_ops.truncate(images) if released else images


AUGMENTATIONS = {
    "identity": _identity,
    "flip": _flip,
    "crop_flip": _crop_flip,
    "cutout": _cutout,
    "random_erase": _random_erase,
    "autoaugment_cifar10": functools.partial(
        _policy, functools.partial(policies.auto_augment, policy="cifar10")
    ),
    "autoaugment_imagenet": functools.partial(
        _policy, functools.partial(policies.auto_augment, policy="imagenet")
    ),
    "rand_augment": functools.partial(_policy, policies.rand_augment),
    "trivial_augment": functools.partial(_policy, policies.trivial_augment),
    "timm_rand_augment": _timm_rand_augment,
    "mixup": _mixup,
    "cutmix": _cutmix,
}

# Those that change each image by itself, as `data.policy` may.
POLICIES = (
    *("autoaugment_cifar10", "autoaugment_imagenet", "rand_augment", "trivial_augment"),
    "timm_rand_augment",
)
