"""The symmetry loss of attention transfer on whole architectures: its second derivatives are PyTorch's."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from seed_jax import losses, models, weights
from seed_jax.weights import Recognised

torch = pytest.importorskip("torch")
import torch_nets  # noqa: E402
from safetensors.torch import load_file  # noqa: E402

LABEL = np.array([1, 2])


@pytest.mark.long
def test_resnet_with_batch_norm_and_max_pooling(tmp_path):
    torch.manual_seed(0)
    net = torch_nets.randomise(torch_nets.ResNet(18, 8, fc=torch.nn.Linear(64, 3)))
    torch.save(net.state_dict(), tmp_path / "weights.pth")
    recognised = Recognised("resnet", "resnet18", {"width": 0.125, "num_classes": 3}, None, "")
    network = recognised.network()
    variables = weights.load(tmp_path / "weights.pth", network)
    x = np.random.default_rng(0).random((2, 32, 32, 3), np.float32)

    def total(params):
        def ce(x):
            logits = network.apply(variables | {"params": params}, x, False)[0]["logits"]
            return optax.softmax_cross_entropy_with_integer_labels(logits, LABEL).sum()

        mirrored = jax.grad(ce)(jnp.asarray(x[:, :, ::-1]))[:, :, ::-1]
        return losses.input_gradient_loss(jax.grad(ce)(jnp.asarray(x)), mirrored).sum()

    value, gradient = jax.jit(jax.value_and_grad(total))(variables["params"])

    net = net.double()
    mean, std = (torch.tensor(v).double().view(3, 1, 1) for v in (models.IMAGENET_MEAN, models.IMAGENET_STD))

    def by_pixels(x):
        x = x.clone().requires_grad_()
        ce = torch.nn.functional.cross_entropy(net((x - mean) / std), torch.tensor(LABEL), reduction="sum")
        return torch.autograd.grad(ce, x, create_graph=True)[0]

    pixels = torch.tensor(x).double().permute(0, 3, 1, 2)
    difference = by_pixels(pixels) - by_pixels(pixels.flip(3)).flip(3)
    want = (difference.flatten(1).norm(dim=1) / 2).sum()
    want.backward()
    np.testing.assert_allclose(value, want.item(), rtol=1e-4)
    weights.save(variables | {"params": gradient}, recognised, tmp_path / "gradient.safetensors")
    ours = load_file(tmp_path / "gradient.safetensors")
    for name, parameter in net.named_parameters():
        theirs = torch.zeros_like(parameter) if parameter.grad is None else parameter.grad
        error = (ours[name] - theirs).norm() / theirs.norm().clamp(min=1e-6)
        assert error < 1e-3, (name, error)
