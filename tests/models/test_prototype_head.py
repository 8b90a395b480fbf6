"""DINO's head against PyTorch's layers and weight normalisation."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from seed_jax.models.heads import PrototypeHead


@pytest.mark.parametrize("batch_norm", [False, True])
def test_equals_pytorch(batch_norm):
    torch = pytest.importorskip("torch")
    nn = torch.nn
    head = PrototypeHead(prototypes=7, hidden=10, bottleneck=4, batch_norm=batch_norm)
    x = np.random.default_rng(0).standard_normal((6, 5)).astype(np.float32)
    variables = head.init(jax.random.key(0), {"pooled": jnp.asarray(x)}, train=False)
    numbers = np.random.default_rng(1)
    params = jax.tree.map(lambda p: numbers.standard_normal(p.shape).astype(np.float32), variables["params"])
    layers = []
    for n, (width, out) in enumerate([(5, 10), (10, 10), (10, 4)], start=1):
        linear = nn.Linear(width, out)
        linear.weight.data = torch.tensor(params[f"linear{n}"]["kernel"].T.copy())
        linear.bias.data = torch.tensor(params[f"linear{n}"]["bias"])
        layers.append(linear)
        if n < 3:
            if batch_norm:
                norm = nn.BatchNorm1d(out)
                norm.weight.data = torch.tensor(params[f"bn{n}"]["scale"])
                norm.bias.data = torch.tensor(params[f"bn{n}"]["bias"])
                layers.append(norm)
            layers.append(nn.GELU())
    last = nn.utils.parametrizations.weight_norm(nn.Linear(4, 7, bias=False))
    last.parametrizations.weight.original0.data.fill_(1)
    last.parametrizations.weight.original1.data = torch.tensor(params["prototypes"].T.copy())
    given = torch.tensor(x, requires_grad=True)
    want = last(nn.functional.normalize(nn.Sequential(*layers)(given), dim=-1))
    want.square().sum().backward()

    def of(x):
        added, _ = head.apply(
            {**variables, "params": params}, {"pooled": x}, train=True, mutable=["batch_stats"]
        )
        return jnp.square(added["similarities"]).sum(), added["similarities"]

    gradient, got = jax.grad(of, has_aux=True)(jnp.asarray(x))
    np.testing.assert_allclose(got, want.detach().numpy(), rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(gradient, given.grad.numpy(), rtol=1e-3, atol=1e-4)


def test_outputs_are_cosines_whatever_the_length_of_the_prototypes():
    head = PrototypeHead(prototypes=5, hidden=8, bottleneck=3, dtype=jnp.bfloat16)
    features = {"pooled": jnp.asarray(np.random.default_rng(0).standard_normal((4, 6)), jnp.float32)}
    params = head.init(jax.random.key(0), features, train=False)["params"]
    got = head.apply({"params": params}, features, train=False)["similarities"]
    longer = params | {"prototypes": 8 * params["prototypes"]}
    np.testing.assert_array_equal(head.apply({"params": longer}, features, train=False)["similarities"], got)
    assert got.dtype == jnp.float32
    assert np.abs(got).max() <= 1.01
