import io
import os
import resource
import shutil
import signal
import subprocess
import sys
import threading

import jax
import numpy as np
import pytest
from PIL import Image

from seed_jax.data import images
from seed_jax.data import pack as packing
from seed_jax.data.__main__ import main
from seed_jax.data.pipeline import ViewSpec, train_batches
from seed_jax.data.sources import Arrays, base, open_source
from seed_jax.errors import UserError

VIEWS = (ViewSpec(count=2, size=16),)


def cut_short(path):
    os.truncate(path, path.stat().st_size // 2)


def identity(path):
    """The inode, which changes when a file is written again."""
    return path.stat().st_ino, path.stat().st_mtime_ns


def pack(source, out, **options):
    said = []
    packed = packing.pack(source, out, progress=said.append, **options)
    return packed, said


@pytest.mark.parametrize("split", base.SPLITS[:2] + ("all",))
def test_a_pack_gives_the_records_of_its_source(pets, tmp_path, split):
    source = open_source("imagefolder", "all", dir=str(pets))
    packed, said = pack(source, tmp_path / "out", prefix=str(pets), shard_size=7, workers=2)
    assert len(said) == len(packed.metadata["shards"]) == 4
    before = open_source("imagefolder", split, dir=str(pets))
    after = open_source("arrayrecord", split, dir=str(tmp_path / "out"))
    assert [tuple(r) for r in after] == [tuple(r) for r in before]
    assert after.labels().tolist() == before.labels().tolist()
    assert after.class_names == ("cat", "dog")
    assert after.name(0) == before.name(0).replace(str(pets), str(tmp_path / "out"))
    assert after.fingerprint() != before.fingerprint()
    batches = [next(train_batches(s, VIEWS, 4, seed=3)) for s in (before, after)]
    jax.tree.map(np.testing.assert_array_equal, *batches)


def test_arrays_keep_their_pixels_and_their_splits(tmp_path):
    noise = np.random.default_rng(0).integers(0, 256, (40, 5, 6, 3), np.uint8)
    source = Arrays("noise", noise, None)
    source.splits = np.arange(40, dtype=np.int8) % 3
    pack(source, tmp_path / "out", shard_size=30)
    val = open_source("arrayrecord", "val", dir=str(tmp_path / "out"))
    assert val.ids().tolist() == list(range(1, 40, 3))
    np.testing.assert_array_equal([images.decode(r) for r in val], noise[1::3])


def test_a_pack_of_one_split_is_that_split(pets, tmp_path):
    source = open_source("imagefolder", "val", dir=str(pets))
    packed, _ = pack(source, tmp_path / "out")
    assert len(packed) == len(source) == 5


def test_tfds_keeps_its_splits(tmp_path):
    pytest.importorskip("tensorflow_datasets")
    from test_tfds import write_tfds

    images_ = {}
    for n in range(9):
        out = io.BytesIO()
        Image.new("L", (4, 4), n).save(out, "PNG")
        images_[n] = out.getvalue()
    train, test = [(images_[n], n) for n in range(6)], [(images_[n], n) for n in range(6, 9)]
    write_tfds(tmp_path / "tfds", train, test=test)
    packed, _ = pack(open_source("tfds:cifar10", "all", dir=str(tmp_path / "tfds")), tmp_path / "out")
    assert len(packed.class_names) == packed.num_classes == 10
    for split, content in (("train", train), ("test", test)):
        source = open_source("arrayrecord", split, dir=str(tmp_path / "out"))
        assert [(r.image, r.label) for r in source] == content
        before = open_source("tfds:cifar10", split, dir=str(tmp_path / "tfds"))
        assert source.ids().tolist() == before.ids().tolist()
        shares = [open_source("tfds:cifar10", split, dir=str(tmp_path / "tfds"), subset="50%", seed=3)]
        shares += [open_source("arrayrecord", split, dir=str(tmp_path / "out"), subset="50%", seed=3)]
        assert shares[0].ids().tolist() == shares[1].ids().tolist()


def test_a_packed_tfds_keeps_the_names_of_its_files(tmp_path):
    pytest.importorskip("tensorflow_datasets")
    from test_tfds import write_tfds

    out = io.BytesIO()
    Image.new("L", (4, 4), 9).save(out, "PNG")
    write_tfds(
        tmp_path / "tfds", [(out.getvalue(), 4), (out.getvalue(), 9)], names=["n01_7.JPEG", "n02_5.JPEG"]
    )
    source = open_source("tfds:imagenet2012", "all", dir=str(tmp_path / "tfds"))
    pack(source, tmp_path / "out")
    (tmp_path / "1percent.txt").write_text("n02_5.JPEG\n")
    listed = str(tmp_path / "1percent.txt")
    (record,) = open_source("arrayrecord", "train", dir=str(tmp_path / "out"), subset=listed)
    assert tuple(record) == tuple(source[1])


def test_resize_once(pets, tmp_path):
    source = open_source("imagefolder", "all", dir=str(pets))
    packed, _ = pack(source, tmp_path / "out", short_side=36)
    for record, packed_record in zip(source, packed, strict=True):
        width, height = Image.open(io.BytesIO(record.image)).size
        after = Image.open(io.BytesIO(packed_record.image))
        if min(width, height) <= 36:
            assert packed_record.image == record.image
        else:
            assert after.format == "JPEG"
            small = (36, round(height * 36 / 40)) if height > 40 else (round(40 * 36 / height), 36)
            assert after.size == small
        assert packed_record.id == record.id
    smooth = Image.linear_gradient("L").resize((120, 90)).convert("RGB")
    resized = packing.encode(np.asarray(smooth), 45)
    expected = np.asarray(smooth.resize((60, 45), Image.Resampling.BICUBIC)).astype(int)
    assert np.abs(images.decode(base.Record(resized, 0, -1)) - expected).mean() < 1.5


@pytest.mark.parametrize("form", ["PNG", "WEBP", "TIFF", "BMP", "JPEG"])
@pytest.mark.parametrize("orientation", [1, 6])
def test_large_images_of_any_format_are_resized(form, orientation):
    """At five times the target a JPEG is decoded at half its size, other formats at full size."""
    smooth = Image.linear_gradient("L").resize((400, 300)).convert("RGB")
    exif = Image.Exif()
    exif[0x0112] = orientation
    turn = orientation == 6 and form != "BMP"  # BMP has no EXIF
    out = io.BytesIO()
    smooth.save(out, form, **({"exif": exif} if turn else {}))
    expected = smooth.resize((80, 60), Image.Resampling.BICUBIC)
    expected = expected.transpose(Image.Transpose.ROTATE_270) if turn else expected
    found = images.decode(base.Record(packing.encode(out.getvalue(), 60), 0, -1)).astype(int)
    assert found.shape[1::-1] == expected.size
    assert np.abs(found - np.asarray(expected)).mean() < 2


def test_resize_is_upright(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6
    out = io.BytesIO()
    Image.new("RGB", (80, 40), (9, 99, 200)).save(out, "JPEG", exif=exif)
    assert Image.open(io.BytesIO(packing.encode(out.getvalue(), 20))).size == (20, 40)
    assert not Image.open(io.BytesIO(packing.encode(out.getvalue(), 20))).getexif()


def test_unreadable_images_are_left_out_and_named(pets, tmp_path):
    (pets / "train" / "cat" / "02.webp").write_bytes(b"")
    (pets / "train" / "dog" / "01.png").write_bytes(b"no image")
    source = open_source("imagefolder", "all", dir=str(pets))
    packed, _ = pack(source, tmp_path / "a", prefix=str(pets))
    assert packed.metadata["skipped"] == [
        "train/cat/02.webp: an empty file",
        "train/dog/01.png: not an image in a format that PIL knows",
    ]
    assert len(packed) == 21
    assert packed.ids().tolist() == [r.id for r in packed]


def test_a_pack_killed_while_it_writes_its_plan_is_resumed(pets, tmp_path):
    source = open_source("imagefolder", "all", dir=str(pets))
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "plan.json.123.tmp").write_bytes(b"{")
    assert len(pack(source, tmp_path / "out")[0]) == 23
    assert not list((tmp_path / "out").glob("*.tmp"))
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "mine.tmp").write_bytes(b"")
    with pytest.raises(UserError, match="is not empty"):
        pack(source, tmp_path / "other")


def test_a_stopped_pack_is_resumed(pets, tmp_path):
    source = open_source("imagefolder", "all", dir=str(pets))
    whole, _ = pack(source, tmp_path / "whole", shard_size=5)
    out = tmp_path / "out"

    def stop(line):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        packing.pack(source, out, shard_size=5, progress=stop)
    with pytest.raises(UserError, match="not a finished pack.*resumes a stopped"):
        open_source("arrayrecord", "all", dir=str(out))
    (out / "images-00001-of-00005.tmp").write_bytes(b"half a shard")
    (first,) = out.glob("*.array_record")
    written = first.stat().st_mtime_ns
    packed, said = pack(source, out, shard_size=5)
    assert len(said) == 4
    assert first.stat().st_mtime_ns == written
    assert [tuple(r) for r in packed] == [tuple(r) for r in whole]
    assert sorted(p.name for p in out.iterdir()) == sorted(p.name for p in (tmp_path / "whole").iterdir())
    assert pack(source, out, shard_size=5)[1] == [f"{out} is already packed"]


STUCK = """
import sys, time
from seed_jax.data.__main__ import main
from seed_jax.data.sources import folder
read = folder.open_file
folder.open_file = lambda name: time.sleep(1e6) if name.endswith("stuck.png") else read(name)
main(sys.argv[1:])
"""


def test_a_killed_pack_is_resumed(pets, tmp_path):
    arguments = ["pack", "imagefolder", str(tmp_path / "out")]
    arguments += ["--dir", str(pets), "--shard-size", "1", "--workers", "1"]
    (pets / "val" / "dog" / "stuck.png").write_bytes(b"")  # not an image; the first pack waits here for ever
    command = [sys.executable, "-c", STUCK, *arguments]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=os.getcwd()) as process:
        rescue = threading.Timer(60, process.kill)
        rescue.start()
        said = process.stdout.readline()  # through a pipe, as with `| tee`
        process.send_signal(signal.SIGKILL)
        rescue.cancel()
    assert said.startswith("1 of 24 images")
    assert not (tmp_path / "out" / "metadata.json").exists()
    written = {path: identity(path) for path in (tmp_path / "out").glob("*.array_record")}
    assert 1 <= len(written) < 24
    assert main(arguments) == 0
    assert {path: identity(path) for path in written} == written
    (pets / "val" / "dog" / "stuck.png").unlink()
    source = open_source("imagefolder", "all", dir=str(pets))
    packed = open_source("arrayrecord", "all", dir=str(tmp_path / "out"))
    assert [tuple(r) for r in packed] == [tuple(r) for r in source]


@pytest.mark.parametrize("damage", [cut_short, lambda path: path.write_bytes(b""), os.unlink])
def test_a_shard_that_a_power_loss_cut_short_is_written_again(pets, tmp_path, damage):
    source = open_source("imagefolder", "all", dir=str(pets))
    whole, _ = pack(source, tmp_path / "whole", shard_size=5)
    out, said = tmp_path / "out", []

    def stop(line):
        said.append(line)
        if len(said) == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        packing.pack(source, out, shard_size=5, progress=stop)
    first, second = sorted(out.glob("*.array_record"))
    damage(first)
    written = identity(second)
    packed, said = pack(source, out, shard_size=5)
    assert len(said) == 4
    assert identity(second) == written
    assert [tuple(r) for r in packed] == [tuple(r) for r in whole]


def test_a_shard_is_synced_before_it_is_renamed(pets, tmp_path, monkeypatch):
    synced, fsync, replace = set(), os.fsync, os.replace
    named = {}

    def keep(file):
        synced.add(os.fstat(file).st_ino)
        fsync(file)

    def name(old, new):
        named[os.path.basename(new)] = os.stat(old).st_ino in synced
        replace(old, new)

    monkeypatch.setattr(os, "fsync", keep)
    monkeypatch.setattr(os, "replace", name)
    pack(open_source("imagefolder", "all", dir=str(pets)), tmp_path / "out", shard_size=12)
    assert {"images-00000-of-00002.array_record", "images-00001-of-00002.array_record"} < set(named)
    assert all(named.values())


def test_a_shard_cut_short_after_it_was_written_is_found(pets, tmp_path):
    out = tmp_path / "out"
    with pytest.raises(UserError, match="array_record is missing or incomplete"):
        packing.pack(
            open_source("imagefolder", "all", dir=str(pets)),
            out,
            progress=lambda line: cut_short(next(out.glob("*.array_record"))),
        )


def test_a_full_disk_is_a_user_error_and_the_pack_is_resumed(pets, tmp_path):
    source = open_source("imagefolder", "all", dir=str(pets))
    limit = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, limit[1]))
    try:
        with pytest.raises(UserError, match=r"out cannot be written \(.*File too large\): fix this[^\n]*$"):
            pack(source, tmp_path / "out")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limit)
    assert len(pack(source, tmp_path / "out")[0]) == 23


def test_user_errors(pets, tmp_path):
    source = open_source("imagefolder", "all", dir=str(pets))
    with pytest.raises(UserError, match="is not empty"):
        pack(source, pets)
    pack(source, tmp_path / "out")
    with pytest.raises(UserError, match="contains a different pack .its short_side is 0, not 8."):
        pack(source, tmp_path / "out", short_side=8)
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="cannot be written"):
        pack(source, tmp_path / "file")
    next((tmp_path / "out").glob("*.array_record")).unlink()
    with pytest.raises(UserError, match="array_record is missing or incomplete: copy"):
        open_source("arrayrecord", "all", dir=str(tmp_path / "out"))
    with pytest.raises(UserError, match="not a finished pack"):
        open_source("arrayrecord", "all", dir=str(pets))
    none, unread = (
        "contains no readable pack: choose",
        "metadata.json cannot be read .*: restore it, or use",
    )
    for foreign, fix in (("{}", none), ("[1]", unread), ('{"shards": []}', none), ("text", unread)):
        (pets / "metadata.json").write_text(foreign)
        with pytest.raises(
            UserError, match=r"not a finished pack \((its metadata.json was not|Expecting value)"
        ):
            open_source("arrayrecord", "all", dir=str(pets))
        with pytest.raises(UserError, match=rf"pets.{fix} another (output )?folder"):
            pack(source, pets)


def test_a_damaged_pack_can_be_fixed_as_its_errors_say(pets, tmp_path):
    source = open_source("folder", "all", dir=str(pets))
    pack(source, tmp_path / "out")
    kept = (tmp_path / "out" / "metadata.json").read_bytes()
    (tmp_path / "out" / "metadata.json").write_text("")
    with pytest.raises(UserError, match="not a finished pack .* copy it again, or remove it"):
        open_source("arrayrecord", "all", dir=str(tmp_path / "out"))
    with pytest.raises(UserError, match="metadata.json cannot be read .*: restore it, or use another folder"):
        pack(source, tmp_path / "out")
    (tmp_path / "out" / "metadata.json").write_bytes(kept)
    (shard,) = (tmp_path / "out").glob("*.array_record")
    shard.write_bytes(shard.read_bytes()[:-50])
    with pytest.raises(UserError, match="incomplete: copy .* again, or remove it and pack again"):
        pack(source, tmp_path / "out")
    shutil.rmtree(tmp_path / "out")
    assert len(pack(source, tmp_path / "out")[0]) == len(source)


def test_a_resized_image_keeps_its_alpha(tmp_path):
    """So that a pack does not choose the background: as compositing first, up to rounding."""
    pixels = np.random.default_rng(0).integers(0, 256, (120, 160, 4), np.uint8)
    pixels[:, :80, 3] = 0
    out = io.BytesIO()
    Image.fromarray(pixels).save(out, "PNG")
    packed = packing.encode(out.getvalue(), 60)
    for background in ((255, 255, 255), (0, 40, 200)):
        found = images.decode(base.Record(packed, 0, -1), background)
        whole = images.decode(base.Record(out.getvalue(), 0, -1), background)
        expected = np.asarray(Image.fromarray(whole).resize((80, 60), Image.Resampling.BICUBIC))
        np.testing.assert_allclose(found.astype(int)[:, :35], np.broadcast_to(background, (60, 35, 3)))
        assert np.abs(found.astype(int) - expected).mean() < 3
    pixels[..., 3] = 255
    out = io.BytesIO()
    Image.fromarray(pixels).save(out, "PNG")
    assert images.open_image(packing.encode(out.getvalue(), 60)).format == "JPEG"
