"""Images that cannot be read: what takes their place, and when a run stops."""

import itertools
import logging
from concurrent.futures import ThreadPoolExecutor

import jax
import numpy as np
import pytest
from PIL import Image

from seed_jax.data import images, pipeline, rng
from seed_jax.data.pipeline import ViewSpec, eval_batches, train_batches
from seed_jax.data.sources import Subset, open_source
from seed_jax.errors import UserError

VIEWS = (ViewSpec(count=1, size=16),)


def take(n, *args, **kwargs):
    return list(itertools.islice(train_batches(*args, **kwargs), n))


def test_a_bad_image_gives_its_place_to_the_next(jpegs, caplog):
    source = open_source("folder", "all", dir=str(jpegs))
    bad = pipeline.BadImages(source)
    with caplog.at_level(logging.WARNING):
        batches = take(2, source, VIEWS, 100, seed=0, bad=bad)
    assert sorted(bad.names) == [17, 18]
    assert bad.names[17].endswith("017.jpg")
    assert [r.getMessage() for r in caplog.records if "017.jpg" in r.getMessage()]
    ids = np.concatenate([b["id"] for b in batches])
    good = rng.split_id(source.ids()[19])
    assert (ids == good).all(axis=1).sum() == 3  # its own row and two more
    assert sorted(i for b in batches for i in b["bad"] if i >= 0) == [17, 18]  # each in the row that drew it
    jax.tree.map(np.testing.assert_array_equal, batches, take(2, source, VIEWS, 100, seed=0, threads=1))


def test_too_many_bad_images_stop_the_run(jpegs):
    for n in range(30, 40):
        (jpegs / f"{n:03}.jpg").write_bytes(b"no image")
    source = open_source("folder", "all", dir=str(jpegs))
    with pytest.raises(UserError, match=r"^6 % of the 200 images .* cannot be read, .*\.jpg .* at most 1 %"):
        take(2, source, VIEWS, 100, seed=0)
    with pytest.raises(UserError, match="^6 % of the 200 images"):
        list(eval_batches(source, 16, 50))


def test_bad_images_of_reading_processes(jpegs, caplog, capfd):
    source = open_source("folder", "all", dir=str(jpegs))
    bad = pipeline.BadImages(source)
    with caplog.at_level(logging.WARNING):
        batches = take(4, source, VIEWS, 100, seed=0, bad=bad, workers=2)
    assert sorted(bad.names) == [17, 18]
    warnings = [message for message in caplog.messages if "skipping unreadable" in message]
    assert len(warnings) == 2  # the parent warns once, although later passes and other readers see them again
    assert "skipping" not in capfd.readouterr().err
    jax.tree.map(np.testing.assert_array_equal, batches, take(4, source, VIEWS, 100, seed=0))
    for n in range(30, 40):
        (jpegs / f"{n:03}.jpg").write_bytes(b"no image")
    with pytest.raises(UserError, match=r"^6 % of the 200 images .* cannot be read, .*\.jpg .* at most 1 %"):
        take(2, source, VIEWS, 100, seed=0, workers=2)


@pytest.mark.parametrize("form", ["png", "webp", "gif", "bmp"])
def test_bad_images_of_other_formats(tmp_path, form):
    for n in range(100):
        Image.fromarray(np.full((20, 20, 3), n, np.uint8)).save(tmp_path / f"{n:02}.{form}")
    path = tmp_path / f"50.{form}"
    path.write_bytes(path.read_bytes()[:50])
    source = open_source("folder", "all", dir=str(tmp_path))
    bad = pipeline.BadImages(source)
    take(1, source, VIEWS, 100, seed=0, bad=bad)
    assert list(bad.names) == [50]


def test_a_file_that_vanishes_is_a_bad_image(jpegs):
    source = open_source("folder", "all", dir=str(jpegs))
    for n in (17, 18):
        (jpegs / f"{n:03}.jpg").unlink()
    bad = pipeline.BadImages(source)
    take(2, source, VIEWS, 100, seed=0, bad=bad)
    assert sorted(bad.names) == [17, 18]


def test_evaluation_masks_bad_images(jpegs):
    source = open_source("folder", "all", dir=str(jpegs))
    bad = pipeline.BadImages(source)
    mask = np.concatenate([b["mask"] for b in eval_batches(source, 16, 64, bad=bad)])
    assert np.flatnonzero(~mask[:200]).tolist() == [17, 18]
    assert len(bad) == 2


def test_the_share_of_bad_images_is_the_one_of_the_source(tmp_path):
    """Not of the few that were read until there were too many."""
    for n in range(100):
        if n % 10 < 3:
            (tmp_path / f"{n:02}.png").write_bytes(b"no image")
        else:
            Image.new("RGB", (20, 20), (n, 0, 0)).save(tmp_path / f"{n:02}.png")
    source = open_source("folder", "all", dir=str(tmp_path))
    with pytest.raises(UserError, match=r"^30 % of the 100 images of a split cannot be read, such as .*/0"):
        list(eval_batches(source, 16, 10, threads=1))
    bad = pipeline.BadImages(source)
    take(1, source, VIEWS, 16, seed=0, bad=bad)
    with pytest.raises(UserError, match=r"^30 % of the 100 images .* and a run skips at most 1 %: repair"):
        bad.check(3)


def test_the_share_of_bad_images_of_a_large_source_is_estimated(monkeypatch):
    monkeypatch.setattr(pipeline, "SAMPLE", 50)

    class Half(Subset):
        def __getitem__(self, i):
            if i % 2:
                raise images.BadImage("odd")
            return super().__getitem__(i)

    source = Half(open_source("digits", "all"), np.arange(1001))
    with pytest.raises(UserError, match="^About 5[0-9] % of the 1001 images|^About 4[0-9] % of the 1001"):
        list(eval_batches(source, 16, 100))


def test_the_share_of_bad_images_is_estimated_once(monkeypatch):
    reads = []

    class Bad(Subset):
        def __getitem__(self, i):
            reads.append(i)
            raise images.BadImage("broken")

    bad = pipeline.BadImages(Bad(open_source("digits", "all"), np.arange(40)))
    bad.add(0, images.BadImage("broken"))
    with ThreadPoolExecutor(4) as threads:
        errors = list(threads.map(lambda _: pytest.raises(UserError, bad.check, 9), range(4)))
    assert len({str(error.value) for error in errors}) == 1
    assert sorted(reads) == list(range(40))
