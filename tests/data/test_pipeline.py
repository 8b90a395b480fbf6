import itertools
import multiprocessing
import threading

import jax
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from seed_jax.data import images, pipeline, rng
from seed_jax.data.pipeline import ViewSpec, eval_batches, prefetch, steps_per_epoch, train_batches
from seed_jax.data.sources import Arrays, Subset, open_source
from seed_jax.errors import UserError

VIEWS = (ViewSpec(count=1, size=16), ViewSpec(count=2, size=8, scale=(0.05, 0.2)))


@pytest.fixture(scope="module")
def source():
    noise = np.random.default_rng(0).integers(0, 256, (53, 20, 24, 3), np.uint8)
    return Arrays("noise", noise, np.arange(53) % 7)


def take(n, *args, **kwargs):
    return list(itertools.islice(train_batches(*args, **kwargs), n))


def as_processes(monkeypatch, count, index):
    monkeypatch.setattr(jax, "process_count", lambda: count)
    monkeypatch.setattr(jax, "process_index", lambda: index)


def assert_equal(a, b):
    jax.tree.map(np.testing.assert_array_equal, a, b)


def joined(batches):
    return jax.tree.map(lambda *x: np.concatenate(x), *batches)


def samples(batches):
    """The (views, label) of each (id, pass) in some batches."""
    out = {}
    for batch in batches:
        for row in range(len(batch["label"])):
            key = (tuple(batch["id"][row].tolist()), int(batch["pass_"][row]))
            assert key not in out
            out[key] = ([view[row] for view in batch["views"]], batch["label"][row])
    return out


def test_shapes_and_dtypes(source):
    (batch,) = take(1, source, VIEWS, 10, seed=0)
    shapes = jax.tree.map(lambda x: (x.shape, str(x.dtype)), batch)
    assert shapes == {
        "views": (((10, 1, 16, 16, 3), "uint8"), ((10, 2, 8, 8, 3), "uint8")),
        "crops": (((10, 1, 4), "float32"), ((10, 2, 4), "float32")),
        "id": ((10, 2), "uint32"),
        "pass_": ((10,), "int32"),
        "label": ((10,), "int32"),
        "targets": {},
        "bad": ((10,), "int32"),
    }


def test_a_view_is_the_crop_at_the_keyed_box(source):
    (batch,) = take(1, source, VIEWS, 10, seed=3)
    number = 2  # views are numbered across the specs: this is the second of the second
    for row in range(10):
        i = int(batch["id"][row, 0])
        u = rng.host_generator(3, i, 0, number).random(images.NUMBERS)
        left, top, w, h = images.crop_box(24, 20, u, VIEWS[1].scale, VIEWS[1].ratio)
        crop = Image.fromarray(source[i].image).crop((left, top, left + w, top + h))
        view = np.asarray(crop.resize((8, 8), Image.Resampling.BILINEAR))
        assert np.abs(batch["views"][1][row, 1].astype(int) - view).max() <= 1
        shares = [left / 24, top / 20, w / 24, h / 20]
        np.testing.assert_allclose(batch["crops"][1][row, 1], shares, rtol=1e-6)
        assert batch["label"][row] == i % 7


def test_an_epoch_is_a_permutation_without_its_tail(source):
    steps = steps_per_epoch(len(source), 10)
    assert steps == 5
    batches = take(3 * steps, source, VIEWS[:1], 10, seed=0)
    orders = []
    for epoch in range(3):
        own = batches[epoch * steps : (epoch + 1) * steps]
        assert {p for b in own for p in b["pass_"]} == {epoch}
        orders.append([i for b in own for i in b["id"][:, 0].tolist()])
        assert len(set(orders[-1])) == 50
    assert orders[0] != orders[1] != orders[2]
    assert len(set(orders[0]) ^ set(orders[1])) > 0  # another tail is left out


@pytest.mark.parametrize("start", [1, 4, 5, 13])
def test_seeking_is_skipping(source, start):
    whole = take(16, source, VIEWS, 10, seed=1)
    for a, b in zip(
        whole[start:], take(16 - start, source, VIEWS, 10, seed=1, start_step=start), strict=True
    ):
        assert_equal(a, b)


def test_threads_do_not_matter(source):
    one, four = (take(7, source, VIEWS, 10, seed=1, threads=n) for n in (1, 4))
    assert_equal(one, four)


@pytest.mark.parametrize("workers", [1, 3])
def test_reading_processes_do_not_matter(source, workers):
    threads = take(9, source, VIEWS, 10, seed=1, start_step=3)
    assert_equal(threads, take(9, source, VIEWS, 10, seed=1, start_step=3, workers=workers))


def test_reading_processes_share_the_rows_of_a_host(monkeypatch, source):
    as_processes(monkeypatch, 5, 3)  # two rows, so at most two readers
    threads = take(3, source, VIEWS, 10, seed=1, start_step=4)
    batches = prefetch(train_batches(source, VIEWS, 10, seed=1, start_step=4, workers=4), lambda batch: batch)
    assert_equal(threads, list(itertools.islice(batches, 3)))
    assert len(multiprocessing.active_children()) == 2
    batches.close()
    assert not multiprocessing.active_children()


def test_the_views_of_a_sample_depend_on_seed_id_and_pass_alone(source):
    big, small = samples(take(2, source, VIEWS, 25, seed=1)), samples(take(10, source, VIEWS, 5, seed=1))
    common = big.keys() & small.keys()
    assert len(common) >= 45
    assert_equal([big[k] for k in common], [small[k] for k in common])
    other = samples(take(2, source, VIEWS, 25, seed=2))
    same = [np.array_equal(big[k][0][0], other[k][0][0]) for k in big.keys() & other.keys()]
    assert not any(same)


@pytest.mark.parametrize("processes", [2, 5])
def test_processes_share_the_global_batch(monkeypatch, source, processes):
    whole = take(6, source, VIEWS, 10, seed=1)
    shares = []
    for p in range(processes):
        as_processes(monkeypatch, processes, p)
        shares.append(take(6, source, VIEWS, 10, seed=1))
    for n, batch in enumerate(whole):
        assert_equal(batch, joined(share[n] for share in shares))


def test_user_errors(monkeypatch, source):
    with pytest.raises(
        UserError,
        match="batch_size is 54 but the training split has only 53 images: use --config.data.batch_size=32",
    ):
        train_batches(source, VIEWS, 54, seed=0)
    as_processes(monkeypatch, 3, 0)
    with pytest.raises(UserError, match="multiple of the 3 processes"):
        train_batches(source, VIEWS, 10, seed=0)


def test_keeping_the_last_batch(source):
    assert steps_per_epoch(53, 10, "keep") == 6
    assert steps_per_epoch(50, 10, "keep") == steps_per_epoch(50, 10) == 5
    assert steps_per_epoch(3, 10, "keep") == 1
    batches = take(12, source, VIEWS[:1], 10, seed=1, last="keep")
    assert [len(b["label"]) for b in batches] == 2 * [10, 10, 10, 10, 10, 3]
    for epoch in range(2):
        own = joined(batches[6 * epoch : 6 * epoch + 6])
        assert sorted(own["id"][:, 0]) == list(range(53))
        assert set(own["pass_"]) == {epoch}
    assert_equal(batches[:5], take(5, source, VIEWS[:1], 10, seed=1))
    for start in (5, 7):
        assert_equal(batches[start:], take(12 - start, source, VIEWS[:1], 10, 1, start, last="keep"))


def test_a_source_smaller_than_a_batch_is_one_short_batch(source):
    batches = take(2, Subset(source, np.arange(4)), VIEWS[:1], 10, seed=1, last="keep")
    assert [sorted(b["id"][:, 0]) for b in batches] == [[0, 1, 2, 3]] * 2


def test_processes_share_a_short_batch(monkeypatch, source):
    even = Subset(source, np.arange(52))
    whole = take(7, even, VIEWS[:1], 10, seed=1, last="keep")
    shares = []
    for p in range(2):
        as_processes(monkeypatch, 2, p)
        shares.append(take(7, even, VIEWS[:1], 10, seed=1, last="keep"))
    assert [len(b["label"]) for b in shares[0]] == [5, 5, 5, 5, 5, 1, 5]
    for n, batch in enumerate(whole):
        assert_equal(batch, joined(share[n] for share in shares))
    with pytest.raises(UserError, match="data.last is 'keep', .* has 3 images, .* of the 2 processes: use "):
        train_batches(source, VIEWS, 10, seed=0, last="keep")


def test_a_padded_crop_is_a_window_of_the_padded_image():
    pixels = np.random.default_rng(0).integers(0, 256, (12, 16, 16, 3), np.uint8)
    views = ViewSpec(size=8), ViewSpec(count=2, size=16, crop="pad", padding=3)
    (batch,) = take(1, Arrays("square", pixels, None), views, 12, seed=4)
    for row in range(12):
        i = int(batch["id"][row, 0])
        padded = np.pad(pixels[i], ((3, 3), (3, 3), (0, 0)))
        for view in range(2):
            x, y = (rng.host_generator(4, i, 0, 1 + view).random(images.NUMBERS)[-2:] * 7).astype(int)
            np.testing.assert_array_equal(batch["views"][1][row, view], padded[y : y + 16, x : x + 16])
            np.testing.assert_allclose(batch["crops"][1][row, view], [(x - 3) / 16, (y - 3) / 16, 1, 1])
    assert len(np.unique(batch["crops"][1].reshape(-1, 4), axis=0)) > 12


def test_a_padded_crop_of_an_image_of_another_size(source):
    (batch,) = take(1, source, (ViewSpec(size=16, crop="pad", padding=2),), 30, seed=0)
    for row in range(30):
        i = int(batch["id"][row, 0])
        x, y = (rng.host_generator(0, i, 0, 0).random(images.NUMBERS)[-2:] * 5).astype(int)
        # 24 x 20 is resized to 19 x 16, and the centre begins at (2, 0).
        square = np.asarray(Image.fromarray(source.images[i]).resize((19, 16), Image.Resampling.BILINEAR))
        padded = np.pad(square[:, 2:18], ((2, 2), (2, 2), (0, 0)))
        np.testing.assert_array_equal(batch["views"][0][row, 0], padded[y : y + 16, x : x + 16])
        shares = [(x - 2 + 2) / 19, (y - 2) / 16, 16 / 19, 1]
        np.testing.assert_allclose(batch["crops"][0][row, 0], shares, rtol=1e-6)


def test_a_centre_crop_is_the_evaluation_view(source):
    (batch,) = take(1, source, (ViewSpec(count=2, size=16, crop="centre"),), 10, seed=0)
    for row in range(10):
        expected = images.eval_view(source.images[int(batch["id"][row, 0])], 16)
        np.testing.assert_array_equal(batch["views"][0][row], [expected, expected])
    shares = np.broadcast_to(np.float32([2 / 21, 1 / 18, 16 / 21, 16 / 18]), (10, 2, 4))
    np.testing.assert_allclose(batch["crops"][0], shares)


def test_a_centre_crop_of_a_large_turned_jpeg(tmp_path):
    """Decoded at full size, next to a random crop; shares of the upright image, 300 x 600."""
    ramp = np.linspace(0, 255, 600 * 300 * 3).reshape(300, 600, 3).astype(np.uint8)
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.fromarray(ramp).save(tmp_path / "a.jpg", exif=exif)
    source = open_source("folder", "all", dir=str(tmp_path))
    (batch,) = take(1, source, (ViewSpec(size=8), ViewSpec(size=32, crop="centre")), 1, seed=0)
    expected = images.eval_view(images.decode(source[0]), 32)
    np.testing.assert_array_equal(batch["views"][1][0, 0], expected)
    # The short side is resized to 37, the long one to 74; the centre begins at (2, 21).
    np.testing.assert_allclose(batch["crops"][1][0, 0], [2 / 37, 21 / 74, 32 / 37, 32 / 74], rtol=1e-6)


class WithTargets:
    """A source whose records have two targets, with other ones for some indices."""

    def __init__(self, source, other=None):
        self.source, self.other = source, other or {}
        self.num_classes, self.class_names, self.special, self.splits = 0, (), 0, source.splits

    def __len__(self):
        return len(self.source)

    def __getitem__(self, i):
        targets = {"mask": np.full((3, 2), i, np.uint8), "depth": np.float32([[[i]]])}
        return self.source[i]._replace(targets=self.other.get(i, targets))

    def name(self, i):
        return self.source.name(i)


def test_targets_are_stacked(source):
    (batch,) = take(1, WithTargets(source), VIEWS, 10, seed=0)
    ids = batch["id"][:, 0]
    assert batch["targets"].keys() == {"mask", "depth"}
    assert batch["targets"]["mask"].dtype == np.uint8
    assert batch["targets"]["depth"].dtype == np.float32
    np.testing.assert_array_equal(batch["targets"]["mask"], np.broadcast_to(ids[:, None, None], (10, 3, 2)))
    np.testing.assert_array_equal(batch["targets"]["depth"], ids.reshape(10, 1, 1, 1))


def test_readers_share_a_short_batch_with_targets(source):
    """Three readers, of which one has no row in the last batch."""
    subset = Subset(WithTargets(source), np.arange(20, 38))
    threads = take(5, subset, VIEWS, 8, seed=0, last="keep")
    assert [len(b["targets"]["mask"]) for b in threads] == [8, 8, 2, 8, 8]
    assert set(threads[0]["targets"]["mask"].ravel()) <= set(range(20, 38))
    assert_equal(threads, take(5, subset, VIEWS, 8, seed=0, last="keep", workers=3))


def test_targets_of_a_bad_image_are_those_of_the_next(jpegs):
    source = open_source("folder", "all", dir=str(jpegs))
    targets = {i: {"index": np.int32(i)} for i in range(200)}
    (batch,) = take(1, WithTargets(source, targets), VIEWS[:1], 200, seed=0)
    in_bad_rows = batch["targets"]["index"][batch["bad"] >= 0]
    np.testing.assert_array_equal(in_bad_rows, [19, 19])
    np.testing.assert_array_equal(rng.split_id(source.ids()[batch["targets"]["index"]]), batch["id"])


def test_the_first_image_may_be_bad(jpegs):
    (jpegs / "000.jpg").unlink()
    source = open_source("folder", "all", dir=str(jpegs))
    (jpegs / "001.jpg").unlink()
    bad = pipeline.BadImages(source)
    (batch,) = take(1, WithTargets(source), VIEWS[:1], 50, seed=0, bad=bad)
    assert batch["targets"]["mask"].shape == (50, 3, 2)
    assert bad.names[0].endswith("001.jpg")


@pytest.mark.parametrize(
    ("targets", "message"),
    [
        ({}, r"The target 'mask' of noise\[7\] is none, but the first image .* has uint8 \[2\]: use targets"),
        ({"mask": np.zeros(3, np.uint8)}, r"'mask' of noise\[7\] is uint8 \[3\], but .* uint8 \[2\]"),
        ({"mask": np.zeros(2, np.int32)}, r"'mask' of noise\[7\] is int32 \[2\], but .* uint8 \[2\]"),
        (
            {"mask": np.zeros(2, np.uint8), "box": np.zeros(4)},
            r"'box' of noise\[7\] is float64 \[4\], but .* none",
        ),
    ],
)
@pytest.mark.parametrize("batch_size", [53, 1])
def test_targets_must_agree(source, targets, message, batch_size):
    same = {i: {"mask": np.zeros(2, np.uint8)} for i in range(53)}
    with pytest.raises(UserError, match=message):
        take(53, WithTargets(source, same | {7: targets}), VIEWS[:1], batch_size, seed=0)


def test_one_image_with_targets_among_images_without(source):
    other = dict.fromkeys(range(53), {}) | {7: {"mask": np.zeros(2)}}
    with pytest.raises(UserError, match=r"'mask' of noise\[7\] is float64 \[2\], but .* none"):
        take(1, WithTargets(source, other), VIEWS[:1], 53, seed=0)


def test_evaluation_sees_every_image_once(source):
    batches = list(eval_batches(source, 16, 10))
    assert [b["mask"].sum() for b in batches] == [10] * 5 + [3]
    whole = joined(batches)
    mask = whole["mask"]
    np.testing.assert_array_equal(whole["id"][mask], rng.split_id(np.arange(53)))
    np.testing.assert_array_equal(whole["label"][mask], source.labels())
    assert set(whole["label"][~mask]) == {-1}
    assert whole["image"].dtype == np.uint8
    for i in range(53):
        np.testing.assert_array_equal(whole["image"][i], images.eval_view(source.images[i], 16))


def test_evaluation_over_processes(monkeypatch, source):
    whole = list(eval_batches(source, 16, 10))
    shares = []
    for p in range(2):
        as_processes(monkeypatch, 2, p)
        shares.append(list(eval_batches(source, 16, 10)))
    assert len(shares[0]) == len(shares[1]) == len(whole)  # the second has no image in the last batch
    for n, batch in enumerate(whole):
        assert_equal(batch, joined(share[n] for share in shares))


def test_prefetch_places_in_order_and_ends():
    out = list(prefetch(iter(range(1, 8)), lambda x: (x, threading.current_thread().name)))
    assert [x for x, _ in out] == list(range(1, 8))
    assert all(name.startswith("prefetch") for _, name in out)


def test_prefetch_runs_ahead_by_its_depth():
    drawn, more = [], threading.Semaphore(0)

    def draw():
        for n in itertools.count(1):
            drawn.append(n)
            more.release()
            yield n

    batches = prefetch(draw(), lambda x: x, depth=3)
    for n in range(1, 4):
        assert next(batches) == n
        while len(drawn) < n + 3:  # the thread draws without a further `next`
            assert more.acquire(timeout=60)
        assert len(drawn) == n + 3
    batches.close()
    assert len(drawn) == 6
    assert not [t for t in threading.enumerate() if t.name.startswith("prefetch")]


@pytest.mark.parametrize("where", ["iterator", "place"])
def test_prefetch_raises_at_the_batch(where):
    def fail(x):
        if x == 3:
            raise UserError("the third")
        return x

    iterator = map(fail, range(1, 9)) if where == "iterator" else iter(range(1, 9))
    batches = prefetch(iterator, fail if where == "place" else lambda x: x)
    assert [next(batches), next(batches)] == [1, 2]
    with pytest.raises(UserError, match="the third"):
        next(batches)
    assert not [t for t in threading.enumerate() if t.name.startswith("prefetch")]


@given(
    seed=st.integers(0, 2**31),
    batch_size=st.integers(1, 53),
    threads=st.integers(1, 3),
    order=st.integers(0, 2**31),
)
@settings(max_examples=15, deadline=None)
def test_views_do_not_depend_on_batch_position_or_threads(source, seed, batch_size, threads, order):
    """Against each sample alone, from a source of another order and length."""
    mixed = Subset(source, np.random.default_rng(order).permutation(53)[: max(batch_size, 30)])
    (batch,) = take(1, mixed, VIEWS, batch_size, seed=seed, threads=threads)
    for row in range(0, batch_size, 7):
        i = int(batch["id"][row, 0])
        alone = pipeline._train_batch(source, [i], VIEWS, seed, 0, None)
        for ours, theirs in zip(batch["views"], alone["views"], strict=True):
            np.testing.assert_array_equal(ours[row], theirs[0])


@given(processes=st.sampled_from([2, 3, 4, 6, 12]), step=st.integers(0, 30), seed=st.integers(0, 2**31))
@settings(max_examples=15, deadline=None)
def test_hosts_together_see_the_global_batch(source, processes, step, seed):
    (whole,) = take(1, source, VIEWS[:1], 12, seed, step)
    shares = []
    for p in range(processes):
        with pytest.MonkeyPatch.context() as patch:
            as_processes(patch, processes, p)
            shares += take(1, source, VIEWS[:1], 12, seed, step)
    assert_equal(whole, joined(shares))


@pytest.fixture
def see_through(tmp_path):
    """Images of 20 x 20 pixels: the left half is a colour, the right half is clear."""
    for n in range(8):
        pixels = np.zeros((20, 20, 4), np.uint8)
        pixels[:, :10] = [40 + n, 20, 10, 255]
        Image.fromarray(pixels).save(tmp_path / f"{n}.png")
    return open_source("folder", "all", dir=str(tmp_path))


def test_training_and_evaluation_see_the_background(see_through):
    views = (ViewSpec(size=20, crop="centre", resize=1.0), ViewSpec(size=8))
    for background in ((255, 255, 255), (3, 200, 7)):
        (batch,) = take(1, see_through, views, 8, seed=0, background=background)
        (evaluated,) = eval_batches(see_through, 20, 8, resize=1.0, background=background)
        for pixels in (batch["views"][0][:, 0], evaluated["image"]):
            assert (pixels[:, :, 10:] == background).all()
            assert (pixels[:, :, :10, 1:] == [20, 10]).all()
    (other,) = take(1, see_through, views, 8, seed=0, background=background, workers=2)
    assert_equal(batch, other)


def test_the_sides_of_views_are_resized_as_their_specs_say(source):
    """Crops that differ in `resize` only."""
    views = tuple(ViewSpec(size=16, crop="centre", resize=resize) for resize in (1.0, 1.5))
    (batch,) = take(1, source, views, 5, seed=0)
    for view, resize in zip(batch["views"], (1.0, 1.5), strict=True):
        for row in range(5):
            pixels = source.images[int(batch["id"][row, 0])]
            np.testing.assert_array_equal(view[row, 0], images.eval_view(pixels, 16, resize))
