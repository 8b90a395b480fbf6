"""The section on landscapes: its centre against the network itself, points by hand, what is left out."""

import types

import jax
import numpy as np
import pytest
import tiny
import torch
from torch.nn import functional as F

from seed_jax import models
from seed_jax.analysis import filter_normalised_direction
from seed_jax.analysis.runs import Lacking, Options
from seed_jax.analysis.sections import landscape
from seed_jax.analysis.sections.scoring import KEPT, RECOMPUTED
from seed_jax.models.heads import Classifier
from seed_jax.models.network import IMAGENET_MEAN, IMAGENET_STD, Joined
from seed_jax.report import html

CLASSES, SIDE, BATCH = 3, 8, 8
DRAW = np.random.default_rng(0)
IMAGES = DRAW.integers(0, 256, (20, SIDE, SIDE, 3), np.uint8)
LABELS = np.where(np.arange(20) == 4, -1, np.arange(20) % CLASSES)


def network(classes=CLASSES):
    return Joined(models.LinenNetwork(tiny.Tiny(features=4)), {"classifier": Classifier(classes)})


def run(net, name="runs/a"):
    """What the section asks of an `Opened`; the variables are random."""
    shapes = jax.eval_shape(net.init, jax.random.key(0), np.zeros((1, SIDE, SIDE, 3), np.float32))
    variables = jax.tree.map(lambda x: DRAW.uniform(0.1, 0.5, x.shape).astype(np.float32), shapes)
    source = types.SimpleNamespace(labels=lambda: LABELS)
    features = jax.eval_shape(lambda v: net.apply(v, IMAGES[:2] / np.float32(255), False)[0], variables)
    return types.SimpleNamespace(
        name=name,
        served=(net, variables),
        train=IMAGES,
        given=types.SimpleNamespace(num_classes=CLASSES),
        config=types.SimpleNamespace(data=types.SimpleNamespace(batch_size=BATCH)),
        entries=lambda network, variables: features,
        source=lambda split, count: source,
        images=lambda split, count: types.SimpleNamespace(image=IMAGES, label=LABELS),
    )


def scores(logits):
    """Loss and accuracy on the labelled images, in float64."""
    has = LABELS >= 0
    logits, labels = np.float64(logits)[has], LABELS[has]
    losses = np.log(np.exp(logits).sum(axis=1)) - logits[np.arange(len(labels)), labels]
    return losses.mean(), (logits.argmax(axis=1) == labels).mean()


def test_the_centre_and_a_point_are_those_of_the_network(tmp_path):
    net = network()
    opened, logits = run(net), jax.jit(lambda v: net.apply(v, IMAGES / np.float32(255), False)[0]["logits"])
    found = landscape.surfaces(opened, Options(tmp_path, draws=2, points=5, seed=3))
    assert found.keys() == {KEPT, RECOMPUTED}
    kept = found[KEPT]
    assert kept.loss.shape == (2, 5) and kept.plane_accuracy.shape == (5, 5)
    loss, accuracy = scores(logits(opened.served[1]))
    np.testing.assert_allclose(kept.loss[:, 2], loss, rtol=1e-4)
    np.testing.assert_allclose(kept.accuracy[:, 2], accuracy)
    np.testing.assert_allclose(kept.plane_loss[2, 2], loss, rtol=1e-4)
    params = opened.served[1]["params"]
    key = jax.random.fold_in(jax.random.key(3), 1)
    direction = jax.jit(filter_normalised_direction)(key, params)
    moved = jax.tree.map(lambda p, d: p + np.float32(0.5) * np.asarray(d), params, direction)
    loss, accuracy = scores(logits(opened.served[1] | {"params": moved}))
    np.testing.assert_allclose(kept.loss[1, 3], loss, rtol=1e-4)
    np.testing.assert_allclose(kept.accuracy[1, 3], accuracy)
    for surface in found.values():  # the axes of the plane are the first two lines
        np.testing.assert_allclose(surface.plane_loss[:, 2], surface.loss[0], rtol=1e-5)
        np.testing.assert_allclose(surface.plane_loss[2], surface.loss[1], rtol=1e-5)
    assert np.abs(found[RECOMPUTED].loss - kept.loss).max() > 0.01
    loss, accuracy = scores(recomputed_by_hand(moved))
    np.testing.assert_allclose(found[RECOMPUTED].loss[1, 3], loss, rtol=1e-4)
    np.testing.assert_allclose(found[RECOMPUTED].accuracy[1, 3], accuracy)


def recomputed_by_hand(params):
    """Logits of `IMAGES` in torch, float64, with the mean of the statistics of the two whole batches."""

    def tensor(x):
        return torch.from_numpy(np.array(x, np.float64))

    def forward(x, statistics):
        """Logits, and the mean and unbiased variance of what each norm gets; without statistics, by those."""
        seen = {}
        for i in (1, 2):
            kernel, norm = (params["backbone"][f"{name}{i}"] for name in ("conv", "bn"))
            x = F.conv2d(x, tensor(kernel["kernel"]).permute(3, 2, 0, 1), stride=2, padding=1)
            values = x.movedim(1, -1).reshape(-1, x.shape[1])
            seen[i] = values.mean(dim=0), values.var(dim=0)
            mean, var = statistics[i] if statistics else (seen[i][0], values.var(dim=0, correction=0))
            x = F.batch_norm(x, mean, var, tensor(norm["scale"]), tensor(norm["bias"]), eps=1e-5).relu()
        fc = params["classifier"]["fc"]
        return x.mean(dim=(2, 3)) @ tensor(fc["kernel"]) + tensor(fc["bias"]), seen

    mean, std = (tensor(x) for x in (IMAGENET_MEAN, IMAGENET_STD))
    images = ((tensor(IMAGES) / 255 - mean) / std).movedim(3, 1)
    batches = [forward(images[begin : begin + BATCH], None)[1] for begin in (0, BATCH)]
    averaged = {i: [sum(x) / 2 for x in zip(*(batch[i] for batch in batches), strict=True)] for i in (1, 2)}
    return forward(images, averaged)[0].numpy()


def flat(loss, accuracy=0.5):
    """A surface of two directions and three points."""
    return landscape.Surface(
        np.full((2, 3), loss), np.full((2, 3), accuracy), np.full((3, 3), loss), np.full((3, 3), accuracy)
    )


def test_the_page(tmp_path, monkeypatch):
    measured = {"runs/a": {KEPT: flat(0.5)}, "runs/b": {KEPT: flat(0.25), RECOMPUTED: flat(np.inf)}}
    monkeypatch.setattr(landscape, "surfaces", lambda opened, options: measured[opened.name])
    opened = [run(network()), run(network(), "runs/b"), run(network(CLASSES + 1), "runs/c")]
    heading, lead, shown, *tables, notes = landscape.section(opened, Options(tmp_path, draws=2, points=3))
    assert heading.text == "Landscape" and "2 random directions" in lead.text
    names = [figure.name.removeprefix("landscape-") for figure in shown.figures]
    assert names == [
        *("loss-kept", "accuracy-kept", "loss-recomputed", "accuracy-recomputed", "planes"),
        *("run1-kept", "run2-kept", "run1-recomputed"),
    ]
    assert [len(table.table.rows) for table in tables] == [3, 3]
    assert notes.items == [
        "runs/c has no classifier of its data's classes, so there is no accuracy to measure."
    ]


def test_a_loss_that_is_not_finite_has_a_logarithm():
    got = landscape._logarithm(np.array([0.0, 100.0, np.nan, np.inf]))
    np.testing.assert_allclose(got, [-8, 2, 8, 8])


def test_runs_without_a_classifier(tmp_path):
    with pytest.raises(Lacking, match="has no classifier"):
        landscape.section([run(network(CLASSES + 1))], Options(tmp_path))


def test_the_table_has_accuracy_in_percent(tmp_path):
    table = landscape._table({KEPT: {"a": flat(0.5)}}, np.array([-1.0, 0.0, 1.0]), landscape.ACCURACY)
    assert isinstance(table, html.Details)
    assert table.table.rows == [[f"a, {KEPT}", [50.0, 50.0], [50.0, 50.0], [50.0, 50.0]]]
