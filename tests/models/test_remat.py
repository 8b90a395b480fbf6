"""`remat` changes what is kept for the backward pass and nothing else."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from seed_jax import models
from seed_jax.models import cifar_resnet, efficientnet, fd_vit, mobilenetv3, resnet, swin, swinv2, vit, wrn
from seed_jax.weights import saving
from seed_jax.weights.recognition import Recognised

BLOCKS = (
    mobilenetv3.Block(3, 1, 8, True, "relu", 1),
    mobilenetv3.Block(3, 2, 8, True, "h_swish", 2),
    mobilenetv3.Block(3, 2, 8, False, "h_swish", 1),
)
MODULES = {
    "resnet": resnet.ResNet(resnet.BasicBlock, (1, 1), width=0.125, small_stem=True, bn_group=2),
    "bottleneck": resnet.ResNet(resnet.Bottleneck, (1,), width=0.125, small_stem=True),
    "mobilenetv3": mobilenetv3.MobileNetV3(BLOCKS, 16, se_last=False, dropout=0.3),
    "efficientnet": efficientnet.EfficientNet(0.25, 1.0, 16, False, small_stem=True, drop_path=0.5),
    "cifar_resnet": cifar_resnet.CifarResNet(1, (8, 8, 16, 16)),
    "wrn": wrn.WideResNet(1, 1),
    "vit": vit.VisionTransformer(8, 4, heads=2, patch=4, image_size=8, drop_path=0.5),
    "swinv2": swinv2.SwinTransformerV2(8, (2,), (2,), 2, 8, 2, drop_path=0.5, fd_init=True, extra_norm=2),
    "swin": swin.SwinTransformer(8, (2,), (2,), 2, 8, 2, drop_path=0.5),
    "fd_vit": fd_vit.FDVisionTransformer(8, 4, heads=2, patch=4, image_size=8, drop_path=0.5),
}

SOON = {"resnet", "mobilenetv3", "vit", "swin"}  # the others are run by `-m long`

# tests/conftest.py chooses emitters that compile faster and round two forms of one network further apart.
USUAL = {"xla_cpu_use_fusion_emitters": True}


@pytest.mark.parametrize(
    "name", [name if name in SOON else pytest.param(name, marks=pytest.mark.long) for name in MODULES]
)
def test_same_loss_gradients_and_statistics_from_fewer_kept_bytes(name, monkeypatch):
    monkeypatch.setattr(efficientnet, "STAGES", efficientnet.STAGES[:2])
    x = jax.random.uniform(jax.random.key(1), (4, 8, 8, 3))
    keys = jax.random.split(jax.random.key(2), 4)
    plain = models.LinenNetwork(MODULES[name])
    remat = models.LinenNetwork(MODULES[name].clone(remat=True))
    variables = jax.jit(plain.init)(jax.random.key(0), x)
    params, state = variables["params"], {k: tree for k, tree in variables.items() if k != "params"}

    def loss(network, params):
        features, new_state = network.apply({"params": params, **state}, x, train=True, keys=keys)
        return jnp.square(features["pooled"]).sum() + features["stage1"].sum(), new_state

    def kept(network):
        def residuals(params):
            return jax.tree.leaves(jax.vjp(functools.partial(loss, network), params, has_aux=True)[1])

        return sum(leaf.size * leaf.dtype.itemsize for leaf in jax.eval_shape(residuals, params))

    assert kept(remat) < 0.7 * kept(plain)

    def gradient(network):
        function = jax.value_and_grad(functools.partial(loss, network), has_aux=True)
        return jax.jit(function, compiler_options=USUAL)(params)

    want, got = map(gradient, (plain, remat))
    assert jax.tree.structure(got) == jax.tree.structure(want)

    def close(got, want):  # to rounding of the largest value
        np.testing.assert_allclose(got, want, rtol=1e-4, atol=1e-5 * np.abs(want).max())

    jax.tree.map(close, got, want)
    fresh = jax.eval_shape(remat.init, jax.random.key(0), x)
    assert jax.tree.structure(fresh) == jax.tree.structure(variables)


def test_eval_mode_is_the_same_program():
    x = jnp.zeros((1, 8, 8, 3))
    plain = models.LinenNetwork(MODULES["vit"])
    remat = models.LinenNetwork(MODULES["vit"].clone(remat=True))
    variables = jax.eval_shape(plain.init, jax.random.key(0), x)
    programs = [
        str(jax.make_jaxpr(lambda v, network=network: network.apply(v, x, False))(variables))
        for network in (plain, remat)
    ]
    assert programs[0] == programs[1]


def test_a_trained_network_can_be_exported_as_without_remat():
    network = models.create("resnet18", width=0.125)
    shapes = jax.eval_shape(network.init, jax.random.key(0), jnp.zeros((1, 32, 32, 3)))
    variables = {
        collection: {"backbone": jax.tree.map(lambda leaf: np.zeros(leaf.shape, np.float32), tree)}
        for collection, tree in shapes.items()
    }
    names = [
        saving.offered(Recognised("resnet", "resnet18", options, None, "torchvision"), variables).keys()
        for options in ({"width": 0.125}, {"width": 0.125, "remat": True})
    ]
    assert names[0] == names[1] >= {"torchvision", "moco"}
