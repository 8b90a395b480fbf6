import jax
import jax.numpy as jnp
import numpy as np
import pytest

from seed_jax.errors import UserError
from seed_jax.models import efficientnet, layers


def images(shape=(6, 5, 4, 3)):
    return np.random.default_rng(1).normal(2.0, 3.0, shape).astype(np.float32)


def batch_norm(x, train=True, **options):
    module = layers.BatchNorm(**options)
    variables = module.init(jax.random.key(0), x, train=False)
    scale = np.linspace(0.5, 1.5, x.shape[-1], dtype=np.float32)
    variables = {"params": {"scale": scale, "bias": scale - 1}, "batch_stats": variables["batch_stats"]}
    return module, variables


def test_batch_norm_equals_torch():
    torch = pytest.importorskip("torch")
    x = images()
    module, variables = batch_norm(x)
    reference = torch.nn.BatchNorm2d(3)
    with torch.no_grad():
        reference.weight.copy_(torch.tensor(variables["params"]["scale"]))
        reference.bias.copy_(torch.tensor(variables["params"]["bias"]))
    x_torch = torch.tensor(x).permute(0, 3, 1, 2).requires_grad_()
    y_torch = reference(x_torch)
    dy = np.random.default_rng(2).standard_normal(x.shape).astype(np.float32)
    y_torch.backward(torch.tensor(dy).permute(0, 3, 1, 2))

    def apply(params, x):
        return module.apply({**variables, "params": params}, x, train=True, mutable=["batch_stats"])

    y, pullback, updated = jax.vjp(apply, variables["params"], x, has_aux=True)
    dparams, dx = pullback(dy)
    np.testing.assert_allclose(y, y_torch.detach().permute(0, 2, 3, 1), atol=2e-6)
    np.testing.assert_allclose(dx, x_torch.grad.permute(0, 2, 3, 1), atol=2e-6)
    np.testing.assert_allclose(dparams["scale"], reference.weight.grad, rtol=1e-5)
    np.testing.assert_allclose(dparams["bias"], reference.bias.grad, rtol=1e-5)
    np.testing.assert_allclose(updated["batch_stats"]["mean"], reference.running_mean, rtol=1e-5)
    np.testing.assert_allclose(updated["batch_stats"]["var"], reference.running_var, rtol=1e-5)

    reference.eval()
    y_eval = module.apply({**variables, **updated}, x, train=False)
    np.testing.assert_allclose(y_eval, reference(x_torch).detach().permute(0, 2, 3, 1), atol=2e-6)


def test_batch_norm_groups_equal_a_loop():
    x = images()
    module, variables = batch_norm(x, group=2)
    y, updated = module.apply(variables, x, train=True, mutable=["batch_stats"])
    means, variances = [], []
    for start in range(0, 6, 2):
        part = x[start : start + 2].astype(np.float64)
        mean, var = part.mean((0, 1, 2)), part.var((0, 1, 2))
        expected = (part - mean) / np.sqrt(var + 1e-5) * variables["params"]["scale"] + variables["params"][
            "bias"
        ]
        np.testing.assert_allclose(y[start : start + 2], expected, atol=5e-6)
        means.append(mean)
        variances.append(part.var((0, 1, 2), ddof=1))
    np.testing.assert_allclose(updated["batch_stats"]["mean"], 0.1 * np.mean(means, 0), rtol=1e-5)
    np.testing.assert_allclose(updated["batch_stats"]["var"], 0.9 + 0.1 * np.mean(variances, 0), rtol=1e-5)


def test_batch_norm_gradient_of_groups_is_that_of_each_group_alone():
    x = images()
    grouped, variables = batch_norm(x, group=2)
    whole = layers.BatchNorm()

    def loss(module, x):
        y, _ = module.apply(variables, x, train=True, mutable=["batch_stats"])
        return jnp.sin(y).sum()

    expected = np.concatenate([jax.grad(loss, argnums=1)(whole, x[i : i + 2]) for i in range(0, 6, 2)])
    np.testing.assert_allclose(jax.grad(loss, argnums=1)(grouped, x), expected, atol=1e-5)


def test_batch_norm_refuses_what_has_no_statistics():
    x = images((4, 1, 1, 3))
    for group, message in ((3, "does not divide"), (1, "more than one value")):
        module, variables = batch_norm(x, group=group)
        with pytest.raises(UserError, match=message):
            module.apply(variables, x, train=True, mutable=["batch_stats"])


def test_batch_norm_in_bfloat16_has_float32_statistics():
    x = jnp.asarray(images(), jnp.bfloat16)
    module, variables = batch_norm(x, dtype=jnp.bfloat16)
    y, updated = module.apply(variables, x, train=True, mutable=["batch_stats"])
    assert y.dtype == jnp.bfloat16
    expected = 0.1 * np.asarray(x, np.float64).mean((0, 1, 2))
    np.testing.assert_allclose(updated["batch_stats"]["mean"], expected, rtol=1e-5)


def test_dropout_is_a_function_of_the_sample_key():
    x = jnp.ones((6, 500))
    keys = jax.random.split(jax.random.key(5), 6)
    dropout = layers.Dropout(0.2)
    y = dropout.apply({}, x, train=True, keys=keys)
    order = np.array([3, 0, 5, 1, 2, 4])
    np.testing.assert_array_equal(dropout.apply({}, x, train=True, keys=keys[order]), y[order])
    np.testing.assert_array_equal(dropout.apply({}, x[:2], train=True, keys=keys[:2]), y[:2])
    assert not np.array_equal(y[0], y[1])
    assert set(np.unique(y)) == {np.float32(0), np.float32(1.25)}
    assert abs(float((y == 0).mean()) - 0.2) < 0.03
    np.testing.assert_array_equal(dropout.apply({}, x, train=False, keys=None), x)
    with pytest.raises(UserError, match="one key per sample"):
        dropout.apply({}, x, train=True, keys=None)


def test_drop_path_drops_whole_samples_by_their_keys():
    x = jnp.ones((400, 2, 3, 5))
    keys = jax.random.split(jax.random.key(5), 400)
    layer = layers.DropPath(0.2)
    y = np.asarray(layer.apply({}, x, train=True, keys=keys))
    np.testing.assert_array_equal(y, np.broadcast_to(y[:, :1, :1, :1], y.shape))
    assert set(np.unique(y)) == {np.float32(0), np.float32(1.25)}
    assert abs(float((y[:, 0, 0, 0] == 0).mean()) - 0.2) < 0.06
    order = np.arange(400)[::-1]
    np.testing.assert_array_equal(layer.apply({}, x, train=True, keys=keys[order]), y[order])
    np.testing.assert_array_equal(layer.apply({}, x, train=False, keys=None), x)
    with pytest.raises(UserError, match="one key per sample"):
        layer.apply({}, x, train=True, keys=None)


def test_convolution_of_a_map_that_is_too_small():
    layer = layers.Conv(4, kernel=5, stride=2, pad=(1, 2))
    with pytest.raises(UserError, match="use larger images or the option small_stem"):
        jax.eval_shape(layer.init, jax.random.key(0), jnp.zeros((1, 1, 1, 3)))


def test_h_swish_and_its_gradient():
    x = np.linspace(-5, 5, 41, dtype=np.float32)
    np.testing.assert_allclose(layers.h_swish(x), x * np.clip(x + 3, 0, 6) / 6, atol=1e-6)
    inside = np.abs(np.abs(x) - 3) > 1e-3
    expected = np.where(x < -3, 0, np.where(x > 3, 1, (2 * x + 3) / 6))
    actual = jax.vmap(jax.grad(layers.h_swish))(x)
    np.testing.assert_allclose(actual[inside], expected[inside], atol=1e-6)


@pytest.mark.parametrize(
    ("channels", "expected"), [(16, 16), (12, 16), (18, 24), (4, 8), (88.08, 88), (33, 32)]
)
def test_make_divisible(channels, expected):
    assert layers.make_divisible(channels) == expected


def test_torch_linear_is_drawn_from_the_uniform_distribution_of_torch():
    params = layers.torch_linear(400, 25, None).init(jax.random.key(0), jnp.zeros((1, 25)))["params"]
    for leaf in jax.tree.leaves(params):
        assert np.abs(leaf).max() <= 0.2
        np.testing.assert_allclose(np.std(leaf), 0.2 / np.sqrt(3), rtol=0.1)


def test_efficientnets_gates_are_torchs():
    torch = pytest.importorskip("torch")
    x = np.random.default_rng(0).standard_normal((2, 5, 7, 12)).astype(np.float32)
    module = efficientnet.SqueezeExcite(hidden=3, dtype=jnp.float32)
    variables = module.init(jax.random.key(0), x)
    kernels = {name: np.array(variables["params"][name]["kernel"]).T for name in ("reduce", "expand")}
    biases = {name: np.array(variables["params"][name]["bias"]) for name in ("reduce", "expand")}
    y = torch.from_numpy(x).permute(0, 3, 1, 2)
    gate = torch.nn.functional.adaptive_avg_pool2d(y, 1)
    for name, act in (("reduce", torch.nn.functional.silu), ("expand", torch.sigmoid)):
        weight = torch.from_numpy(kernels[name].copy())[:, :, None, None]
        gate = act(torch.nn.functional.conv2d(gate, weight, torch.from_numpy(biases[name])))
    expected = (y * gate).permute(0, 2, 3, 1).numpy()
    np.testing.assert_allclose(module.apply(variables, x), expected, rtol=1e-5, atol=1e-6)
