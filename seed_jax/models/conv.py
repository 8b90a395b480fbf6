"""Convolution, depthwise convolution and max pooling that are fast on a CPU too.

Elsewhere these are XLA's own operations. On a CPU XLA runs grouped convolutions, convolutions over maps
smaller than their kernel, and the gradient of pooling as plain loops, so there each is written with shifted
elementwise products and matrix products, which compile well.
"""

import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax import lax


def conv(x: jax.Array, kernel: jax.Array, stride: int) -> jax.Array:
    """Convolution of `[B, H, W, C]` with `[k, k, C, D]`, padded by `(k - 1) // 2` on every side."""
    return _by_platform(_cpu_conv, _xla_conv, stride, x, kernel)


def depthwise_conv(x: jax.Array, kernel: jax.Array, stride: int) -> jax.Array:
    """Convolution of channel c of `[B, H, W, C]` with `kernel[:, :, 0, c]`, padded as `conv`."""
    return _by_platform(_cpu_depthwise, _xla_conv, stride, x, kernel)


def max_pool(x: jax.Array, window: int, stride: int) -> jax.Array:
    """Maximum over windows of `[B, H, W, C]`, padded by `(window - 1) // 2` of -inf on every side."""
    return _by_platform(
        functools.partial(_cpu_max_pool, window), functools.partial(_xla_max_pool, window), stride, x
    )


def _by_platform(cpu, default, stride, *arrays):
    """`cpu` on a CPU and `default` elsewhere.

    The choice is made again in the gradient, so that neither form keeps the other's intermediate values.
    """
    cpu, default = functools.partial(cpu, stride), functools.partial(default, stride)

    @jax.custom_vjp
    def f(*arrays):
        return lax.platform_dependent(*arrays, cpu=cpu, default=default)

    def backward(arrays, dy):
        return lax.platform_dependent(dy, *arrays, cpu=_gradient(cpu), default=_gradient(default))

    f.defvjp(lambda *arrays: (f(*arrays), arrays), backward)
    return f(*arrays)


def _gradient(f):
    return lambda dy, *arrays: jax.vjp(f, *arrays)[1](dy)


def _xla_conv(stride, x, kernel):
    pad = (kernel.shape[0] - 1) // 2
    return lax.conv_general_dilated(
        x,
        kernel,
        window_strides=(stride, stride),
        padding=((pad, pad), (pad, pad)),
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
        feature_group_count=x.shape[-1] // kernel.shape[2],
    )


def _cpu_conv(stride, x, kernel):
    k = kernel.shape[0]
    if k == 1:
        x = x[:, ::stride, ::stride]
        return (x.reshape(-1, x.shape[-1]) @ kernel[0, 0]).reshape(*x.shape[:-1], -1)
    if (min(x.shape[1:3]) - 1) // stride + 1 < k:
        return sum(tap @ kernel[i, j] for i, j, tap in _taps(stride, x, k))
    return _xla_conv(stride, x, kernel)


def _xla_max_pool(window, stride, x):
    """The padding is written out because exporters know windows without it only."""
    x = _pad(x, (window - 1) // 2, -jnp.inf)
    return nn.max_pool(x, (window, window), (stride, stride), "VALID")


def _cpu_max_pool(window, stride, x):
    return functools.reduce(jnp.maximum, (tap for _, _, tap in _taps(stride, x, window, -jnp.inf)))


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def _cpu_depthwise(stride, x, kernel):
    return sum(tap * _filter(kernel, i, j) for i, j, tap in _taps(stride, x, kernel.shape[0]))


def _cpu_depthwise_gradients(stride, residuals, dy):
    x, kernel = residuals
    return _depthwise_dx(stride, x, kernel, dy), _depthwise_dkernel(stride, x, kernel, dy)


_cpu_depthwise.defvjp(
    lambda stride, x, kernel: (_cpu_depthwise(stride, x, kernel), (x, kernel)), _cpu_depthwise_gradients
)


def _depthwise_dx(stride, x, kernel, dy):
    """Gradient of the input, one phase of the stride at a time.

    Input row `stride * a + u` met kernel row `i` at output row `a + (u + pad - i) / stride` if that is whole.
    """
    k, pad = kernel.shape[0], (kernel.shape[0] - 1) // 2
    height, width = (-(-n // stride) for n in x.shape[1:3])
    before, after = (k - 1 - pad) // stride, (stride - 1 + pad) // stride
    dy = jnp.pad(dy, ((0, 0), (before, after), (before, after), (0, 0)))

    def taps(u):
        return [(i, before + (u + pad - i) // stride) for i in range(k) if (u + pad - i) % stride == 0]

    def phase(u, v):
        return sum(
            dy[:, row : row + height, column : column + width] * _filter(kernel, i, j)
            for i, row in taps(u)
            for j, column in taps(v)
        )

    rows = [jnp.stack([phase(u, v) for v in range(stride)], axis=3) for u in range(stride)]
    dx = jnp.stack(rows, axis=2).reshape(dy.shape[0], height * stride, width * stride, dy.shape[-1])
    return dx[:, : x.shape[1], : x.shape[2]]


def _depthwise_dkernel(stride, x, kernel, dy):
    """Gradient of the filters: a loop over output rows and taps that adds products up place by place.

    The body is elementwise, which XLA vectorises, and a reduction to one filter is not. The totals of a
    sample stay with it, so a sharded batch is summed over devices only once, at the end.
    """
    k, (batch, height, width, channels) = kernel.shape[0], dy.shape
    x = _pad(x, (k - 1) // 2, 0, extra=stride - 1)

    def add_products(step, totals):
        h, tap = step // (k * k), step % (k * k)
        start = (0, h * stride + tap // k, tap % k, 0)
        x_row = lax.dynamic_slice(x, start, (batch, 1, stride * width, channels))[:, 0, ::stride]
        dy_row = lax.dynamic_index_in_dim(dy, h, axis=1, keepdims=False)
        return totals.at[tap].add(x_row.astype(jnp.float32) * dy_row.astype(jnp.float32))

    totals = lax.fori_loop(0, height * k * k, add_products, jnp.zeros((k * k, batch, width, channels)))
    return totals.sum((1, 2)).reshape(kernel.shape).astype(kernel.dtype)


def _taps(stride, x, k, fill=0):
    """For each place (i, j) in a k x k window, the values of `x` that it meets, `[B, H', W', C]`."""
    height, width = ((n - 1) // stride + 1 for n in x.shape[1:3])
    x = _pad(x, (k - 1) // 2, fill)
    for i in range(k):
        for j in range(k):
            rows = slice(i, i + stride * (height - 1) + 1, stride)
            columns = slice(j, j + stride * (width - 1) + 1, stride)
            yield i, j, x[:, rows, columns]


def _pad(x, pad, fill, extra=0):
    return jnp.pad(x, ((0, 0), (pad, pad), (pad, pad + extra), (0, 0)), constant_values=fill)


def _filter(kernel, i, j):
    return kernel[i, j, 0][None, None, None]
