"""Convolutions that are fast on a CPU too.

Everywhere but on a CPU these are XLA's own convolutions. On a CPU XLA calls a grouped convolution and its gradients, and any convolution
whose kernel is larger than its map, through plain loops, so there each is written with operations that XLA compiles well.
"""

import functools

import jax
import jax.numpy as jnp
from jax import lax


@functools.partial(jax.custom_vjp, nondiff_argnums=(2,))
def conv(x: jax.Array, kernel: jax.Array, stride: int) -> jax.Array:
    """Convolution of `[B, H, W, C]` with `[k, k, C, D]`, padded by `(k - 1) // 2` on every side."""
    return lax.platform_dependent(
        x,
        kernel,
        cpu=functools.partial(_cpu_conv, stride=stride),
        default=functools.partial(_xla_conv, stride=stride),
    )


def _conv_forward(x, kernel, stride):
    return conv(x, kernel, stride), (x, kernel)


def _conv_backward(stride, residuals, dy):
    return lax.platform_dependent(
        *residuals,
        dy,
        cpu=functools.partial(_gradients, functools.partial(_cpu_conv, stride=stride)),
        default=functools.partial(_gradients, functools.partial(_xla_conv, stride=stride)),
    )


conv.defvjp(_conv_forward, _conv_backward)


@functools.partial(jax.custom_vjp, nondiff_argnums=(2,))
def depthwise_conv(x: jax.Array, kernel: jax.Array, stride: int) -> jax.Array:
    """Convolution of each channel of `[B, H, W, C]` with its own filter, `kernel[:, :, 0, c]`, padded as `conv`."""
    return lax.platform_dependent(
        x,
        kernel,
        cpu=functools.partial(_cpu_depthwise, stride=stride),
        default=functools.partial(_xla_conv, stride=stride),
    )


def _depthwise_forward(x, kernel, stride):
    return depthwise_conv(x, kernel, stride), (x, kernel)


def _depthwise_backward(stride, residuals, dy):
    return lax.platform_dependent(
        *residuals,
        dy,
        cpu=functools.partial(_cpu_depthwise_gradients, stride=stride),
        default=functools.partial(_gradients, functools.partial(_xla_conv, stride=stride)),
    )


depthwise_conv.defvjp(_depthwise_forward, _depthwise_backward)


def _gradients(f, x, kernel, dy):
    return jax.vjp(f, x, kernel)[1](dy)


def _xla_conv(x, kernel, stride):
    pad = (kernel.shape[0] - 1) // 2
    return lax.conv_general_dilated(
        x,
        kernel,
        window_strides=(stride, stride),
        padding=((pad, pad), (pad, pad)),
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
        feature_group_count=x.shape[-1] // kernel.shape[2],
    )


def _cpu_conv(x, kernel, stride):
    size = kernel.shape[0]
    if size == 1:
        x = x[:, ::stride, ::stride]
        return (x.reshape(-1, x.shape[-1]) @ kernel[0, 0]).reshape(*x.shape[:-1], -1)
    if min(x.shape[1:3]) < size:
        return sum(tap @ kernel[i, j] for i, j, tap in _taps(x, size, stride))
    return _xla_conv(x, kernel, stride)


def _cpu_depthwise(x, kernel, stride):
    return sum(tap * kernel[i, j, 0][None, None, None] for i, j, tap in _taps(x, kernel.shape[0], stride))


def _taps(x, k, stride):
    """For each place (i, j) in a k x k kernel, the input values that it meets, `[B, H', W', C]`."""
    pad = (k - 1) // 2
    height, width = ((n - 1) // stride + 1 for n in x.shape[1:3])
    x = jnp.pad(x, ((0, 0), (pad, pad), (pad, pad), (0, 0)))
    for i in range(k):
        for j in range(k):
            rows = slice(i, i + stride * (height - 1) + 1, stride)
            yield i, j, x[:, rows, j : j + stride * (width - 1) + 1 : stride]


def _cpu_depthwise_gradients(x, kernel, dy, stride):
    return _depthwise_dx(kernel, dy, stride, x.shape[1:3]), _depthwise_dkernel(x, kernel, dy, stride)


def _depthwise_dx(kernel, dy, stride, size):
    """Gradient of the input, one phase of the stride at a time.

    Input row `stride * a + u` met kernel row `i` at output row `a + (u + pad - i) / stride`, where that is whole.
    """
    k, pad = kernel.shape[0], (kernel.shape[0] - 1) // 2
    height, width = (-(-n // stride) for n in size)
    before = (k - 1 - pad) // stride
    after = [(stride - 1 + pad) // stride + n - m for n, m in zip((height, width), dy.shape[1:3], strict=True)]
    dy = jnp.pad(dy, ((0, 0), (before, after[0]), (before, after[1]), (0, 0)))

    def taps(u):
        return [(i, before + (u + pad - i) // stride) for i in range(k) if (u + pad - i) % stride == 0]

    def phase(u, v):
        return sum(
            dy[:, row : row + height, column : column + width] * kernel[i, j, 0][None, None, None]
            for i, row in taps(u)
            for j, column in taps(v)
        )

    if stride == 1:
        return phase(0, 0)
    rows = [jnp.stack([phase(u, v) for v in range(stride)], axis=3) for u in range(stride)]
    dx = jnp.stack(rows, axis=2).reshape(dy.shape[0], height * stride, width * stride, dy.shape[-1])
    return dx[:, : size[0], : size[1]]


def _depthwise_dkernel(x, kernel, dy, stride):
    """Gradient of the filters: a loop over output rows and taps that adds up products, place by place.

    The body is elementwise, which XLA vectorises, where a reduction of the product to one filter is not; totals of one sample stay
    with it, so a batch that is sharded stays where it is until the final sum.
    """
    k, pad, (batch, height, width, channels) = kernel.shape[0], (kernel.shape[0] - 1) // 2, dy.shape
    x = jnp.pad(x, ((0, 0), (pad, pad), (pad, pad + stride - 1), (0, 0)))

    def add_products(step, totals):
        h, tap = step // (k * k), step % (k * k)
        start = (0, h * stride + tap // k, tap % k, 0)
        x_row = lax.dynamic_slice(x, start, (batch, 1, stride * width, channels))[:, 0, ::stride]
        dy_row = lax.dynamic_index_in_dim(dy, h, axis=1, keepdims=False)
        return totals.at[tap].add(x_row.astype(jnp.float32) * dy_row.astype(jnp.float32))

    totals = lax.fori_loop(0, height * k * k, add_products, jnp.zeros((k * k, batch, width, channels)))
    return totals.sum((1, 2)).reshape(k, k, 1, channels).astype(kernel.dtype)
