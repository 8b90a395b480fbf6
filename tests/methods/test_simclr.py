"""SimCLR against objective.py and model_util.py of google-research/simclr, in float64."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from fake import CLOCK, FakeNetwork, batch, embed64, given

from seed_jax import config, models
from seed_jax.errors import UserError
from seed_jax.methods.base import Nets
from seed_jax.methods.mocov3 import MoCoV3
from seed_jax.methods.simclr import SimCLR

B, TAU = 5, 0.3


def direct(first, second):
    """Both views' losses, summed, mean over the images."""
    total = 0
    for z, other in ((first, second), (second, first)):
        for i in range(B):
            candidates = np.concatenate([other, np.delete(z, i, axis=0)])
            total += np.log(np.exp(candidates @ z[i] / TAU).sum()) - z[i] @ other[i] / TAU
    return total / B


def test_loss_of_both_views_from_one_forward():
    network, seen, method = FakeNetwork(4), batch(B, views=2), SimCLR(temperature=TAU)
    variables = network.init(jax.random.key(0), seen.views[0][:, 0])
    state = {"batch_stats": variables["batch_stats"]}
    value, out = method.loss(
        Nets(network, None), variables["params"], state, {}, seen, CLOCK, jax.random.key(1)
    )
    first, second = (embed64(variables["params"]["w"], seen.views[0][:, v]) for v in range(2))
    np.testing.assert_allclose(value, direct(first, second), rtol=1e-5)
    np.testing.assert_allclose(out.metrics["positive_cosine"], (first * second).sum(axis=1), rtol=1e-4)
    (call,) = network.calls
    assert call["train"] and call["x"].shape[0] == 2 * B
    assert len(np.unique(jax.random.key_data(call["keys"]), axis=0)) == 2 * B


def test_head_of_the_released_code():
    """model_util.py: no Linear has a bias, every one a norm, the last norm no shift: it stays at 0."""
    method = SimCLR()
    network = method.network(models.create("resnet18", width=0.125), given(4))
    image = jax.ShapeDtypeStruct((2, 32, 32, 3), jnp.float32)
    variables = jax.eval_shape(network.init, jax.random.key(0), image)
    head = variables["params"]["head"]
    for n in (1, 2, 3):
        assert set(head[f"linear{n}"]) == {"kernel"} and set(head[f"bn{n}"]) == {"scale", "bias"}
    assert [head[f"linear{n}"]["kernel"].shape[1] for n in (1, 2, 3)] == [64, 64, 128]
    assert method.frozen(("head", "bn3", "bias")) and not method.frozen(("head", "bn3", "scale"))
    assert not method.frozen(("head", "bn2", "bias"))


def test_micro_batches_and_values_that_mean_nothing_are_refused():
    assert SimCLR().whole_batch()
    for field, value in (("temperature", 0.0), ("dim", 0), ("layers", 0), ("hidden", -1)):
        raw = config.default("simclr")
        raw.train.steps, raw.method[field] = 1, value
        with pytest.raises(UserError, match=rf"method\.{field} is {value}: use"):
            config.resolve(raw)


@pytest.mark.parametrize("method", [SimCLR(), MoCoV3()])
def test_groups_that_tell_which_views_belong_together_are_noticed(method):
    for group, noticed in ((0, False), (None, False), (16, False), (8, True)):
        words = method.notice({}, dataclasses.replace(given(16), bn_group=group))
        assert ("use --config.train.bn_group=0" in words) == noticed
