"""The seam between networks and everything that uses them: two functions, `init` and `apply`.

A network is any object with

    init(rng, sample) -> variables
    apply(variables, x, train, keys=None) -> (features, new_model_state)

`x` is float `[B, H, W, 3]` in [0, 1]; `variables` is `{'params': ..., 'batch_stats': ...}`; the model state
is everything in it but `params`. `features` is a plain dict: `stem, stage1 .. stage4` (NHWC, before pooling),
`pooled` float32 `[B, D]`, `logits` when there is a classifier, and whatever the parts of a `Joined` add.
`keys` are typed PRNG keys `[B]`, one a sample.
"""

import dataclasses
import zlib
from collections.abc import Mapping
from typing import Any, Protocol

import flax.linen as nn
import jax
import jax.numpy as jnp

from seed_jax import rng as rng_lib

Features = dict[str, jax.Array]
Variables = dict[str, Any]

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)


class Network(Protocol):
    """What trainers, methods and evaluators may ask of a network."""

    def init(self, rng: jax.Array, sample: jax.Array) -> Variables: ...

    def apply(
        self, variables: Variables, x: jax.Array, train: bool, keys: jax.Array | None = None
    ) -> tuple[Features, Variables]: ...


@dataclasses.dataclass(frozen=True)
class LinenNetwork:
    """A Linen module called `module(x, train, keys)`, with the normalisation it was trained with.

    `size`: images of another side are resized to it (bilinear, antialiased), so that a teacher and a student
    of different sizes see the same pixels; None takes images as they come. In eval mode the model state
    returned is the one passed.
    """

    module: nn.Module
    mean: tuple[float, ...] = IMAGENET_MEAN
    std: tuple[float, ...] = IMAGENET_STD
    size: int | None = None

    def init(self, rng, sample):
        return self.module.init(rng, self._preprocess(sample), train=False, keys=None)

    def apply(self, variables, x, train, keys=None):
        return _apply(self.module, variables, self._preprocess(x), train, keys)

    def _preprocess(self, x):
        if self.size and x.shape[1:3] != (self.size, self.size):
            x = jax.image.resize(x, (len(x), self.size, self.size, x.shape[3]), "linear")
        mean, std = (jnp.asarray(v, x.dtype).reshape(1, 1, 1, 3) for v in (self.mean, self.std))
        return (x - mean) / std


@dataclasses.dataclass(frozen=True, eq=False)
class Joined:
    """A network made of a backbone and named parts (head, projector, classifier, exits), applied in order.

    A part is a Linen module called `part(features, train, keys)` that returns the entries it adds to the
    features. Variables lie at `params['backbone']`, `params[name]`, `batch_stats['backbone']`,
    `batch_stats[name]`. The backbone is anything that obeys the seam. `backbone_train=False` keeps it in eval
    mode always (running statistics, no dropout), as a linear probe wants while its part trains.
    """

    backbone: Network
    parts: Mapping[str, nn.Module]
    backbone_train: bool = True

    def init(self, rng, sample):
        def key(name):
            return jax.random.fold_in(rng, zlib.crc32(name.encode()))

        trees = {"backbone": self.backbone.init(key("backbone"), sample)}
        if not self.parts:
            return _by_collection(trees)
        shapes, _ = jax.eval_shape(lambda v, x: self.backbone.apply(v, x, False), trees["backbone"], sample)
        features = jax.tree.map(lambda s: jnp.zeros(s.shape, s.dtype), shapes)
        for name, part in self.parts.items():
            new, trees[name] = part.init_with_output(key(name), features, train=False, keys=None)
            features = features | new
        return _by_collection(trees)

    def apply(self, variables, x, train, keys=None):
        features, state = self.backbone.apply(
            _of_part(variables, "backbone"), x, train and self.backbone_train, keys
        )
        states = {"backbone": state}
        for name, part in self.parts.items():
            part_keys = None if keys is None else rng_lib.fold(keys, zlib.crc32(name.encode()))
            new, states[name] = _apply(part, _of_part(variables, name), features, train, part_keys)
            features = features | new
        return features, _by_collection(states)


def for_views(network: Network, count: int) -> Network:
    """The same network for `[B * count]` rows, `count` views of each sample, one sample after another.

    A BatchNorm group still consists of as many samples, now each with all its views, as it did on one GPU of
    the original codes.
    """
    if isinstance(network, Joined):
        return dataclasses.replace(network, backbone=for_views(network.backbone, count))
    group = getattr(getattr(network, "module", None), "bn_group", None)
    return (
        dataclasses.replace(network, module=network.module.clone(bn_group=count * group))
        if group
        else network
    )


def _apply(module, variables, inputs, train, keys):
    state = {name: tree for name, tree in variables.items() if name != "params"}
    if not train:
        return module.apply(variables, inputs, train=False, keys=keys), state
    features, new_state = module.apply(variables, inputs, train=True, keys=keys, mutable=list(state))
    return features, dict(new_state)


def _by_collection(trees):
    """{part: {collection: tree}} -> {collection: {part: tree}}."""
    collections = sorted({name for tree in trees.values() for name in tree})
    return {name: {part: tree[name] for part, tree in trees.items() if name in tree} for name in collections}


def _of_part(variables, part):
    """{collection: {part: tree}} -> {collection: tree} of one part."""
    return {name: trees[part] for name, trees in variables.items() if part in trees}
