"""Layers shared by the architectures: explicit padding, float32 statistics, randomness per sample."""

import functools
import math
import zlib
from typing import Any, ClassVar

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax import lax

from seed_jax.data import rng as rng_lib
from seed_jax.errors import UserError
from seed_jax.models import conv

Dtype = Any
FOLDED = "folded"  # a variable that `fold` gives to a module whose work a neighbouring kernel does

conv_init = nn.initializers.variance_scaling(2.0, "fan_out", "normal")
torch_conv_init = nn.initializers.variance_scaling(1 / 3, "fan_in", "uniform")  # U(+-1 / sqrt(fan-in))


class Conv(nn.Module):
    """Square convolution of `[B, H, W, C]`. The kernel, HWIO, and the bias are stored as float32.

    Attributes:
      features: channels of the output; with `depthwise` equal to those of the input.
      kernel: side of the kernel.
      groups: how many equal groups of the input's channels are convolved apart; group i makes the i-th share
        of the output.
      use_bias: add a bias, which is 0 at first.
      pad: zeros before and after the map, on both axes; None for `(kernel - 1) // 2` on every side, as in
        PyTorch.
      dtype: of the computation and the output.

    Raises:
      UserError: the padded map is smaller than the kernel.
    """

    features: int
    kernel: int
    stride: int = 1
    depthwise: bool = False
    pad: conv.Pad | None = None
    kernel_init: nn.initializers.Initializer = conv_init
    dtype: Dtype = jnp.float32
    groups: int = 1
    use_bias: bool = False

    @nn.compact
    def __call__(self, x):
        inputs = 1 if self.depthwise else x.shape[-1] // self.groups
        shape = (self.kernel, self.kernel, inputs, self.features)
        kernel = self.param("kernel", self.kernel_init, shape, jnp.float32)
        pad = conv.symmetric(self.kernel) if self.pad is None else self.pad
        if min(conv.output_size(size, self.kernel, self.stride, pad) for size in x.shape[1:3]) < 1:
            raise UserError(
                f"A feature map of {x.shape[1]} x {x.shape[2]} is too small for a {self.kernel} x "
                f"{self.kernel} convolution padded by {pad}: use larger images or the option small_stem=True."
            )
        convolve = conv.depthwise_conv if self.depthwise else conv.conv
        if self.is_initializing():  # init needs shapes alone, and this traces in a fifth of the time
            convolve = conv.xla_conv
        y = convolve(x.astype(self.dtype), kernel.astype(self.dtype), self.stride, pad)
        if not self.use_bias:
            return y
        bias = self.param("bias", nn.initializers.zeros, (self.features,), jnp.float32)
        return y + _channels(bias.astype(self.dtype), y.ndim)


class BatchNorm(nn.Module):
    """Batch normalisation over all axes but the last, with float32 statistics.

    As in PyTorch, the biased variance normalises a batch and the running variance is unbiased.

    Attributes:
      group: None takes statistics over the whole batch; under jit that is the global batch, however it is
        sharded. G takes statistics over groups of G consecutive samples and normalises each group by its own.
        The original implementations do this per GPU; here the groups do not depend on the number of devices.
        The running statistics then follow the means over the groups of their means and unbiased variances.
      momentum: share of the old running statistics that an update keeps; PyTorch's 0.1 is 0.9 here.
      epsilon: added to the variance.
      affine: scale and shift the result by learnt parameters; False has none.
      dtype: of the output.

    Raises:
      UserError: G does not divide the batch, or a channel has only one value.

    >>> module, x = BatchNorm(group=2), jnp.array([[1.0], [3.0], [10.0], [30.0]])
    >>> variables = module.init(jax.random.key(0), x, train=False)
    >>> y, updated = module.apply(variables, x, train=True, mutable=["batch_stats"])
    >>> np.asarray(y).round(2).ravel()
    array([-1.,  1., -1.,  1.], dtype=float32)
    >>> np.asarray(updated["batch_stats"]["mean"]).round(2)  # 0.9 * 0 + 0.1 * (2 + 20) / 2
    array([1.1], dtype=float32)
    """

    group: int | None = None
    momentum: float = 0.9
    epsilon: float = 1e-5
    affine: bool = True
    dtype: Dtype = jnp.float32

    @nn.compact
    def __call__(self, x, train: bool):
        channels = (x.shape[-1],)
        scale, bias = jnp.ones(channels), jnp.zeros(channels)
        if self.affine:
            bias = self.param("bias", nn.initializers.zeros, channels, jnp.float32)
        if not train and self.has_variable("params", FOLDED):
            return (x.astype(jnp.float32) + _channels(bias, x.ndim)).astype(self.dtype)
        if self.affine:
            scale = self.param("scale", nn.initializers.ones, channels, jnp.float32)
        running_mean = self.variable("batch_stats", "mean", jnp.zeros, channels, jnp.float32)
        running_var = self.variable("batch_stats", "var", jnp.ones, channels, jnp.float32)
        if self.is_initializing():
            return x.astype(self.dtype)
        if not train:
            factor = scale * lax.rsqrt(running_var.value + self.epsilon)
            shift = bias - running_mean.value * factor
            y = x.astype(jnp.float32) * _channels(factor, x.ndim) + _channels(shift, x.ndim)
            return y.astype(self.dtype)

        group = x.shape[0] if self.group is None else self.group
        if x.shape[0] % group:
            raise UserError(
                f"bn_group is {group}, which does not divide the batch of {x.shape[0]}: use a divisor of it."
            )
        count = group * math.prod(x.shape[1:-1])
        if count == 1:
            raise UserError("Batch normalisation needs more than one value per channel: use a larger batch.")
        y, mean, var = _normalise_traced_once(x.reshape(-1, group, *x.shape[1:]), scale, bias, self.epsilon)
        keep = self.momentum
        running_mean.value = keep * running_mean.value + (1 - keep) * mean.mean(0)
        running_var.value = keep * running_var.value + (1 - keep) * var.mean(0) * (count / (count - 1))
        return y.reshape(x.shape).astype(self.dtype)


@functools.partial(jax.custom_vjp, nondiff_argnums=(3,))
def normalise(x, scale, bias, epsilon):
    """Normalise `x` `[groups, ..., C]` in each group.

    Returns the normalised `x`, float32, and the means and biased variances of the groups, float32
    `[groups, C]`; no gradient flows through the returned statistics. The gradient is written out because it
    then keeps only `x` for the backward pass, and reads it only twice.
    """
    return _normalise_forward(x, scale, bias, epsilon)[0]


def _normalise_forward(x, scale, bias, epsilon):
    axes = tuple(range(1, x.ndim - 1))
    x32 = x.astype(jnp.float32)
    mean = x32.mean(axes, keepdims=True)
    var = jnp.maximum(jnp.square(x32).mean(axes, keepdims=True) - jnp.square(mean), 0)
    rstd = lax.rsqrt(var + epsilon)
    factor = _channels(scale, x.ndim) * rstd
    y = x32 * factor + (_channels(bias, x.ndim) - mean * factor)
    channels = (x.shape[0], x.shape[-1])
    return (y, mean.reshape(channels), var.reshape(channels)), (x, scale, mean, rstd)


def _normalise_backward(epsilon, residuals, cotangents):
    x, scale, mean, rstd = residuals
    dy = cotangents[0]
    axes = tuple(range(1, x.ndim - 1))
    count = math.prod(x.shape[1:-1])
    x32 = x.astype(jnp.float32)
    dbias = dy.sum(axes, keepdims=True)
    dscale = ((dy * x32).sum(axes, keepdims=True) - mean * dbias) * rstd
    factor = _channels(scale, x.ndim) * rstd
    slope = -factor * rstd * dscale / count
    dx = dy * factor + x32 * slope - (factor * dbias / count + mean * slope)
    return dx.astype(x.dtype), dscale.sum(0).reshape(scale.shape), dbias.sum(0).reshape(scale.shape)


normalise.defvjp(_normalise_forward, _normalise_backward)
_normalise_traced_once = jax.jit(normalise, static_argnums=3)  # for each shape, its gradient too


class LayerNorm(nn.Module):
    """Layer normalisation over the last axis of float32 `[..., D]`, with the same digits as Flax's.

    Attributes:
      epsilon: added to the variance.
      initial: value of the scale.
    """

    epsilon: float
    initial: float = 1.0

    @nn.compact
    def __call__(self, x):
        x = x - x.mean(-1, keepdims=True)
        factor = lax.rsqrt(jnp.square(x).mean(-1, keepdims=True) + self.epsilon)
        if self.has_variable("params", FOLDED):
            return x * factor
        scale = self.param("scale", nn.initializers.constant(self.initial), (x.shape[-1],), jnp.float32)
        bias = self.param("bias", nn.initializers.zeros, (x.shape[-1],), jnp.float32)
        return x * (factor * _channels(scale, x.ndim)) + _channels(bias, x.ndim)


class LayerScale(nn.Module):
    """A learnt factor per channel (Touvron et al. 2021), initially 1e-5 as in DINOv2."""

    initial: float = 1e-5

    @nn.compact
    def __call__(self, x):
        if self.has_variable("params", FOLDED):
            return x
        gamma = self.param("gamma", nn.initializers.constant(self.initial), (x.shape[-1],), jnp.float32)
        return x * _channels(gamma, x.ndim)


def conv_and_norm(module: nn.Module, train: bool):
    """Functions that add a convolution and a BatchNorm to `module`, with its `dtype` and `bn_group`."""

    def conv(name, x, features, kernel, stride=1, depthwise=False):
        return Conv(features, kernel, stride, depthwise, dtype=module.dtype, name=name)(x)

    def norm(name, x):
        return BatchNorm(module.bn_group, dtype=module.dtype, name=name)(x, train)

    return conv, norm


class Dropout(nn.Module):
    """Dropout whose mask for a sample is a function of the sample's key and the path of this layer alone.

    `keys`: typed keys `[B]`. Raises UserError in train mode without keys.

    >>> x, keys = jnp.ones((2, 4)), jax.random.split(jax.random.key(0), 2)
    >>> y = Dropout(0.5).apply({}, x, train=True, keys=keys)
    >>> sorted({float(value) for value in y.ravel()})
    [0.0, 2.0]
    >>> bool((Dropout(0.5).apply({}, x[::-1], train=True, keys=keys[::-1]) == y[::-1]).all())
    True
    """

    rate: float

    @nn.compact
    def __call__(self, x, train: bool, keys):
        return _drop(x, x.shape[1:], self.rate, self.path, train, keys)


class DropPath(nn.Module):
    """Stochastic depth: drop the whole residual branch of a sample, with keys as in `Dropout`.

    Huang et al. 2016. EfficientNet's authors call it drop-connect, torchvision `stochastic_depth` with mode
    `row`.
    """

    rate: float

    @nn.compact
    def __call__(self, x, train: bool, keys):
        return _drop(x, (1,) * (x.ndim - 1), self.rate, self.path, train, keys)


def _drop(x, shape, rate, path, train, keys):
    """`x` times a mask of `shape` per sample; kept values are scaled by `1 / (1 - rate)`."""
    if not train or rate == 0:
        return x
    if keys is None:
        raise UserError("A network with dropout needs one key per sample in train mode: pass keys to apply.")
    keys = rng_lib.fold(keys, zlib.crc32("/".join(path).encode()))
    keep = jax.vmap(lambda key: jax.random.bernoulli(key, 1 - rate, shape))(keys)
    return jnp.where(keep, x / (1 - rate), jnp.zeros_like(x))


class SqueezeExcite(nn.Module):
    """Scale channels by gates: average over the map, Linear to `hidden`, ReLU, Linear back, h_sigmoid.

    Hu et al. 2018, with the activations of MobileNetV3.
    """

    hidden: int
    dtype: Dtype = jnp.float32

    @nn.compact
    def __call__(self, x):
        gate = global_average(x).astype(self.dtype)
        gate = nn.relu(narrow_linear(self.hidden, "reduce", self.dtype)(gate))
        gate = h_sigmoid(narrow_linear(x.shape[-1], "expand", self.dtype)(gate))
        return x * gate[:, None, None, :]


def on_rows(x, kernel, dimensions, **options):
    """`lax.dot_general` for `nn.Dense` that multiplies the rows of all leading axes of `x` as one matrix.

    XLA transposes and copies both factors of the kernel's gradient if that sums over several axes: on a CPU
    this takes about a sixth of the time of a ViT-S step.
    """
    y = lax.dot_general(x.reshape(-1, x.shape[-1]), kernel, (((1,), (0,)), ((), ())), **options)
    return y.reshape(*x.shape[:-1], -1)


Linear = functools.partial(nn.Dense, dot_general=on_rows)  # of tokens, `[B, T, D]`


def narrow_linear(features: int, name: str, dtype: Dtype = jnp.float32, std: float = 0.01) -> nn.Dense:
    """Linear layer that starts with weights N(0, std^2) and bias 0: linear probes, MobileNet, VGG."""
    return nn.Dense(features, dtype=dtype, kernel_init=nn.initializers.normal(std), name=name)


def torch_linear(
    features: int, inputs: int, name: str, dtype: Dtype = jnp.float32, bias: bool = True
) -> nn.Dense:
    """Linear layer with PyTorch's initial values: weight and bias U(-1/sqrt(inputs), 1/sqrt(inputs))."""
    bound = 1 / math.sqrt(inputs)

    def init(key, shape, dtype=jnp.float32):
        return jax.random.uniform(key, shape, dtype, -bound, bound)

    return nn.Dense(features, bias, dtype, kernel_init=init, bias_init=init, name=name)


def global_average(x: jax.Array) -> jax.Array:
    """Mean over the map in float32: `[B, H, W, C]` -> `[B, C]`."""
    return x.astype(jnp.float32).mean((1, 2))


def h_sigmoid(x: jax.Array) -> jax.Array:
    """Piecewise linear sigmoid: `relu6(x + 3) / 6` (Howard et al. 2019)."""
    return nn.relu6(x + 3) / 6


@jax.custom_jvp
def h_swish(x: jax.Array) -> jax.Array:
    """`x h_sigmoid(x)` (Howard et al. 2019). The derivative is written out: `x / 3 + 0.5` within +-3."""
    return x * h_sigmoid(x)


@h_swish.defjvp
def _h_swish_jvp(primals, tangents):
    (x,), (dx,) = primals, tangents
    return h_swish(x), dx * jnp.where(x <= -3, 0, jnp.where(x < 3, x / 3 + 0.5, 1))


def make_divisible(channels: float, divisor: int = 8) -> int:
    """`channels` rounded to a multiple of `divisor`, never below 90 % of `channels` (d-li14/mobilenetv3).

    >>> [make_divisible(channels) for channels in (4, 12, 18, 33)]
    [8, 16, 24, 32]
    """
    rounded = max(divisor, int(channels + divisor / 2) // divisor * divisor)
    return rounded + divisor if rounded < 0.9 * channels else rounded


def block_class(block: type[nn.Module], remat: bool, train: bool) -> type[nn.Module]:
    """`block`, or with `remat` in train mode a form of it that keeps only its inputs for the backward pass.

    The backward pass computes the block again. Parameter names, values and dropout masks stay the same.
    `block` is called as `block(x, train)` or `block(x, train, keys)`.
    """
    return nn.remat(block, static_argnums=(2,)) if remat and train else block


class Architecture(nn.Module):
    """A network that numbers its layers, for learning rates that grow with depth.

    Layer 0 is the stem, layer i + 1 is block i (from 0), and everything after the blocks (norms, heads)
    is the last layer, as in BEiT (Bao et al. 2022; microsoft/unilm, beit/optim_factory.py) and MAE
    (util/lr_decay.py).

    Attributes:
      stem: names of the submodules and parameters before the first block.
      undecayed: names of parameters and modules that weight decay leaves alone although not all are vectors.
      prefix_tokens: how many tokens come before the grid of patches in entries that are `[B, T, D]`.
      adapts: names of the settings in which a network may differ from the one that it starts from.
    """

    stem: ClassVar[frozenset[str]] = frozenset()
    undecayed: ClassVar[frozenset[str]] = frozenset()
    prefix_tokens: ClassVar[int] = 0
    adapts: ClassVar[frozenset[str]] = frozenset()

    @nn.nowrap
    def block_names(self) -> list[str]:
        """The names of the blocks, from the first to the last."""
        raise NotImplementedError

    @property
    def layers(self) -> int:
        """Number of the last layer."""
        return 1 + len(self.block_names())

    @nn.nowrap
    def layer(self, path: tuple[str, ...]) -> int:
        """Layer of the parameter at a path, such as `('block3', 'attn', 'qkv', 'kernel')`."""
        blocks = self.block_names()
        if path[0] in self.stem:
            return 0
        return 1 + (blocks.index(path[0]) if path[0] in blocks else len(blocks))

    @nn.nowrap
    def adapt(self, params: dict, other: "Architecture") -> dict:
        """The parameters that this network starts with, from those of `other`.

        Args:
          params: of `other`.
          other: a network of the same class, whose settings differ in those of `adapts` at most.

        Raises:
          UserError: this network cannot start from `other`; names the key of `student.options`.
        """
        return params


def _channels(vector: jax.Array, ndim: int) -> jax.Array:
    return vector.reshape((1,) * (ndim - 1) + vector.shape)
