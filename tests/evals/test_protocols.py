"""Protocols on features that are given, and the names of data sets."""

import jax
import numpy as np
import pytest

from seed_jax import parallel
from seed_jax.config import Data
from seed_jax.data.sources import Arrays, Subset
from seed_jax.errors import UserError
from seed_jax.evals import accuracy, images, linear, logistic, protocols, subject
from seed_jax.evals.transfer import Set

CLASSES = 5
SIZES = {"bank": 150, "val": 60, "test": 130}


def made(known=None, held_out=False):
    """A subject whose features are clusters; with `held_out` the scored images are also those of 'val'."""
    rng = np.random.default_rng(0)
    total = sum(SIZES.values())
    labels = np.arange(total) % CLASSES
    x = rng.standard_normal((CLASSES, 8))[labels] + 0.9 * rng.standard_normal((total, 8))
    whole = Arrays("made", np.zeros((total, 1, 1, 3), np.uint8), labels)
    opened = object.__new__(subject.Subject)
    opened.name, opened.feature, opened.notes = "made", "pooled", []
    opened.images = images.Images("made", Data(), known)
    opened.mesh = parallel.make_mesh(jax.devices()[:1])
    opened.sources, opened._found, start = {}, {}, 0
    for role, size in SIZES.items():
        rows = np.arange(start, start + size)
        opened.sources[role] = Subset(whole, rows)
        ids = opened.sources[role].ids()
        opened._found[role] = {"pooled": x[rows].astype(np.float32), "label": labels[rows], "id": ids}
        start += size
    if held_out:
        opened.sources["val"], opened._found["val"] = opened.sources["test"], opened._found["test"]
    opened._wholes = opened.sources
    return opened


@pytest.mark.parametrize("held_out", [False, True])
def test_few_labels_are_those_of_the_subset_and_no_scored_image_chooses(monkeypatch, held_out):
    opened, calls = made(held_out=held_out), []

    def fit(x, labels, chosen_x, chosen_labels, *, num_classes, seed):
        calls.append((x, labels, chosen_x))
        return linear.LinearProbe(np.eye(8, num_classes, dtype=np.float32), np.zeros(num_classes), 0.1)

    monkeypatch.setattr(linear, "fit", fit)
    options = protocols.Options(labels=("10%", "20%@4"))
    protocols.PROTOCOLS["semi"].check(opened, options)
    assert [*protocols.PROTOCOLS["semi"].measure(opened, options)] == ["linear_10%", "linear_20%@4"]
    scored = {row.tobytes() for row in opened.get("test")[0]}
    for (x, labels, chosen_x), each in zip(calls, (3, 6), strict=True):
        assert np.bincount(labels).tolist() == [each] * CLASSES  # of 30 in each class
        assert not scored & {row.tobytes() for row in (*x, *chosen_x)}
        assert not {row.tobytes() for row in x} & {row.tobytes() for row in chosen_x}
    assert bool(opened.notes) == held_out


def test_transfer_reports_the_metric_of_a_known_set(monkeypatch):
    monkeypatch.setitem(logistic.fit.__kwdefaults__, "penalties", (1.0, 0.1))
    options = protocols.Options()
    both = protocols.PROTOCOLS["transfer"].measure(made(), options)
    assert 0.7 < both["transfer"].value < 1
    assert [*both] == ["transfer", "transfer_per_class"]
    found = protocols.PROTOCOLS["transfer"].measure(made(Set("Made", CLASSES, True)), options)
    assert [*found] == ["transfer"]
    assert found["transfer"].value == pytest.approx(both["transfer_per_class"].value, abs=0.03)


def test_few_shot_has_tasks_and_all_classes():
    opened, options = made(), protocols.Options()
    protocols.PROTOCOLS["few_shot"].check(opened, options)
    found = protocols.PROTOCOLS["few_shot"].measure(opened, options)
    assert [*found] == ["5way_1shot", "5way_5shot", "1_per_class", "5_per_class", "10_per_class"]
    assert found["5way_1shot"].number == 600 and found["1_per_class"].number == SIZES["test"]
    assert found["1_per_class"].value < found["10_per_class"].value
    assert isinstance(found["5way_5shot"], accuracy.Score)


def test_known_sets_have_their_splits():
    flowers = images.open_images("flowers", "/data")
    assert (flowers.data.source, flowers.data.dir) == ("tfds:oxford_flowers102", "/data")
    assert (flowers.data.train, flowers.data.val, flowers.data.test) == ("train", "validation", "test")
    assert images.open_images("tfds:food101").transfer.title == "Food-101"
    assert images.open_images("tfds:food101").data.test == "validation"
    other = images.open_images("tfds:mnist", splits="train[:50%],train[50%:],test")
    assert other.transfer is None and other.data.val == "train[50%:]"
    with pytest.raises(UserError, match="tensorflow-datasets has no FGVC Aircraft"):
        images.open_images("aircraft")
