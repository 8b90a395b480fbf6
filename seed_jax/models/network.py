"""The contract between networks and everything that uses them: two functions, `init` and `apply`.

A network is any object with

    init(rng, sample) -> variables
    apply(variables, x, train, keys=None) -> (features, new_model_state)

`x` is float `[B, H, W, 3]` in [0, 1]. `variables` is `{'params': ..., 'batch_stats': ...}`, and the model
state is `variables` without `params`. `features` is a plain dict: `stem, stage1 .. stage4` (NHWC before
pooling, or tokens `[B, T, D]`; some networks have three stages), `pooled` float32 `[B, D]`, `logits` when
there is a classifier, and the entries that the parts of a `Joined` add. Some architectures add `preact1,
preact2, ..`, the stages before their last ReLU. `keys` are typed PRNG keys `[B]`, one per sample.
"""

import dataclasses
import re
import zlib
from collections.abc import Mapping
from typing import Any, Protocol

import flax.linen as nn
import jax
import jax.numpy as jnp

from seed_jax.data import rng as rng_lib
from seed_jax.errors import UserError

Features = dict[str, jax.Array]
Variables = dict[str, Any]

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)


class Network(Protocol):
    """What trainers, methods and evaluators may call on a network.

    Attributes:
      prefix_tokens: how many tokens come before the grid of patches in entries that are `[B, T, D]`: the cls
        token, then registers. Patches are in reading order.
    """

    prefix_tokens: int

    def init(self, rng: jax.Array, sample: jax.Array) -> Variables:
        """Fresh variables for images of the shape of `sample`."""

    def apply(
        self, variables: Variables, x: jax.Array, train: bool, keys: jax.Array | None = None
    ) -> tuple[Features, Variables]:
        """Features of `x` and the new model state; in eval mode the state is returned as passed."""


@dataclasses.dataclass(frozen=True)
class LinenNetwork:
    """A Linen module, called as `module(x, train, keys)`, with the normalisation of its images.

    Attributes:
      module: the architecture.
      mean, std: three numbers each, for images in [0, 1].
      size: side in pixels; images of another side are resized to it (bilinear, antialiased), so that teacher
        and student of different sizes see the same pixels. None takes images of any side.

    >>> from seed_jax.models.resnet import resnet18
    >>> network = LinenNetwork(resnet18(width=0.125, num_classes=10), size=32)
    >>> images = jnp.ones((2, 48, 48, 3))
    >>> variables = network.init(jax.random.key(0), images)
    >>> features, state = network.apply(variables, images, train=False)
    >>> features["stem"].shape, features["logits"].shape
    ((2, 16, 16, 8), (2, 10))
    >>> sorted(variables), sorted(state)
    (['batch_stats', 'params'], ['batch_stats'])
    """

    module: nn.Module
    mean: tuple[float, ...] = IMAGENET_MEAN
    std: tuple[float, ...] = IMAGENET_STD
    size: int | None = None

    def init(self, rng, sample):
        return self.module.init(rng, self._preprocess(sample), train=False, keys=None)

    def apply(self, variables, x, train, keys=None):
        return _apply(self.module, variables, self._preprocess(x), train, keys)

    @property
    def layers(self) -> int | None:
        """Number of the module's last layer; None if the module does not number its layers."""
        return getattr(self.module, "layers", None)

    def layer(self, path: tuple[str, ...]) -> int:
        """Layer, 0 to `layers`, of the parameter at `path` inside the module.

        Only for modules that number their layers: check that `layers` is not None.

        >>> from seed_jax.models import create
        >>> network = create("vit_small")
        >>> network.layer(("pos_embed",)), network.layer(("block3", "attn", "qkv", "kernel")), network.layers
        (0, 4, 13)
        """
        return self.module.layer(path)

    @property
    def prefix_tokens(self) -> int:
        """Tokens before the grid of patches; 0 for a module that does not say.

        >>> from seed_jax.models import create
        >>> [create(name).prefix_tokens for name in ("vit_small", "swin_tiny", "resnet18")]
        [1, 0, 0]
        """
        return getattr(self.module, "prefix_tokens", 0)

    @property
    def undecayed(self) -> frozenset[str]:
        """Names of the parameters and modules that weight decay leaves alone although they are not vectors:
        positions and tokens.
        """
        return getattr(self.module, "undecayed", frozenset())

    def _preprocess(self, x):
        if self.size and x.shape[1:3] != (self.size, self.size):
            x = jax.image.resize(x, (len(x), self.size, self.size, x.shape[3]), "linear")
        mean, std = (jnp.asarray(v, x.dtype).reshape(1, 1, 1, 3) for v in (self.mean, self.std))
        return (x - mean) / std


@dataclasses.dataclass(frozen=True, eq=False)
class Joined:
    """A backbone and named parts (head, projector, classifier, exits), applied in order.

    A part is a Linen module, called as `part(features, train, keys)`, that returns the entries it adds to the
    features; later parts see them. Variables are stored at `params['backbone']`, `params[name]`,
    `batch_stats['backbone']` and `batch_stats[name]`. Initial values and dropout masks of a part depend on
    its name and not on the other parts.

    `init` and `apply` raise UserError when a part would overwrite an entry.

    Attributes:
      backbone: any network, itself a `Joined` perhaps.
      parts: modules by name.
      backbone_train: False keeps the backbone in eval mode (running statistics, no dropout) while the parts
        train, as a linear probe needs.

    >>> from seed_jax.models import create
    >>> from seed_jax.models.heads import ProjectionHead
    >>> network = Joined(create("resnet18", width=0.125), {"head": ProjectionHead(dim=8)})
    >>> images = jnp.ones((2, 32, 32, 3))
    >>> variables = network.init(jax.random.key(0), images)
    >>> {collection: sorted(trees) for collection, trees in variables.items()}
    {'batch_stats': ['backbone'], 'params': ['backbone', 'head']}
    >>> network.apply(variables, images, train=False)[0]["embedding"].shape
    (2, 8)
    """

    backbone: Network
    parts: Mapping[str, nn.Module]
    backbone_train: bool = True

    @property
    def mean(self) -> tuple[float, ...]:
        """The colour that the backbone normalises to 0."""
        return self.backbone.mean

    @property
    def std(self) -> tuple[float, ...]:
        """The spread that the backbone normalises to 1."""
        return self.backbone.std

    @property
    def prefix_tokens(self) -> int:
        """Of the backbone."""
        return self.backbone.prefix_tokens

    def init(self, rng, sample):
        def key(name):
            return jax.random.fold_in(rng, zlib.crc32(name.encode()))

        trees = {"backbone": self.backbone.init(key("backbone"), sample)}
        if not self.parts:
            return _by_collection(trees)
        shapes, _ = jax.eval_shape(lambda v, x: self.backbone.apply(v, x, False), trees["backbone"], sample)
        backbone = features = jax.tree.map(lambda s: jnp.zeros(s.shape, s.dtype), shapes)
        for name, part in self.parts.items():
            added, trees[name] = part.init_with_output(key(name), features, train=False, keys=None)
            features = _with(features, added, name, backbone)
        return _by_collection(trees)

    def apply(self, variables, x, train, keys=None):
        backbone, state = self.backbone.apply(
            _of(variables, "backbone"), x, train and self.backbone_train, keys
        )
        features, states = backbone, {"backbone": state}
        for name, part in self.parts.items():
            part_keys = None if keys is None else rng_lib.fold(keys, zlib.crc32(name.encode()))
            added, states[name] = _apply(part, _of(variables, name), features, train, part_keys)
            features = _with(features, added, name, backbone)
        return features, _by_collection(states)


def stage_maps(features: Mapping[str, Any]) -> list[str]:
    """The names of the stages that are maps `[B, H, W, C]`, without `stem`, from the first stage to the last.

    Args:
      features: of a network, or their shapes.

    >>> image, tokens = jnp.ones((1, 2, 2, 3)), jnp.ones((1, 4, 3))
    >>> stage_maps({"stem": image, "stage10": image, "stage2": image, "stage1": tokens})
    ['stage2', 'stage10']
    """
    names = [name for name, x in features.items() if re.fullmatch(r"stage\d+", name) and len(x.shape) == 4]
    return sorted(names, key=lambda name: int(name.removeprefix("stage")))


def for_views(network: Network, count: int) -> Network:
    """The same network for `[B * count]` rows: `count` views of each sample, all views of a sample adjacent.

    Multiply `bn_group` of the backbone and of every part by `count`, so that a BatchNorm group covers as many
    samples as before, each with all its views (as on one GPU of the original implementations). Networks
    without groups are returned unchanged.

    >>> from seed_jax.models import create
    >>> for_views(create("resnet18", bn_group=32), count=6).module.bn_group
    192
    """
    if isinstance(network, Joined):
        parts = {name: _with_group(part, count) for name, part in network.parts.items()}
        return dataclasses.replace(network, backbone=for_views(network.backbone, count), parts=parts)
    module = getattr(network, "module", None)
    scaled = _with_group(module, count)
    return network if scaled is module else dataclasses.replace(network, module=scaled)


def without_dropout(network: Network) -> Network:
    """The same network without dropout and stochastic depth, in train mode too; the variables are the same.

    >>> from seed_jax.models import create
    >>> without_dropout(create("vit_small", drop_path=0.1)).module.drop_path
    0.0
    """
    if isinstance(network, Joined):
        return dataclasses.replace(network, backbone=without_dropout(network.backbone))
    module = getattr(network, "module", None)
    rates = {name: 0.0 for name in ("dropout", "drop_path") if getattr(module, name, 0)}
    return dataclasses.replace(network, module=module.clone(**rates)) if rates else network


def with_attention(network: Network) -> Network | None:
    """The same network, which also returns the attention weights of each block: `attention1`, and so on.

    None if its architecture has no such weights. The variables are the same.

    >>> from seed_jax.models import create
    >>> with_attention(create("vit_small")).module.attention, with_attention(create("resnet18"))
    (True, None)
    """
    if isinstance(network, Joined):
        backbone = with_attention(network.backbone)
        return backbone and dataclasses.replace(network, backbone=backbone)
    module = getattr(network, "module", None)
    if not isinstance(getattr(module, "attention", None), bool):
        return None
    return dataclasses.replace(network, module=module.clone(attention=True))


def _with_group(module, count):
    group = getattr(module, "bn_group", None)
    return module.clone(bn_group=count * group) if group else module


def _with(features, added, name, backbone):
    """`features` with the entries that the part `name` adds; `backbone`: the entries of the backbone."""
    for entry in added.keys() & features.keys():
        if entry == "logits" and entry in backbone:
            reason = "which the backbone returns: leave num_classes out of student.options."
        elif entry in backbone:
            reason = "which the backbone returns: choose another name for the output (`out`)."
        else:
            reason = "which an earlier part returns: choose another name for one of the outputs (`out`)."
        raise UserError(f"The part '{name}' would overwrite '{entry}', {reason}")
    return features | added


def _apply(module, variables, inputs, train, keys):
    state = {name: tree for name, tree in variables.items() if name != "params"}
    if not train:
        return module.apply(variables, inputs, train=False, keys=keys), state
    features, new_state = module.apply(variables, inputs, train=True, keys=keys, mutable=list(state))
    return features, dict(new_state)


def _by_collection(trees):
    """{name: {collection: tree}} -> {collection: {name: tree}}, for the backbone and the parts."""
    collections = sorted({collection for tree in trees.values() for collection in tree})
    return {
        collection: {name: tree[collection] for name, tree in trees.items() if collection in tree}
        for collection in collections
    }


def _of(variables, name):
    """{collection: {name: tree}} -> {collection: tree} of the backbone or of one part."""
    return {collection: trees[name] for collection, trees in variables.items() if name in trees}
