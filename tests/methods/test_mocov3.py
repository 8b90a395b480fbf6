"""MoCo v3 against MoCo_ViT of facebookresearch/moco-v3, moco/builder.py, on one matrix product."""

import math

import jax.numpy as jnp
import numpy as np
import pytest
from siamese import pixels, train

from seed_jax import config, models
from seed_jax.config import Data
from seed_jax.errors import UserError
from seed_jax.methods.base import Given
from seed_jax.methods.mocov3 import MoCoV3

METHOD = MoCoV3(dim=4, hidden=8, momentum=0.9)


def test_four_steps_equal_the_released_code():
    """It ran in float64: loss, both encoders' first layer, and the running means of their first norm."""
    losses, params, out = train(METHOD, 4, 0.05, lambda n: (pixels(n, 0), pixels(n, 1)))
    np.testing.assert_allclose(losses, [5.26092538, 5.13364677, 4.75185438, 3.9006256], rtol=1e-4)
    query = [0.03088188, 0.88132977, -0.75035149, 0.65544924, -0.67728421, 0.84207687, -0.88536425]
    key = [0.0011696, 0.89256751, -0.77730663, 0.65081649, -0.69342931, 0.84119461, -0.88663387]
    np.testing.assert_allclose(params["backbone"]["w"][0], query, rtol=1e-3, atol=1e-4)
    ema = out.aux["ema"]
    np.testing.assert_allclose(ema["params"]["backbone"]["w"][0], key, rtol=1e-3, atol=1e-4)
    for stats, means in (
        (out.model_state, [0.44726188, 0.32604406, 0.17715791, 0.73037422]),
        (ema, [0.50434859, 0.39256666, 0.14331986, 0.78438529]),
    ):
        np.testing.assert_allclose(stats["batch_stats"]["head"]["bn1"]["mean"][:4], means, rtol=1e-3)
    assert set(ema["params"]) == {"backbone", "head"} == set(METHOD.served({"params": params}, {})["params"])
    assert out.metrics["positive_cosine"].shape == (6,)


def test_momentum_rises_along_half_a_cosine():
    """main_moco.py, adjust_moco_momentum."""
    for share in (0.0, 0.3, 1.0):
        want = 1 - 0.5 * (1 + math.cos(math.pi * share)) * (1 - 0.99)
        np.testing.assert_allclose(MoCoV3().momentum_at(jnp.float32(share)), want, rtol=1e-6)


def test_what_is_not_trained():
    """builder.py: last norms without scale and shift; vits.py: positions; patches by --stop-grad-conv1."""
    method = MoCoV3()
    for path in (("head", "bn3", "scale"), ("predictor", "bn2", "bias"), ("backbone", "pos_embed")):
        assert method.frozen(path)
    assert method.frozen(("backbone", "patch_embed", "kernel"))
    assert not MoCoV3(freeze_patches=False).frozen(("backbone", "patch_embed", "kernel"))
    for path in (("head", "bn2", "scale"), ("predictor", "bn1", "scale"), ("backbone", "cls_token")):
        assert not method.frozen(path)
    resnet = MoCoV3(layers=2, predictor_norm=False)
    assert resnet.frozen(("head", "bn2", "bias")) and not resnet.frozen(("predictor", "bn1", "bias"))


def test_positions_that_nobody_trains_must_not_be_random():
    of_run = Given(4, 0, 16, 10, 5)
    MoCoV3().network(models.create("vit_small", image_size=16, mocov3_init=True), of_run)
    with pytest.raises(UserError, match=r"use --config\.student\.options\.mocov3_init=True"):
        MoCoV3().network(models.create("vit_small", image_size=16), of_run)


def test_two_views_with_photometrics_of_their_own():
    first, second = MoCoV3().views(Data(photometric="dino", crop_scale=(0.08, 1.0)))
    assert (first.photometric, second.photometric) == ("dino", "dino_second")
    assert first.count == second.count == 1 and first.scale == second.scale == (0.08, 1.0)


@pytest.mark.parametrize(
    ("key", "value", "words"),
    [
        ("temperature", 0.0, r"method\.temperature is 0.0: use a value above 0"),
        ("momentum", 1.1, r"method\.momentum is 1.1: use 0 to 1"),
        ("layers", 0, r"method\.layers is 0: use 1 or more"),
        ("photometric_second", "dino_secnd", "did you mean 'dino_second'"),
    ],
)
def test_mistakes(key, value, words):
    assert MoCoV3().whole_batch()
    raw = config.default("mocov3")
    raw.train.steps, raw.method[key] = 1, value
    with pytest.raises(UserError, match=words):
        config.resolve(raw)
