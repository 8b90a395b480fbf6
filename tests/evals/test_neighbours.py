"""Imitation of the teacher and effective rank, on features that are known."""

import dataclasses
import math

import jax.numpy as jnp
import numpy as np
import pytest
from sklearn.neighbors import NearestNeighbors

from seed_jax import config, parallel
from seed_jax.data.sources import Arrays
from seed_jax.errors import UserError
from seed_jax.evals import base, neighbours
from seed_jax.evals.online import OnlineProbe

VARIABLES = {"params": {"backbone": {}}}


def near(x, k):
    """scikit-learn's k nearest other images by cosine, a set for each image."""
    found = NearestNeighbors(n_neighbors=k, metric="cosine").fit(x).kneighbors(return_distance=False)
    return [set(row) for row in found.tolist()]


def test_shared_neighbours_are_those_of_sklearn():
    numbers = np.random.default_rng(0)
    teacher = numbers.standard_normal((50, 8))
    student = teacher[:, :5] + 0.5 * numbers.standard_normal((50, 5))
    want = [len(a & b) / 7 for a, b in zip(near(student, 7), near(teacher, 7), strict=True)]
    np.testing.assert_allclose(neighbours.shared(student, teacher, 7), want)
    assert 0.2 < np.mean(want) < 0.9


def test_shared_neighbours_ignore_rotation_and_scale_and_random_features_share_few():
    numbers = np.random.default_rng(0)
    teacher = numbers.standard_normal((200, 6))
    rotation = np.linalg.qr(numbers.standard_normal((6, 6)))[0]
    lengths = numbers.uniform(0.5, 2.0, (200, 1))
    assert neighbours.shared(lengths * teacher @ rotation, teacher, 10).min() == 1.0
    chance = neighbours.shared(numbers.standard_normal((200, 6)), teacher, 10).mean()
    assert chance == pytest.approx(10 / 199, abs=0.02)


def test_effective_rank_of_known_spectra():
    rotate = [np.linalg.qr(np.random.default_rng(n).standard_normal((6, 6)))[0] for n in (0, 1)]

    def rank(*values):
        return neighbours.effective_rank(
            rotate[0] @ np.diag([*values, *[0.0] * (6 - len(values))]) @ rotate[1]
        )

    assert rank(2, 2, 2, 2) == pytest.approx(4)
    assert rank(5) == pytest.approx(1)
    # shares 3/4 and 1/4: exp(3/4 log 4/3 + 1/4 log 4)
    assert rank(3, 1) == pytest.approx((4 / 3) ** 0.75 * 4**0.25)
    assert neighbours.effective_rank(np.zeros((4, 3))) == 0.0


@dataclasses.dataclass(frozen=True)
class Channels:
    """Features are the means of the channels times `weights`; the embedding has `width` columns of them."""

    weights: tuple[float, float, float] = (1.0, 1.0, 1.0)
    width: int = 3

    def apply(self, variables, x, train, keys=None):
        pooled = x.mean(axis=(1, 2)) * jnp.asarray(self.weights)[None]
        return {"pooled": pooled, "embedding": pooled[:, : self.width]}, {}


def images(count):
    colours = np.random.default_rng(0).integers(1, 255, (count, 1, 1, 3), np.uint8)
    return Arrays("colours", np.broadcast_to(colours, (count, 4, 4, 3)).copy(), np.full(count, -1))


def scores(student, teacher, count):
    raw = config.default("seed")
    raw.data.image_size, raw.train.epochs, raw.evals.names = 4, 1.0, ("neighbours",)
    resolved, mesh = config.resolve(raw), parallel.make_mesh()
    if teacher is not None:
        teacher = OnlineProbe(teacher, VARIABLES, mesh, resolved, None, images(count)).features
    return OnlineProbe(student, VARIABLES, mesh, resolved, None, images(count), teacher)(VARIABLES)


def test_a_student_that_is_its_teacher():
    got = scores(Channels(), Channels((2.0, 2.0, 2.0)), 40)
    assert (got["neighbours"], got["alignment"]) == (1.0, pytest.approx(1.0))
    assert 1 <= got["effective_rank"] <= 3


def test_alignment_is_the_mean_cosine():
    source = images(20)
    means = np.stack([source[i].image.mean(axis=(0, 1)) for i in range(20)])
    cosines = [
        float(a @ b / math.sqrt((a @ a) * (b @ b)))
        for a, b in ((m, m * np.array([1.0, 0.0, 3.0])) for m in means)
    ]
    got = scores(Channels(), Channels((1.0, 0.0, 3.0)), 20)
    assert got["alignment"] == pytest.approx(np.mean(cosines), abs=1e-5)


def test_what_cannot_be_measured_is_left_out():
    assert scores(Channels(), None, 40).keys() == {"effective_rank"}
    assert scores(Channels(), Channels(width=2), 40).keys() == {"effective_rank", "neighbours"}
    assert scores(Channels(), Channels(), 11).keys() == {"effective_rank", "alignment"}


def test_features_that_are_not_finite_are_named():
    with pytest.raises(UserError, match="not finite because the network has diverged"):
        scores(Channels((math.nan, 1.0, 1.0)), None, 12)


def test_the_teacher_passes_over_the_images_once(monkeypatch):
    passes = []
    original = base.SharedFeatures.get
    monkeypatch.setattr(
        base.SharedFeatures,
        "get",
        lambda self, *a: (passes.append(self.teacher is None), original(self, *a))[1],
    )
    raw = config.default("seed")
    raw.data.image_size, raw.train.epochs, raw.evals.names = 4, 1.0, ("neighbours",)
    resolved, mesh = config.resolve(raw), parallel.make_mesh()
    teacher = OnlineProbe(Channels(), VARIABLES, mesh, resolved, None, images(40)).features
    probe = OnlineProbe(Channels(), VARIABLES, mesh, resolved, None, images(40), teacher)
    assert probe(VARIABLES) == probe(dict(VARIABLES))
    assert passes == [False, True, False]


def test_more_images_than_512_are_thinned_evenly():
    numbers = np.random.default_rng(0).standard_normal((1023, 4)).astype(np.float32)
    entries = neighbours._queries(({"pooled": numbers, "map": numbers[:, :, None]}, np.full(1023, -1)))
    assert entries.keys() == {"pooled"}
    np.testing.assert_array_equal(entries["pooled"], numbers[::2])
