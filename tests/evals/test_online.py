"""Evaluators, the probe during training and the final one, on networks whose features are known."""

import dataclasses
import sys

import jax.numpy as jnp
import numpy as np
import pytest
from absl import flags
from ml_collections import config_flags
from sklearn.neighbors import KNeighborsClassifier

from seed_jax import config, parallel
from seed_jax.config import Data
from seed_jax.data.images import BadImage
from seed_jax.data.pipeline import eval_batches
from seed_jax.data.sources import Arrays, Subset, open_source
from seed_jax.errors import UserError
from seed_jax.evals import EVALUATORS, base, final
from seed_jax.evals.online import OnlineProbe, check_bank, evenly, unlabelled
from seed_jax.train import inputs


@dataclasses.dataclass(frozen=True)
class Pixels:
    """Features are the pixels minus their mean; the classifier always answers 3."""

    def apply(self, variables, x, train, keys=None):
        flat = x.reshape(x.shape[0], -1)
        logits = jnp.zeros((x.shape[0], 10)).at[:, 3].set(1.0)
        return {"pooled": flat - flat.mean(axis=1, keepdims=True), "logits": logits}, {}


def resolved(**evals):
    raw = config.default("seed")
    raw.data.source, raw.data.image_size, raw.data.resize = "digits", 32, 1.0
    raw.train.epochs = 1.0
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


@dataclasses.dataclass(frozen=True)
class TwoClassifiers(Pixels):
    """`Pixels` with an early exit that always answers 7, and with a classifier of other classes."""

    def apply(self, variables, x, train, keys=None):
        features, state = super().apply(variables, x, train, keys)
        exit1 = jnp.zeros((x.shape[0], 10)).at[:, 7].set(1.0)
        return features | {"exit1_logits": exit1, "imagenet_logits": jnp.zeros((x.shape[0], 1000))}, state


def digits_probe(network, **evals):
    bank, queries = open_source("digits", "train"), open_source("digits", "val")
    return OnlineProbe(network, VARIABLES, parallel.make_mesh(), resolved(**evals), bank, queries)


def test_each_classifier_of_these_classes_has_a_score():
    scores = digits_probe(TwoClassifiers(), names=("top1",))(VARIABLES)
    labels = open_source("digits", "val").labels()
    assert scores == {"top1": np.mean(labels == 3), "exit1_top1": np.mean(labels == 7)}


class Toy:
    """The largest label of the bank, and the share of queries with a negative feature."""

    def __init__(self, features, evals):
        self.features, self.entry = features, evals.feature
        features.want("bank", evals.feature)
        features.want("queries", evals.feature)

    def run(self, variables):
        _, bank_labels = self.features.get("bank", variables)
        queries, _ = self.features.get("queries", variables)
        negative = (queries[self.entry] < 0).any(axis=1)
        return {"largest_label": int(bank_labels.max()), "negative": float(negative.mean())}


def test_a_new_evaluator_is_one_entry_of_the_table(monkeypatch):
    with pytest.raises(UserError, match="Unknown evals.names 'toy'"):
        resolved(names=("toy",))
    monkeypatch.setitem(EVALUATORS, "toy", Toy)
    assert digits_probe(Pixels(), names=("toy",))(VARIABLES) == {"largest_label": 9, "negative": 1.0}


def test_each_split_passes_through_the_network_once(monkeypatch):
    monkeypatch.setitem(EVALUATORS, "toy", Toy)
    lengths = []

    def batches(source, *args, **options):
        lengths.append(len(source))
        return eval_batches(source, *args, **options)

    monkeypatch.setattr(base, "eval_batches", batches)
    probe = digits_probe(Pixels(), names=("knn", "top1", "toy"), bank_size=50)
    for probes in (1, 2):
        assert set(probe(VARIABLES)) == {"knn", "top1", "largest_label", "negative"}
        assert sorted(lengths) == sorted([50, len(open_source("digits", "val"))] * probes)


def test_features_belong_to_the_variables():
    class Scaled(Pixels):
        def apply(self, variables, x, train, keys=None):
            return {"pooled": variables["scale"] * jnp.ones((x.shape[0], 2))}, {}

    one, two = ({"scale": np.float32(scale)} for scale in (1, 2))
    val = open_source("digits", "val")
    features = base.SharedFeatures(Scaled(), one, parallel.make_mesh(), resolved(), {"queries": val})
    features.want("queries", "pooled")
    for variables in (one, two, one):
        found, labels = features.get("queries", variables)
        np.testing.assert_array_equal(found["pooled"], np.full((len(val), 2), variables["scale"]))
        np.testing.assert_array_equal(labels, val.labels())


def test_a_stopped_probe_has_no_scores_and_the_next_one_is_whole():
    probe = digits_probe(Pixels(), batch_size=64)
    whole = probe(VARIABLES)
    answers = iter([False, False, True])
    with pytest.raises(base.Abandoned):
        probe(VARIABLES, lambda: next(answers))
    assert probe(VARIABLES) == whole


@pytest.mark.parametrize(
    ("argument", "names"),
    [("top1", ("top1",)), ("", ()), ("()", ()), ("knn,top1", ("knn", "top1")), ("('knn',)", ("knn",))],
)
def test_names_on_the_command_line(monkeypatch, argument, names):
    command = ["main.py", f"--config.evals.names={argument}", "--config.train.epochs=1.0"]
    monkeypatch.setattr(sys, "argv", command)  # which ml_collections reads
    values = flags.FlagValues()
    config_flags.DEFINE_config_dict("config", config.default("moco"), flag_values=values)
    values(command)
    assert config.resolve(values["config"].value).evals.names == names


def test_a_misspelt_evaluator_is_named():
    with pytest.raises(UserError, match="Unknown evals.names 'top2': did you mean 'top1'"):
        resolved(names=("knn", "top2"))


def test_without_evaluators_or_features_there_is_nothing_to_run():
    class Embedding(Pixels):
        def apply(self, variables, x, train, keys=None):
            features, state = super().apply(variables, x, train, keys)
            return {"pooled": features["pooled"]}, state

    assert digits_probe(Pixels(), names=())(VARIABLES) == {}
    assert digits_probe(Embedding(), names=("top1",))(VARIABLES) == {}


def test_final_probe_reports_the_test_split():
    found = final.score_network(TwoClassifiers(), VARIABLES, resolved(k=1))
    scores = found.percent()
    assert set(scores) == {"parameters", "knn", "linear", "top1", "exit1_top1"}
    want = KNeighborsClassifier(1).fit(*pixels("train")).score(*pixels("test"))
    np.testing.assert_allclose(scores["knn"], 100 * want)
    np.testing.assert_allclose(scores["top1"], 100 * np.mean(pixels("test")[1] == 3))
    np.testing.assert_allclose(scores["exit1_top1"], 100 * np.mean(pixels("test")[1] == 7))
    assert scores["linear"] > 90
    assert (scores["parameters"], found.split, found.note) == (5, "test", "")


def test_the_final_probe_notes_that_one_split_serves_for_choices_and_scores():
    c = resolved(k=1, bank_size=50)
    c = dataclasses.replace(c, data=dataclasses.replace(c.data, test="val"))
    note = final.score_network(Pixels(), VARIABLES, c).note
    assert note.startswith("digits: one split, val, serves as val and as test, so the best checkpoint")
    note = final.score_network(Pixels(), VARIABLES, resolved(k=1, bank_size=50), "val").note
    assert note.startswith("digits: one split, val, is scored, so the best checkpoint")


def test_an_unknown_feature_is_named():
    train = open_source("digits", "train")
    with pytest.raises(
        UserError,
        match="evals.feature is 'poold', but the vectors that the network returns are logits, pooled",
    ):
        OnlineProbe(Pixels(), VARIABLES, parallel.make_mesh(), resolved(feature="poold"), train, train)


@pytest.mark.parametrize("key", ["train", "bank"])
@pytest.mark.parametrize("split", ["all", "val", "test"])
def test_a_bank_that_contains_the_queries_is_refused(key, split):
    raw = config.default("moco")
    raw.train.epochs = 1.0
    raw.data[key] = split
    with pytest.raises(UserError, match=f"data.{key} is '{split}'.*--config.data.{key}=train"):
        inputs.open_all(config.resolve(raw))
    raw.evals.names = ("top1",)
    inputs.open_all(config.resolve(raw))


def test_a_bank_is_compared_by_images_and_not_by_names():
    whole = open_source("digits", "all")
    bank, scored = Subset(whole, np.arange(50)), Subset(whole, np.arange(50, 80))
    data = Data(train="train")
    check_bank(data, bank, scored)
    with pytest.raises(UserError, match="data.train is 'train', which contains images of data.val or data"):
        check_bank(data, bank, scored, Subset(whole, np.arange(49, 52)))


@pytest.mark.parametrize(("train", "seen"), [("all", "352 of the 352"), ("train+test", "352 of the 352")])
def test_images_that_a_run_trained_on_are_not_scored(train, seen):
    c = resolved(k=1)
    c = dataclasses.replace(c, data=dataclasses.replace(c.data, train=train, bank="train"))
    with pytest.raises(UserError, match=f"The run trained on {seen} images of data.test"):
        final.score_network(Pixels(), VARIABLES, c)


def test_an_image_without_a_label_counts_if_it_can_be_read():
    images = np.zeros((4, 8, 8, 3), np.uint8)
    source = Arrays("made", images, np.array([0, -1, 1, -1]))
    assert unlabelled(source) == 1

    class Damaged(Subset):
        def __getitem__(self, i):
            raise BadImage("damaged")

    assert unlabelled(Damaged(source, np.arange(4))) is None
    assert unlabelled(Subset(source, np.array([0, 2]))) is None


def test_evenly_spaced_bank():
    source = open_source("digits", "val")
    assert evenly(source, 0) is source
    few = evenly(source, 5)
    assert [few[i].id for i in range(5)] == [
        source[i].id for i in np.linspace(0, len(source) - 1, 5).astype(int)
    ]
