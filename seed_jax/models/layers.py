"""Layers shared by the architectures: explicit paddings, fp32 statistics, randomness per sample."""

import functools
import math
import zlib
from collections.abc import Collection, Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax import lax

from seed_jax import rng as rng_lib
from seed_jax.errors import UserError
from seed_jax.models import conv

Dtype = Any

conv_init = nn.initializers.variance_scaling(2.0, "fan_out", "normal")
torch_conv_init = nn.initializers.variance_scaling(1 / 3, "fan_in", "uniform")  # U(+-1 / sqrt(fan-in))


class Conv(nn.Module):
    """Square convolution without bias, NHWC x HWIO; the kernel is stored float32 and used in `dtype`.

    `pad`: zeros before and after the map on both axes; None for `(kernel - 1) // 2` on every side, as in
    torch. Raises UserError for a map that is smaller than the kernel, padding included.
    """

    features: int
    kernel: int
    stride: int = 1
    depthwise: bool = False
    pad: conv.Pad | None = None
    kernel_init: nn.initializers.Initializer = conv_init
    dtype: Dtype = jnp.float32

    @nn.compact
    def __call__(self, x):
        inputs = 1 if self.depthwise else x.shape[-1]
        shape = (self.kernel, self.kernel, inputs, self.features)
        kernel = self.param("kernel", self.kernel_init, shape, jnp.float32)
        pad = conv.symmetric(self.kernel) if self.pad is None else self.pad
        if min(conv.output_size(size, self.kernel, self.stride, pad) for size in x.shape[1:3]) < 1:
            raise UserError(
                f"A map of {x.shape[1]} x {x.shape[2]} is too small for a {self.kernel} x {self.kernel} "
                f"convolution padded by {pad}; use larger images or small_stem=True."
            )
        convolve = conv.depthwise_conv if self.depthwise else conv.conv
        if self.is_initializing():  # only shapes matter, and this traces in a fifth of the time
            convolve = conv.xla_conv
        return convolve(x.astype(self.dtype), kernel.astype(self.dtype), self.stride, pad)


class BatchNorm(nn.Module):
    """Batch normalisation over all axes but the last, with float32 statistics; output in `dtype`.

    `group=None`: statistics over the whole batch, which under jit is the global batch whatever its sharding.
    `group=G`: over groups of G consecutive samples, each normalised by its own (the per-device statistics of
    the original codes, but the same on any number of devices); the running statistics then follow the mean
    over groups of the groups' means and variances. As in torch the batch is normalised by the biased variance
    and the running variance is unbiased, with the count of one group; `momentum=0.9` is torch's 0.1.

    Raises UserError when G does not divide the batch.
    """

    group: int | None = None
    momentum: float = 0.9
    epsilon: float = 1e-5
    dtype: Dtype = jnp.float32

    @nn.compact
    def __call__(self, x, train: bool):
        channels = (x.shape[-1],)
        scale = self.param("scale", nn.initializers.ones, channels, jnp.float32)
        bias = self.param("bias", nn.initializers.zeros, channels, jnp.float32)
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
                f"bn_group={group} does not divide the batch of {x.shape[0]}; choose a divisor of it."
            )
        count = group * math.prod(x.shape[1:-1])
        if count == 1:
            raise UserError("Batch normalisation needs more than one value a channel; use a larger batch.")
        y, mean, var = normalise(x.reshape(-1, group, *x.shape[1:]), scale, bias, self.epsilon)
        keep = self.momentum
        running_mean.value = keep * running_mean.value + (1 - keep) * mean.mean(0)
        running_var.value = keep * running_var.value + (1 - keep) * var.mean(0) * (count / (count - 1))
        return y.reshape(x.shape).astype(self.dtype)


@functools.partial(jax.custom_vjp, nondiff_argnums=(3,))
def normalise(x, scale, bias, epsilon):
    """`x` `[groups, ..., C]` normalised in each group; the groups' means and biased variances `[groups, C]`.

    The gradient is written out because it then keeps only `x` and passes over it twice. The statistics
    returned are constants to it.
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


class Dropout(nn.Module):
    """Dropout; a sample's mask is a function of its key and of this layer's place in the module alone.

    `keys`: typed keys `[B]`. Raises UserError when training without keys.
    """

    rate: float

    @nn.compact
    def __call__(self, x, train: bool, keys):
        return _drop(x, x.shape[1:], self.rate, self.path, train, keys)


class DropPath(nn.Module):
    """Stochastic depth: a residual branch dropped whole, sample by sample, with keys as `Dropout`.

    Huang et al. 2016; what EfficientNet's authors call drop-connect, and torchvision mode `row`.
    """

    rate: float

    @nn.compact
    def __call__(self, x, train: bool, keys):
        return _drop(x, (1,) * (x.ndim - 1), self.rate, self.path, train, keys)


def _drop(x, shape, rate, path, train, keys):
    """`x` with a mask of `shape` a sample; what is kept grows by `1 / (1 - rate)`."""
    if not train or rate == 0:
        return x
    if keys is None:
        raise UserError("A network with dropout needs one key a sample in train mode; pass keys to apply.")
    keys = rng_lib.fold(keys, zlib.crc32("/".join(path).encode()))
    keep = jax.vmap(lambda key: jax.random.bernoulli(key, 1 - rate, shape))(keys)
    return jnp.where(keep, x / (1 - rate), jnp.zeros_like(x))


class SqueezeExcite(nn.Module):
    """Channel gates from the pooled map: Linear to `hidden`, ReLU, Linear back, h_sigmoid (MobileNetV3)."""

    hidden: int
    dtype: Dtype = jnp.float32

    @nn.compact
    def __call__(self, x):
        gate = global_average(x).astype(self.dtype)
        gate = nn.relu(narrow_linear(self.hidden, "reduce", self.dtype)(gate))
        gate = h_sigmoid(narrow_linear(x.shape[-1], "expand", self.dtype)(gate))
        return x * gate[:, None, None, :]


def narrow_linear(features: int, name: str, dtype: Dtype = jnp.float32) -> nn.Dense:
    """Linear layer with weights N(0, 0.01) and bias 0: classifiers and every Linear of MobileNetV3."""
    return nn.Dense(features, dtype=dtype, kernel_init=nn.initializers.normal(0.01), name=name)


def torch_linear(
    features: int, inputs: int, name: str, dtype: Dtype = jnp.float32, bias: bool = True
) -> nn.Dense:
    """Linear layer with torch's default init, weight and bias U(-1/sqrt(inputs), 1/sqrt(inputs))."""
    bound = 1 / math.sqrt(inputs)

    def init(key, shape, dtype=jnp.float32):
        return jax.random.uniform(key, shape, dtype, -bound, bound)

    return nn.Dense(features, bias, dtype, kernel_init=init, bias_init=init, name=name)


def global_average(x: jax.Array) -> jax.Array:
    """Mean over the map in float32: `[B, H, W, C]` -> `[B, C]`."""
    return x.astype(jnp.float32).mean((1, 2))


def h_sigmoid(x: jax.Array) -> jax.Array:
    return nn.relu6(x + 3) / 6


@jax.custom_jvp
def h_swish(x: jax.Array) -> jax.Array:
    return x * h_sigmoid(x)


@h_swish.defjvp
def _h_swish_jvp(primals, tangents):
    (x,), (dx,) = primals, tangents
    return h_swish(x), dx * jnp.where(x <= -3, 0, jnp.where(x < 3, x / 3 + 0.5, 1))


def make_divisible(channels: float, divisor: int = 8) -> int:
    """`channels` rounded to a multiple of `divisor`, but never below 90 % of it (d-li14/mobilenetv3)."""
    rounded = max(divisor, int(channels + divisor / 2) // divisor * divisor)
    return rounded + divisor if rounded < 0.9 * channels else rounded


def layer_number(name: str, stem: Collection[str], blocks: Sequence[str]) -> int:
    """Layer of a submodule or parameter of an architecture, for learning rates that grow with depth.

    0 if `name` is in `stem`, i + 1 for `blocks[i]`, `len(blocks) + 1` for everything else (norms, heads), as
    in BEiT (Bao et al. 2022; microsoft/unilm, beit/optim_factory.py) and MAE (util/lr_decay.py).

    >>> [layer_number(name, {"conv1"}, ["block0", "block1"]) for name in ("conv1", "block0", "block1", "fc")]
    [0, 1, 2, 3]
    """
    if name in stem:
        return 0
    return 1 + (blocks.index(name) if name in blocks else len(blocks))


def _channels(vector: jax.Array, ndim: int) -> jax.Array:
    return vector.reshape((1,) * (ndim - 1) + vector.shape)
