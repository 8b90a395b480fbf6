"""The CPU forms against XLA's own convolution and torch's pooling: values, gradients, sharding."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

from seed_jax import parallel
from seed_jax.models import conv


def reference(x, kernel, stride):
    pad = (kernel.shape[0] - 1) // 2
    return lax.conv_general_dilated(
        x,
        kernel,
        (stride, stride),
        ((pad, pad), (pad, pad)),
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
        feature_group_count=x.shape[-1] // kernel.shape[2],
    )


def arrays(*shapes):
    generator = np.random.default_rng(0)
    return [jnp.asarray(generator.standard_normal(shape), jnp.float32) for shape in shapes]


def assert_same_with_gradients(f, g, x, kernel):
    @functools.partial(jax.jit, static_argnums=0)
    def with_gradients(h, x, kernel, dy):
        y, pullback = jax.vjp(h, x, kernel)
        return y, pullback(dy)

    (dy,) = arrays(jax.eval_shape(g, x, kernel).shape)
    close = functools.partial(np.testing.assert_allclose, rtol=1e-4, atol=2e-4)
    jax.tree.map(close, with_gradients(f, x, kernel, dy), with_gradients(g, x, kernel, dy))


@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize(("k", "size"), [(3, (7, 8)), (5, (8, 7)), (5, (2, 3)), (3, (1, 1))])
def test_depthwise(stride, k, size):
    x, kernel = arrays((3, *size, 4), (k, k, 1, 4))
    assert_same_with_gradients(
        lambda x, kernel: conv.depthwise_conv(x, kernel, stride),
        lambda x, kernel: reference(x, kernel, stride),
        x,
        kernel,
    )


@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize(("k", "size"), [(1, (9, 8)), (3, (9, 8)), (3, (2, 2)), (3, (4, 3)), (7, (16, 15))])
def test_conv(stride, k, size):
    x, kernel = arrays((3, *size, 4), (k, k, 4, 5))
    assert_same_with_gradients(
        lambda x, kernel: conv.conv(x, kernel, stride),
        lambda x, kernel: reference(x, kernel, stride),
        x,
        kernel,
    )


@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize(("k", "size"), [(1, (5, 4)), (3, (2, 2)), (3, (6, 5))])
def test_grouped(stride, k, size):
    x, kernel = arrays((3, *size, 6), (k, k, 2, 9))
    assert_same_with_gradients(
        lambda x, kernel: conv.conv(x, kernel, stride),
        lambda x, kernel: reference(x, kernel, stride),
        x,
        kernel,
    )


@pytest.mark.parametrize(("f", "inputs"), [(conv.conv, 4), (conv.depthwise_conv, 1)])
@pytest.mark.parametrize(
    ("k", "size", "pad", "stride"),
    [
        (3, (7, 8), (0, 1), 2),
        (3, (9, 8), (0, 0), 1),
        (5, (12, 9), (1, 2), 2),
        (5, (5, 6), (4, 0), 1),
        (3, (5, 4), (0, 4), 2),
    ],
)
def test_explicit_pads_as_in_torch(f, inputs, k, size, pad, stride):
    torch = pytest.importorskip("torch")
    x, kernel = arrays((2, *size, 4), (k, k, inputs, 4))

    @jax.jit
    def with_gradients(x, kernel):
        y, pullback = jax.vjp(lambda x, kernel: f(x, kernel, stride, pad), x, kernel)
        return y, *pullback(y)

    y, dx, dkernel = with_gradients(x, kernel)

    def to_torch(array, axes):
        return torch.tensor(np.array(array)).permute(axes).requires_grad_()

    x_torch, kernel_torch = to_torch(x, (0, 3, 1, 2)), to_torch(kernel, (3, 2, 0, 1))
    padded = torch.nn.functional.pad(x_torch, pad * 2)
    y_torch = torch.nn.functional.conv2d(padded, kernel_torch, stride=stride, groups=4 // inputs)
    y_torch.backward(y_torch)
    close = functools.partial(np.testing.assert_allclose, rtol=1e-4, atol=1e-4)
    close(y, y_torch.detach().permute(0, 2, 3, 1).numpy())
    close(dx, x_torch.grad.permute(0, 2, 3, 1).numpy())
    close(dkernel, kernel_torch.grad.permute(2, 3, 1, 0).numpy())


@pytest.mark.parametrize(("f", "inputs"), [(conv.conv, 4), (conv.depthwise_conv, 1)])
def test_gradient_of_a_gradient(f, inputs):
    x, kernel = arrays((2, 5, 5, 4), (3, 3, inputs, 4))

    def penalty(f):
        dx = jax.grad(lambda x, kernel: jnp.square(f(x, kernel, 1)).mean())
        return jax.jit(jax.grad(lambda kernel: jnp.square(dx(x, kernel)).sum()))(kernel)

    np.testing.assert_allclose(penalty(f), penalty(reference), rtol=1e-3, atol=1e-5)


def test_only_a_cpu_gets_the_cpu_form():
    x, kernel = arrays((2, 6, 6, 4), (3, 3, 1, 4))
    gradients = jax.jit(jax.grad(lambda x, kernel: conv.depthwise_conv(x, kernel, 1).sum(), argnums=(0, 1)))

    def convolutions(platform):
        text = gradients.trace(x, kernel).lower(lowering_platforms=(platform,)).as_text()
        return text.count("stablehlo.convolution")

    assert convolutions("tpu") >= 2
    assert convolutions("cpu") == 0


def test_conv_in_bfloat16_keeps_its_dtype_and_gradients_theirs():
    x, kernel = (a.astype(jnp.bfloat16) for a in arrays((2, 6, 6, 4), (3, 3, 1, 4)))
    y, pullback = jax.vjp(lambda x, kernel: conv.depthwise_conv(x, kernel, 1), x, kernel)
    dx, dkernel = pullback(y)
    assert (y.dtype, dx.dtype, dkernel.dtype) == (jnp.bfloat16,) * 3
    expected = reference(x.astype(jnp.float32), kernel.astype(jnp.float32), 1)
    np.testing.assert_allclose(y.astype(jnp.float32), expected, rtol=0.05, atol=0.1)


@pytest.mark.parametrize("size", [7, 8])
def test_max_pool(size):
    torch = pytest.importorskip("torch")
    (x,) = arrays((2, size, size, 3))
    y, pullback = jax.vjp(jax.jit(lambda x: conv.max_pool(x, window=3, stride=2)), x)
    (dy,) = arrays(y.shape)
    x_torch = torch.tensor(np.array(x)).permute(0, 3, 1, 2).requires_grad_()
    y_torch = torch.nn.functional.max_pool2d(x_torch, 3, 2, 1)
    y_torch.backward(torch.tensor(np.array(dy)).permute(0, 3, 1, 2))
    np.testing.assert_array_equal(y, y_torch.detach().permute(0, 2, 3, 1).numpy())
    np.testing.assert_allclose(pullback(dy)[0], x_torch.grad.permute(0, 2, 3, 1).numpy(), rtol=1e-6)


@pytest.mark.parametrize(("f", "k"), [(conv.depthwise_conv, 3), (conv.conv, 1), (conv.conv, 3)])
def test_sharded_batch_moves_no_activations(f, k):
    x, kernel = arrays((16, 6, 6, 8), (k, k, 1 if f is conv.depthwise_conv else 8, 8))
    gradients = jax.jit(jax.value_and_grad(lambda x, kernel: jnp.sin(f(x, kernel, 2)).sum(), argnums=(0, 1)))
    expected = gradients(x, kernel)
    mesh = parallel.make_mesh()
    sharded = (
        jax.device_put(x, parallel.batch_sharding(mesh)),
        jax.device_put(kernel, parallel.replicated(mesh)),
    )
    compiled = gradients.lower(*sharded).compile()
    for collective in ("all-gather", "all-to-all", "collective-permute"):
        assert collective not in compiled.as_text()
    jax.tree.map(
        functools.partial(np.testing.assert_allclose, rtol=1e-4, atol=1e-5), compiled(*sharded), expected
    )


@pytest.mark.parametrize(("f", "k"), [(conv.depthwise_conv, 3), (conv.conv, 1), (conv.conv, 3)])
def test_the_platform_is_chosen_before_the_program_runs_in_second_derivatives_too(f, k):
    """A condition that is left in the program keeps collectives in it from being ordered."""
    x, kernel = arrays((8, 6, 6, 8), (k, k, 1 if f is conv.depthwise_conv else 8, 8))

    def slope(x, kernel):
        return jnp.square(jax.grad(lambda x: jnp.sin(f(x, kernel, 1)).sum())(x)).sum()

    mesh = parallel.make_mesh()
    x = jax.device_put(x, parallel.batch_sharding(mesh))
    kernel = jax.device_put(kernel, parallel.replicated(mesh))
    program = jax.jit(jax.grad(slope, argnums=1)).lower(x, kernel).compile()
    assert " conditional(" not in program.as_text()
