"""Packs that were damaged after they were written."""

import json
import os

import numpy as np
import pytest

from seed_jax.data import images, pipeline
from seed_jax.data.pack import pack
from seed_jax.data.pipeline import ViewSpec, train_batches
from seed_jax.data.sources import Arrays, open_source
from seed_jax.errors import UserError


def cut_short(path):
    os.truncate(path, path.stat().st_size // 2)


@pytest.fixture
def packed(tmp_path):
    """Two shards of random images, 30 kB each, and the second one's path."""
    noise = np.random.default_rng(0).integers(0, 256, (20, 100, 100, 3), np.uint8)
    packed = pack(Arrays("noise", noise, None), tmp_path / "out", shard_size=10)
    return packed, tmp_path / "out" / packed.metadata["shards"][1][0]


@pytest.mark.parametrize("damage", [cut_short, os.unlink, lambda path: path.write_bytes(b"")])
def test_a_shard_that_is_incomplete_is_named_when_the_pack_is_opened(packed, damage):
    damage(packed[1])
    with pytest.raises(UserError, match=r"images-00001-of-00002.array_record is missing or incomplete"):
        open_source("arrayrecord", "all", dir=str(packed[1].parent))


@pytest.mark.parametrize("damage", [cut_short, os.unlink, lambda path: path.write_bytes(b"")])
@pytest.mark.parametrize("sizes", [True, False])
def test_a_shard_that_disappears_during_a_run_is_named(packed, damage, sizes):
    source, path = packed
    if not sizes:  # as in older packs
        metadata = json.loads((path.parent / "metadata.json").read_text())
        metadata["shards"] = [shard[:2] for shard in metadata["shards"]]
        (path.parent / "metadata.json").write_text(json.dumps(metadata))
        source = open_source("arrayrecord", "all", dir=str(path.parent))
        if damage is cut_short:
            assert source[19].image  # opens the file before it is cut
    damage(path)
    assert source[0].image
    with pytest.raises(
        UserError, match=r"the shard .*images-00001-of-00002.array_record is missing, cut short"
    ):
        source[19]


def test_a_damaged_shard_gives_bad_images(pets, tmp_path):
    packed = pack(open_source("imagefolder", "all", dir=str(pets)), tmp_path / "out", shard_size=10)
    shard = tmp_path / "out" / packed.metadata["shards"][1][0]
    content = bytearray(shard.read_bytes())
    content[200:4000] = bytes(3800)
    shard.write_bytes(content)
    bad = pipeline.BadImages(packed)
    batch = next(train_batches(packed, (ViewSpec(count=2, size=16),), 23, seed=0, bad=bad))
    assert {i for i in batch["bad"].tolist() if i >= 0} == set(bad.names) != set()
    assert set(bad.names) <= set(range(10, 20))  # the images of that shard
    assert packed[0].image


def test_a_damaged_record_gives_a_bad_image(packed):
    source, path = packed
    content = bytearray(path.read_bytes())
    content[100_000:100_100] = bytes(100)
    path.write_bytes(content)
    bad = []
    for i in range(20):
        try:
            assert source[i].image
        except images.BadImage:
            bad.append(i)
    assert len(bad) == 1
    assert bad[0] >= 10


def test_a_failing_disk_does_not_give_a_bad_image(packed, monkeypatch):
    source, path = packed

    class Failing:
        def __getitem__(self, i):
            raise RuntimeError(f"pread() failed: Input/output error; reading {path}; at byte 65536")

    monkeypatch.setattr(source, "records", Failing())
    with pytest.raises(
        UserError, match=r"the shard .*00001-of-00002.* unreadable \(pread\(\) failed: Input/out"
    ):
        source[19]
