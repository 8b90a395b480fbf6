"""Parts joined to a backbone: Linen modules from the features dict to new entries of it.

Each part reads one entry, a vector named by its field `of`, and writes one, named by `out`, so that several
parts of one kind can be joined side by side or in a row:

>>> from seed_jax.models import Joined, create
>>> backbone = create("resnet18", width=0.125, small_stem=True)
>>> parts = {"head": ProjectionHead(dim=16), "classifier": Classifier(10)}
>>> parts["probe"] = Classifier(10, of="embedding", out="embedding_logits")
>>> sample = jnp.zeros((1, 8, 8, 3))
>>> network = Joined(backbone, parts)
>>> features, _ = network.apply(network.init(jax.random.key(0), sample), sample, train=False)
>>> {name: features[name].shape for name in ("embedding", "logits", "embedding_logits")}
{'embedding': (1, 16), 'logits': (1, 10), 'embedding_logits': (1, 10)}
"""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax import lax

from seed_jax.errors import UserError
from seed_jax.models import layers

PROBE_EPSILON = 1e-6  # of the norm before the classifier of MAE's linear probe


class ProjectionHead(nn.Module):
    """Project the entry `of`, `[B, D]`, to `out`, float32 `[B, dim]`, not normalised.

    The default is the head of MoCo v2 and SEED: Linear D -> `hidden`, ReLU, Linear -> `dim`. With
    `batch_norm=True` it is the head of SimCLR and SwAV, with `layers=1` the single Linear of MoCo v1, with
    `layers=1, bias=False` the projection of CLIP. Weights and biases start as PyTorch initialises a Linear.

    Attributes:
      hidden: width of the hidden layers; None for the width D of the input.
      dim: width of the output.
      layers: number of Linear layers.
      batch_norm: normalise between each hidden Linear and its ReLU.
      bias: whether the Linear layers have a bias.
      last_norm: normalise after the last Linear, as MoCo v3 does (there without scale and bias).
      of, out: names of the entry that is read and of the one that is added to the features.
      bn_group: samples per group of batch statistics; None for the whole batch (`layers.BatchNorm`).
      dtype: of the matrix products and of the values between layers. Parameters, statistics and the output
        are float32.

    >>> head = ProjectionHead(hidden=32, dim=8)
    >>> features = {"pooled": jnp.ones((2, 16))}
    >>> variables = head.init(jax.random.key(0), features, train=False)
    >>> jax.tree.map(jnp.shape, variables["params"]["linear1"])
    {'bias': (32,), 'kernel': (16, 32)}
    >>> {name: (x.shape, str(x.dtype)) for name, x in head.apply(variables, features, train=True).items()}
    {'embedding': ((2, 8), 'float32')}
    """

    hidden: int | None = None
    dim: int = 128
    layers: int = 2
    batch_norm: bool = False
    bias: bool = True
    last_norm: bool = False
    of: str = "pooled"
    out: str = "embedding"
    bn_group: int | None = None
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, features, train: bool, keys=None):
        def linear(number, width):
            return layers.torch_linear(width, x.shape[-1], f"linear{number}", self.dtype, self.bias)(x)

        def norm(number):
            return layers.BatchNorm(self.bn_group, dtype=self.dtype, name=f"bn{number}")(x, train)

        x = features[self.of].astype(jnp.float32)
        hidden = self.hidden or x.shape[-1]
        for number in range(1, self.layers):
            x = linear(number, hidden)
            if self.batch_norm:
                x = norm(number)
            x = nn.relu(x)
        x = linear(self.layers, self.dim)
        if self.last_norm:
            x = norm(self.layers)
        return {self.out: x.astype(jnp.float32)}


class PrototypeHead(nn.Module):
    """Cosines between the projection of the entry `of`, `[B, D]`, and K prototypes: `out`, float32 `[B, K]`.

    The head of DINO (arXiv 2104.14294, section 3.1; facebookresearch/dino, vision_transformer.py): Linear
    D -> `hidden`, GELU, Linear, GELU, Linear -> `bottleneck`, the result scaled to length 1, and a last layer
    without bias whose weights for each prototype are scaled to length 1 (weight normalisation with its norm
    fixed at 1). Weights of the Linear layers start from N(0, 0.02), biases from 0, the last layer as
    PyTorch's Linear.

    Attributes:
      prototypes: K.
      hidden: width of both hidden layers.
      bottleneck: width of the projection.
      batch_norm: normalise between each hidden Linear and its GELU.
      of, out: names of the entry that is read and of the one that is added to the features.
      bn_group: samples per group of batch statistics; None for the whole batch (`layers.BatchNorm`).
      dtype: of the Linear layers and of the values between them. The cosines are float32.

    >>> head = PrototypeHead(prototypes=8, hidden=32, bottleneck=4)
    >>> features = {"pooled": jnp.ones((2, 16))}
    >>> variables = head.init(jax.random.key(0), features, train=False)
    >>> variables["params"]["prototypes"].shape
    (4, 8)
    >>> head.apply(variables, features, train=False)["similarities"].shape
    (2, 8)
    """

    prototypes: int = 65_536
    hidden: int = 2048
    bottleneck: int = 256
    batch_norm: bool = False
    of: str = "pooled"
    out: str = "similarities"
    bn_group: int | None = None
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, features, train: bool, keys=None):
        init = nn.initializers.normal(0.02)
        x = features[self.of]
        for number, width in enumerate((self.hidden, self.hidden, self.bottleneck), start=1):
            x = nn.Dense(width, dtype=self.dtype, kernel_init=init, name=f"linear{number}")(x)
            if number == 3:
                break
            if self.batch_norm:
                x = layers.BatchNorm(self.bn_group, dtype=self.dtype, name=f"bn{number}")(x, train)
            x = nn.gelu(x, approximate=False)
        shape = (self.bottleneck, self.prototypes)
        prototypes = self.param("prototypes", layers.torch_conv_init, shape, jnp.float32)
        x, prototypes = _unit(x.astype(jnp.float32), 1), _unit(prototypes, 0)
        return {self.out: jnp.dot(x, prototypes, precision="highest")}


class Prototypes(nn.Module):
    """Products of the entry `of`, `[B, D]`, scaled to length 1, with K prototypes: `out`, float32 `[B, K]`.

    A Linear without bias that starts as PyTorch's (facebookresearch/swav, src/resnet50.py). Its columns are
    what they are: SwAV scales them to length 1 at the start of each step.

    Attributes:
      prototypes: K.
      of, out: names of the entry that is read and of the one that is added to the features.

    >>> part = Prototypes(prototypes=8)
    >>> features = {"embedding": jnp.ones((2, 4))}
    >>> variables = part.init(jax.random.key(0), features, train=False)
    >>> variables["params"]["kernel"].shape, part.apply(variables, features, train=False)["scores"].shape
    ((4, 8), (2, 8))
    """

    prototypes: int
    of: str = "embedding"
    out: str = "scores"

    @nn.compact
    def __call__(self, features, train: bool, keys=None):
        x = _unit(features[self.of].astype(jnp.float32), 1)
        shape = (x.shape[-1], self.prototypes)
        kernel = self.param("kernel", layers.torch_conv_init, shape, jnp.float32)
        return {self.out: jnp.dot(x, kernel, precision="highest")}


def _unit(x, axis):
    """`x` scaled to length 1 along an axis, safe at 0."""
    return x * lax.rsqrt(jnp.maximum(jnp.sum(x * x, axis=axis, keepdims=True), 1e-24))


class PooledEmbedding(nn.Module):
    """Copy `pooled` to `out`: the embedding of a network without a head. The part has no parameters.

    >>> pooled = jnp.ones((2, 16))
    >>> PooledEmbedding().apply({}, {"pooled": pooled}, train=False)["embedding"] is pooled
    True
    """

    out: str = "embedding"

    @nn.compact
    def __call__(self, features, train: bool, keys=None):
        return {self.out: features["pooled"]}


class Classifier(nn.Module):
    """Linear from the entry `of`, `[B, D]`, to `out`, float32 `[B, num_classes]`.

    Attributes:
      of, out: names of the entry that is read and of the one that is added to the features.
      std: weights start as N(0, std^2) and biases as 0; None for PyTorch's Linear, which most papers' codes
        leave as it is. Losses that divide by the spread of the logits (DIST, standardised KD) start badly
        from narrow ones.
      batch_norm: normalise the input by the statistics of the batch first, without scale and bias, epsilon
        1e-6 (facebookresearch/mae, main_linprobe.py). In eval mode, variables without those statistics are
        those of a plain classifier (`folded`).
      bn_group: samples per group of batch statistics; None for the whole batch (`layers.BatchNorm`).

    >>> classifier = Classifier(num_classes=10)
    >>> features = {"pooled": jnp.ones((2, 16))}
    >>> variables = classifier.init(jax.random.key(0), features, train=False)
    >>> classifier.apply(variables, features, train=False)["logits"].shape
    (2, 10)
    """

    num_classes: int
    of: str = "pooled"
    out: str = "logits"
    std: float | None = None
    batch_norm: bool = False
    bn_group: int | None = None

    @nn.compact
    def __call__(self, features, train: bool, keys=None):
        x = features[self.of].astype(jnp.float32)
        if self.batch_norm and (train or self.is_initializing() or self.has_variable("batch_stats", "bn")):
            x = layers.BatchNorm(self.bn_group, epsilon=PROBE_EPSILON, affine=False, name="bn")(x, train)
        if self.std is None:
            linear = layers.torch_linear(self.num_classes, x.shape[-1], "fc")
        else:
            linear = layers.narrow_linear(self.num_classes, "fc", std=self.std)
        return {self.out: linear(x)}


def folded(params, stats):
    """The parameters of a plain `Classifier` that computes what one with `batch_norm` does in eval mode.

    Args:
      params: `{'fc': {'kernel': [D, C], 'bias': [C]}}`.
      stats: its `batch_stats`, `{'bn': {'mean': [D], 'var': [D]}}`.
    """
    kernel = params["fc"]["kernel"] * jax.lax.rsqrt(stats["bn"]["var"] + PROBE_EPSILON)[:, None]
    shift = jnp.matmul(stats["bn"]["mean"], kernel, precision="highest")
    return {"fc": {"kernel": kernel, "bias": params["fc"]["bias"] - shift}}


class Regressor(nn.Module):
    """Turn a map into one of another shape, as FitNet's regressor: convolution, BatchNorm, ReLU.

    The kernel is 1x1 for a map of the same side, 3x3 with stride 2 for one of half the side, and a transposed
    4x4 with stride 2 for one of twice the side, as in HobbitLong/RepDistiller, models/util.py, which also has
    a larger kernel for other sides.

    Attributes:
      channels, side: of the map that is regressed, `[B, side, side, channels]`.
      of, out: names of the entry that is read and of the one that is added to the features.
      bn_group: as for `layers.BatchNorm`.
      dtype: of the convolution.

    Raises:
      UserError: there is no such map, or the sides are neither equal nor one twice the other.
    """

    channels: int
    side: int
    of: str = "stage2"
    out: str = "regressed"
    bn_group: int | None = None
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, features, train: bool, keys=None):
        del keys
        if self.of not in features:
            raise UserError(f"method.hint: the student has no {self.of}: use another stage.")
        x = features[self.of]
        own = x.shape[1]
        if own == self.side:
            x = layers.Conv(self.channels, 1, dtype=self.dtype, name="conv")(x)
        elif own == 2 * self.side:
            x = layers.Conv(self.channels, 3, 2, dtype=self.dtype, name="conv")(x)
        elif 2 * own == self.side:
            x = nn.ConvTranspose(
                self.channels, (4, 4), (2, 2), use_bias=False, dtype=self.dtype, name="conv"
            )(x)
        else:
            raise UserError(
                f"The student's {self.of} has a side of {own} and the teacher's one of {self.side}: choose "
                "stages whose sides are equal, or one twice the other."
            )
        x = layers.BatchNorm(self.bn_group, dtype=self.dtype, name="norm")(x, train)
        return {self.out: nn.relu(x)}
