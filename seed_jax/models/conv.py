"""Convolution, depthwise convolution and max pooling, in forms that are fast on a CPU too.

On other platforms each is XLA's own operation. On a CPU, XLA compiles grouped convolutions, convolutions of
maps smaller than their kernel and the gradient of pooling to plain loops. There we write them as shifted
elementwise products and matrix products, which XLA compiles well.
"""

import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax import lax

Pad = tuple[int, int]  # zeros before and after the map, on each of its two axes


def conv(x: jax.Array, kernel: jax.Array, stride: int, pad: Pad | None = None) -> jax.Array:
    """Convolve `[B, H, W, C]` with `[k, k, C / groups, D]`, padded by `pad`; None is `symmetric(k)`.

    >>> conv(jnp.ones((1, 6, 6, 2)), jnp.ones((3, 3, 2, 5)), stride=2).shape
    (1, 3, 3, 5)
    >>> conv(jnp.arange(4.0).reshape(1, 1, 1, 4), jnp.ones((1, 1, 2, 2)), stride=1)  # two groups
    Array([[[[1., 5.]]]], dtype=float32)
    """
    return _by_platform(_cpu_conv, _xla_conv, (stride, pad or symmetric(kernel.shape[0])), x, kernel)


def depthwise_conv(x: jax.Array, kernel: jax.Array, stride: int, pad: Pad | None = None) -> jax.Array:
    """Convolve each channel c of `[B, H, W, C]` with `kernel[:, :, 0, c]`, padded as in `conv`.

    >>> depthwise_conv(jnp.ones((1, 6, 6, 2)), jnp.ones((3, 3, 1, 2)), stride=2)[0, 0, 0]  # a corner: 2 x 2
    Array([4., 4.], dtype=float32)
    """
    return _by_platform(_cpu_depthwise, _xla_conv, (stride, pad or symmetric(kernel.shape[0])), x, kernel)


def max_pool(x: jax.Array, window: int, stride: int, pad: Pad | None = None) -> jax.Array:
    """Maximum over windows of `[B, H, W, C]`, padded by -inf as `pad` says; None is `symmetric(window)`."""
    return _by_platform(_cpu_max_pool, _xla_max_pool, (stride, pad or symmetric(window), window), x)


def symmetric(k: int) -> Pad:
    """PyTorch's usual padding of a window of side `k`: `(k - 1) // 2` on every side."""
    return (k - 1) // 2, (k - 1) // 2


def output_size(size: int, k: int, stride: int, pad: Pad) -> int:
    """Number of positions of a window of side `k` on a padded axis of length `size`."""
    return (size + sum(pad) - k) // stride + 1


def _by_platform(cpu, default, settings, *arrays):
    """`cpu(*settings, *arrays)` on a CPU, `default(*settings, *arrays)` on other platforms.

    The gradient chooses again, so that the backward pass of one form keeps no intermediate values of the
    other.
    """
    cpu, default = functools.partial(cpu, *settings), functools.partial(default, *settings)

    @jax.custom_vjp
    def f(*arrays):
        return lax.platform_dependent(*arrays, cpu=cpu, default=default)

    def backward(arrays, dy):
        return lax.platform_dependent(dy, *arrays, cpu=_gradient(cpu), default=_gradient(default))

    f.defvjp(lambda *arrays: (f(*arrays), arrays), backward)
    return f(*arrays)


def _gradient(f):
    return lambda dy, *arrays: jax.vjp(f, *arrays)[1](dy)


def xla_conv(x: jax.Array, kernel: jax.Array, stride: int, pad: Pad) -> jax.Array:
    """XLA's own convolution, plain, grouped or depthwise, as the shape of the kernel says."""
    return lax.conv_general_dilated(
        x,
        kernel,
        window_strides=(stride, stride),
        padding=(pad, pad),
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
        feature_group_count=x.shape[-1] // kernel.shape[2],
    )


def _cpu_conv(stride, pad, x, kernel):
    k = kernel.shape[0]
    if k == 1 and pad == (0, 0):
        x = x[:, ::stride, ::stride]
        return _grouped_product(x.reshape(-1, x.shape[-1]), kernel[0, 0]).reshape(*x.shape[:-1], -1)
    if output_size(min(x.shape[1:3]), k, stride, pad) < k:
        return sum(_grouped_product(tap, kernel[i, j]) for i, j, tap in _taps(stride, pad, x, k))
    return _xla_conv(stride, pad, x, kernel)


def _grouped_product(x, kernel):
    """`[..., C]` times `[C / groups, D]`: one matrix product for each group."""
    groups = x.shape[-1] // kernel.shape[0]
    if groups == 1:
        return x @ kernel
    pairs = zip(jnp.split(x, groups, -1), jnp.split(kernel, groups, -1), strict=True)
    return jnp.concatenate([part @ filters for part, filters in pairs], -1)


def _xla_conv(stride, pad, x, kernel):
    return xla_conv(x, kernel, stride, pad)


def _xla_max_pool(stride, pad, window, x):
    """Pad explicitly: exporters of the program do not know pooling with padding."""
    x = _pad(x, pad, -jnp.inf)
    return nn.max_pool(x, (window, window), (stride, stride), "VALID")


def _cpu_max_pool(stride, pad, window, x):
    return functools.reduce(jnp.maximum, (tap for _, _, tap in _taps(stride, pad, x, window, -jnp.inf)))


@functools.partial(jax.custom_vjp, nondiff_argnums=(0, 1))
def _cpu_depthwise(stride, pad, x, kernel):
    return sum(tap * _filter(kernel, i, j) for i, j, tap in _taps(stride, pad, x, kernel.shape[0]))


def _cpu_depthwise_gradients(stride, pad, residuals, dy):
    x, kernel = residuals
    return _depthwise_dx(stride, pad, x, kernel, dy), _depthwise_dkernel(stride, pad, x, kernel, dy)


_cpu_depthwise.defvjp(
    lambda stride, pad, x, kernel: (_cpu_depthwise(stride, pad, x, kernel), (x, kernel)),
    _cpu_depthwise_gradients,
)


def _depthwise_dx(stride, pad, x, kernel, dy):
    """Gradient with respect to the input, one phase of the stride at a time.

    Input row `stride * a + u` contributed through kernel row `i` to output row `a + (u + low - i) / stride`,
    if that is an integer.
    """
    k, low = kernel.shape[0], pad[0]
    height, width = (-(-n // stride) for n in x.shape[1:3])
    before, after = max(k - 1 - low, 0) // stride, (stride - 1 + low) // stride
    missing = [max(n + after - rows, 0) for n, rows in zip((height, width), dy.shape[1:3], strict=True)]
    dy = jnp.pad(dy, ((0, 0), (before, missing[0]), (before, missing[1]), (0, 0)))

    def taps(u):
        return [(i, before + (u + low - i) // stride) for i in range(k) if (u + low - i) % stride == 0]

    def phase(u, v):
        return sum(
            dy[:, row : row + height, column : column + width] * _filter(kernel, i, j)
            for i, row in taps(u)
            for j, column in taps(v)
        )

    rows = [jnp.stack([phase(u, v) for v in range(stride)], axis=3) for u in range(stride)]
    dx = jnp.stack(rows, axis=2).reshape(dy.shape[0], height * stride, width * stride, dy.shape[-1])
    return dx[:, : x.shape[1], : x.shape[2]]


def _depthwise_dkernel(stride, pad, x, kernel, dy):
    """Gradient with respect to the kernel: a loop over output rows and taps that accumulates products.

    The loop keeps totals per sample and column, because XLA vectorises elementwise products and not a
    reduction to one number per channel. In this form devices also sum a sharded batch only once,
    after the loop.
    """
    k, (batch, height, width, channels) = kernel.shape[0], dy.shape
    x = _pad(x, pad, 0, extra=stride - 1)

    def add_products(index, totals):
        h, tap = index // (k * k), index % (k * k)
        start = (0, h * stride + tap // k, tap % k, 0)
        x_row = lax.dynamic_slice(x, start, (batch, 1, stride * width, channels))[:, 0, ::stride]
        dy_row = lax.dynamic_index_in_dim(dy, h, axis=1, keepdims=False)
        return totals.at[tap].add(x_row.astype(jnp.float32) * dy_row.astype(jnp.float32))

    totals = lax.fori_loop(0, height * k * k, add_products, jnp.zeros((k * k, batch, width, channels)))
    return totals.sum((1, 2)).reshape(kernel.shape).astype(kernel.dtype)


def _taps(stride, pad, x, k, fill=0):
    """For each tap (i, j) of a k x k window, the values of `x` under it, `[B, H', W', C]`."""
    height, width = (output_size(n, k, stride, pad) for n in x.shape[1:3])
    x = _pad(x, pad, fill)
    for i in range(k):
        for j in range(k):
            rows = slice(i, i + stride * (height - 1) + 1, stride)
            columns = slice(j, j + stride * (width - 1) + 1, stride)
            yield i, j, x[:, rows, columns]


def _pad(x, pad, fill, extra=0):
    low, high = pad
    return jnp.pad(x, ((0, 0), (low, high), (low, high + extra), (0, 0)), constant_values=fill)


def _filter(kernel, i, j):
    return kernel[i, j, 0][None, None, None]
