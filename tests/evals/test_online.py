"""The probe during training and the one that is reported, on a network whose features are known."""

import dataclasses

import jax.numpy as jnp
import numpy as np
import pytest
from sklearn.neighbors import KNeighborsClassifier

from seed_jax import config, parallel
from seed_jax.data.sources import open_source
from seed_jax.errors import UserError
from seed_jax.evals import final
from seed_jax.evals.online import OnlineProbe, evenly
from seed_jax.train import build


@dataclasses.dataclass(frozen=True)
class Pixels:
    """Features are the pixels, less their mean; the classifier always answers 3."""

    def apply(self, variables, x, train, keys=None):
        flat = x.reshape(x.shape[0], -1)
        logits = jnp.zeros((x.shape[0], 10)).at[:, 3].set(1.0)
        return {"pooled": flat - flat.mean(axis=1, keepdims=True), "logits": logits}, {}


def resolved(**evals):
    raw = config.default("seed")
    raw.data.source, raw.data.image_size, raw.train.epochs = "digits", 32, 1.0
    raw.evals.update(evals)
    return config.resolve(raw)


def pixels(split):
    source = open_source("digits", split)
    flat = np.stack([source[i].image for i in range(len(source))]).reshape(len(source), -1) / 255.0
    flat -= flat.mean(axis=1, keepdims=True)
    return flat / np.linalg.norm(flat, axis=1, keepdims=True), source.labels()


VARIABLES = {"params": {"backbone": {"w": jnp.zeros(5)}}}


def test_online_probe_equals_sklearn():
    c = resolved(k=1, batch_size=100)
    probe = OnlineProbe(
        Pixels(),
        VARIABLES,
        parallel.make_mesh(),
        c,
        open_source("digits", "train"),
        open_source("digits", "val"),
    )
    scores = probe(VARIABLES)
    want = KNeighborsClassifier(1).fit(*pixels("train")).score(*pixels("val"))
    np.testing.assert_allclose(scores["knn"], want)
    np.testing.assert_allclose(scores["top1"], np.mean(pixels("val")[1] == 3))


def test_final_probe_reports_the_test_split():
    scores = final.probe(Pixels(), VARIABLES, resolved(k=1))
    want = KNeighborsClassifier(1).fit(*pixels("train")).score(*pixels("test"))
    np.testing.assert_allclose(scores["knn"], 100 * want)
    np.testing.assert_allclose(scores["top1"], 100 * np.mean(pixels("test")[1] == 3))
    assert scores["linear"] > 90
    assert scores["parameters"] == 5


def test_unknown_feature_is_told():
    train = open_source("digits", "train")
    with pytest.raises(UserError, match="evals.feature is 'poold', but the network gives logits, pooled"):
        OnlineProbe(Pixels(), VARIABLES, parallel.make_mesh(), resolved(feature="poold"), train, train)


@pytest.mark.parametrize("key", ["train", "bank"])
@pytest.mark.parametrize("split", ["all", "val", "test"])
def test_a_bank_with_the_images_it_is_asked_about_is_refused(key, split):
    raw = config.default("moco")
    raw.train.epochs = 1.0
    raw.data[key] = split
    with pytest.raises(UserError, match=f"data.{key} is '{split}'.*--config.data.{key}=train"):
        build.open_inputs(config.resolve(raw))
    raw.evals.knn = False
    build.open_inputs(config.resolve(raw))


def test_evenly_spaced_bank():
    source = open_source("digits", "val")
    assert evenly(source, 0) is source
    few = evenly(source, 5)
    assert [few[i].id for i in range(5)] == [
        source[i].id for i in np.linspace(0, len(source) - 1, 5).astype(int)
    ]
