"""Sections of convolutional networks compute what the whole computes, and read only their own parameters."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from seed_jax import models
from seed_jax.models.exits import Exit
from seed_jax.models.network import Joined
from seed_jax.models.sections import Cut, Section


def drawn(network, side):
    """Variables with no value at its default, and images."""
    numbers = np.random.default_rng(0)
    images = numbers.random((3, side, side, 3), np.float32)
    shapes = jax.eval_shape(network.init, jax.random.key(0), images)

    def draw(leaf):
        return numbers.uniform(0.05, 0.15, leaf.shape).astype(np.float32)

    return jax.tree.map(draw, shapes), images


@pytest.mark.parametrize(
    ("model", "options"),
    [
        ("resnet18", {"width": 0.125, "small_stem": True}),
        ("cifar_resnet8", {}),
        ("wrn_16_1", {}),
        ("vgg8", {}),
        pytest.param("shufflenetv2", {}, marks=pytest.mark.long),
        pytest.param("mobilenetv2_half", {}, marks=pytest.mark.long),
        pytest.param("efficientnet_lite0", {}, marks=pytest.mark.long),
        pytest.param("mobilenetv3_small", {"width": 0.25}, marks=pytest.mark.long),
    ],
)
def test_sections_in_a_row_are_the_whole_network(model, options):
    network = models.create(model, num_classes=5, **options)
    variables, images = drawn(network, 32)
    whole, _ = jax.jit(lambda v, x: network.apply(v, x, False))(variables, images)
    stages = [name for name in sorted(whole) if name.startswith("stage")]
    x, seen = images, []
    for start, end in zip(["", *stages], [*stages, "logits"], strict=True):
        section = Section(network, 32, (end,), start)
        own = section.keep(variables)
        x = jax.jit(section)(own, x)[end]
        np.testing.assert_allclose(x, whole[end], rtol=1e-5, atol=1e-6 * float(jnp.abs(whole[end]).max()))
        seen += jax.tree.leaves_with_path(own)
    assert len(seen) == len({path for path, _ in seen}) == len(jax.tree.leaves(variables))


def test_a_cut_network_ends_at_its_exit():
    backbone = models.create("cifar_resnet8")
    network = Joined(backbone, {"exit1": Exit(1, (2, 2), 16, 5), "exit2": Exit(2, (2,), 16, 5)})
    variables, images = drawn(network, 16)
    cut = Cut(network.backbone, network.parts, ends={"logits": "exit1_logits"})
    kept = Section(network, 16, ("exit1_logits",)).keep(variables)
    assert set(kept["params"]) == {"backbone", "exit1"}
    assert set(kept["params"]["backbone"]) == {"conv1", "bn1", "layer1_0"}
    features, state = cut.apply(kept, images, False)
    assert list(features) == ["logits"] and set(state) == {"batch_stats"}
    want, _ = network.apply(variables, images, False)
    np.testing.assert_allclose(features["logits"], want["exit1_logits"], rtol=1e-6)
    fresh = jax.eval_shape(cut.init, jax.random.key(0), images)
    assert jax.tree.map(jnp.shape, fresh) == jax.tree.map(jnp.shape, kept)


def test_a_start_that_does_not_suffice_is_an_error():
    network = models.create("cifar_resnet8")
    variables, _ = drawn(network, 16)
    with pytest.raises(ValueError, match="stage1 depend on more of the image than stage2"):
        Section(network, 16, ("stage1",), "stage2")(variables, jnp.ones((1, 8, 8, 32)))
