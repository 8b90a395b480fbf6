"""Views that are cut from another image of the source, drawn from the record's bag."""

import itertools

import numpy as np
import pytest

from seed_jax.data.images import BadImage
from seed_jax.data.pipeline import train_batches
from seed_jax.data.rng import host_generator
from seed_jax.data.sources import Arrays
from seed_jax.data.sources.base import WithTargets
from seed_jax.data.views import ViewSpec

COUNT, K = 24, 4
VIEWS = (ViewSpec(2, 8), ViewSpec(2, 8, bag="bag"), ViewSpec(1, 8))


class Numbered(Arrays):
    """Image `i` has the colour `i`, and a noisy red channel by which a crop is known."""

    unreadable = -1

    def __init__(self):
        pixels = np.arange(COUNT, dtype=np.uint8)[:, None, None, None] * np.ones((1, 12, 12, 3), np.uint8)
        pixels[..., 0] = np.random.default_rng(0).integers(256, size=(1, 12, 12))
        super().__init__("numbered", pixels, np.zeros(COUNT, np.int64))

    def __getitem__(self, i):
        if i == self.unreadable:
            raise BadImage("torn")
        return super().__getitem__(i)


def source():
    bags = np.stack([np.delete(np.arange(COUNT), i)[i % 3 : i % 3 + K] for i in range(COUNT)])
    return WithTargets(Numbered(), {"bag": bags.astype(np.int32)})


def take(n, *args, **options):
    return list(itertools.islice(train_batches(*args, **options), n))


def test_the_neighbour_is_drawn_by_seed_id_and_pass():
    bagged, drawn = source(), {}
    for batch in take(12, bagged, VIEWS, 8, 5):
        own, neighbour, last = (views[:, :, 4, 4, 1] for views in batch["views"])
        ids, passes = batch["id"][:, 0], batch["pass_"]
        np.testing.assert_array_equal(own, np.stack([ids, ids], axis=1))
        np.testing.assert_array_equal(last[:, 0], ids)
        np.testing.assert_array_equal(batch["targets"]["bag"], bagged.targets["bag"][ids])
        for row, (i, pass_) in enumerate(zip(ids.tolist(), passes.tolist(), strict=True)):
            want = bagged.targets["bag"][i][host_generator(5, i, pass_, -2).integers(K)]
            assert set(neighbour[row].tolist()) == {want}
            drawn.setdefault(i, set()).add(int(want))
    assert max(map(len, drawn.values())) > 1


def test_its_crops_are_keyed_as_if_they_were_of_the_image():
    """The red channel is the same in all images, so the crops of one image show the same pixels."""
    plain = (ViewSpec(2, 8), ViewSpec(2, 8), ViewSpec(1, 8))
    (bagged,), (own,) = (take(1, source(), views, 8, 5) for views in (VIEWS, plain))
    for a, b in zip(bagged["views"], own["views"], strict=True):
        np.testing.assert_array_equal(a[..., 0], b[..., 0])
    for a, b in zip(bagged["crops"], own["crops"], strict=True):
        np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize("options", [{"workers": 2}, {"threads": 1}])
def test_rows_are_the_same_wherever_they_are_read(options):
    for a, b in zip(take(4, source(), VIEWS, 8, 5), take(4, source(), VIEWS, 8, 5, **options), strict=True):
        for one, other in zip(a["views"], b["views"], strict=True):
            np.testing.assert_array_equal(one, other)


def test_a_neighbour_that_cannot_be_read_is_replaced_by_the_next(monkeypatch):
    monkeypatch.setattr(Numbered, "unreadable", 3)
    bagged, replaced = source(), []
    for batch in take(3, bagged, VIEWS, 8, 5):
        for i, neighbour in zip(batch["id"][:, 0], batch["views"][1][:, 0, 4, 4, 1], strict=True):
            assert neighbour != 3 and neighbour in bagged.targets["bag"][i]
        replaced += batch["bad"][batch["bad"] >= 0].tolist()
    assert replaced == [3]  # itself, and none of those that drew it


def test_an_image_with_no_readable_neighbour_stands_for_them(monkeypatch):
    monkeypatch.setattr(Numbered, "unreadable", 3)
    alone = WithTargets(Numbered(), {"bag": np.full((COUNT, K), 3, np.int32)})
    for batch in take(3, alone, VIEWS, 8, 5):
        np.testing.assert_array_equal(batch["views"][1][:, 0, 4, 4, 1], batch["id"][:, 0])
