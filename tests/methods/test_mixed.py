"""Labels of mixed images: by hand, and of images that show which label they have."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from fake import CLOCK, batch

from seed_jax import config
from seed_jax.data import mixing
from seed_jax.errors import UserError
from seed_jax.methods import mixed
from seed_jax.methods.base import Nets
from seed_jax.methods.supervised import Supervised


class Logits:
    """Answers with fixed logits."""

    def __init__(self, logits):
        self.logits = logits

    def apply(self, variables, x, train, keys=None):
        return {"logits": jnp.asarray(self.logits)}, {}


@pytest.mark.parametrize("kind", ["mixup", "cutmix", "either"])
def test_the_share_of_each_label_is_that_of_its_pixels(kind):
    """Image i has the colour of its label, so its mean colour is the mean of its labels."""
    label = jnp.arange(8)
    images = jnp.broadcast_to(label.reshape(-1, 1, 1, 1) / 8, (8, 16, 16, 3))
    for seed in range(3):
        x, over_labels = mixed.mix(kind, images, label, jax.random.key(seed))
        means = over_labels(lambda y: y.astype(jnp.float32))
        np.testing.assert_allclose(8 * x.mean(axis=(1, 2, 3)), means, rtol=1e-5, atol=1e-5)
        assert np.abs(means - label).max() > 0


def test_either_is_mixup_or_cutmix_with_one_share_for_the_batch():
    """CutMix keeps the values of the pixels, mixup makes others; the shares are Beta(1, 1) and (0.8, 0.8)."""
    images = jax.random.uniform(jax.random.key(7), (4, 8, 8, 3))
    mix = jax.jit(lambda key: mixed.MIXES["either"](images, key))
    drawn = [mix(jax.random.key(seed)) for seed in range(60)]
    pasted = np.array([np.isin(x.images, images).all() for x in drawn])
    assert 15 <= pasted.sum() <= 45
    weights = np.array([x.weight for x in drawn])
    np.testing.assert_array_equal(weights, weights[:, :1].repeat(4, 1))
    assert weights[pasted].std() > 0.1
    np.testing.assert_allclose(weights[~pasted].std(), 0.31, atol=0.08)  # of Beta(0.8, 0.8)


def test_smoothed_targets_of_mixed_images():
    """timm/data/mixup.py, by hand: lam y1 + (1 - lam) y2, each 1 - s + s / C for its class and s / C else."""
    seen, logits = batch(8, side=4), np.random.default_rng(1).standard_normal((8, 4)).astype(np.float32)
    key = jax.random.key(5)
    method = Supervised(mix="either", smoothing=0.1)
    value, _ = method.loss(Nets(Logits(logits), None), {}, {}, {}, seen, CLOCK, key)
    pair = mixed.MIXES["either"](seen.views[0][:, 0], key)
    smooth = np.where(np.eye(4)[np.asarray(seen.label)] > 0, 0.925, 0.025)
    w = np.float64(pair.weight)[:, None]
    targets = w * smooth + (1 - w) * smooth[np.asarray(pair.partner)]
    log_p = logits - np.log(np.exp(np.float64(logits)).sum(axis=1, keepdims=True))
    np.testing.assert_allclose(value, -(targets * log_p).sum(axis=1).mean(), rtol=1e-5)


def test_without_mixing_nothing_is_drawn():
    x, over_labels = mixed.mix("", jnp.ones((2, 4, 4, 3)), jnp.array([3, 5]), None)
    assert x.shape == (2, 4, 4, 3)
    np.testing.assert_array_equal(over_labels(lambda y: y), [3, 5])


def test_a_last_batch_of_one_image_is_left_as_it_is():
    image = jnp.full((1, 4, 4, 3), 0.25)
    for kind in mixed.MIXES:
        x, over_labels = mixed.mix(kind, image, jnp.array([3]), jax.random.key(0))
        np.testing.assert_array_equal(x, image)
        np.testing.assert_array_equal(over_labels(lambda y: y), [3])


def test_supervised_training_mixes():
    seen, logits = batch(8, side=4), np.random.default_rng(1).standard_normal((8, 4)).astype(np.float32)
    key = jax.random.key(5)
    value, out = Supervised(mix="mixup").loss(Nets(Logits(logits), None), {}, {}, {}, seen, CLOCK, key)
    pair = mixing.mixup(seen.views[0][:, 0], key, alpha=0.2)
    targets = np.eye(4)[np.asarray(seen.label)]
    w = np.float64(pair.weight)[:, None]
    targets = w * targets + (1 - w) * targets[np.asarray(pair.partner)]
    log_p = logits - np.log(np.exp(np.float64(logits)).sum(axis=1, keepdims=True))
    np.testing.assert_allclose(value, -(targets * log_p).sum(axis=1).mean(), rtol=1e-5)
    right = targets[np.arange(8), logits.argmax(axis=1)]
    np.testing.assert_allclose(out.metrics["accuracy"], right, rtol=1e-5, atol=1e-7)
    assert Supervised().whole_batch() == "" and "mixes" in Supervised(mix="mixup").whole_batch()


def test_one_image_cannot_be_mixed():
    raw = config.default("supervised")
    raw.train.steps, raw.data.batch_size, raw.method.mix = 1, 1, "mixup"
    raw.train.bn_group = 0
    with pytest.raises(UserError, match="method.mix is 'mixup', which needs two images, and data.batch_size"):
        config.resolve(raw)
    raw.data.batch_size, raw.method.mix = 2, "mixcut"
    with pytest.raises(UserError, match="Unknown method.mix 'mixcut'"):
        config.resolve(raw)
