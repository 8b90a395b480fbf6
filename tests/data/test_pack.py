import contextlib
import io
import json
import os
import resource
import signal
import subprocess
import sys
import threading

import jax
import numpy as np
import pytest
from PIL import Image

from seed_jax.data import images, pipeline
from seed_jax.data import pack as packing
from seed_jax.data.__main__ import main
from seed_jax.data.pipeline import ViewSpec, train_batches
from seed_jax.data.sources import Arrays, base, open_source
from seed_jax.errors import UserError

VIEWS = (ViewSpec(count=2, size=16),)


@pytest.fixture
def pets(tmp_path):
    """23 images in two classes and two splits, of several formats and sizes."""
    for n in range(23):
        noise = np.random.default_rng(n).integers(0, 256, (30 + 3 * n, 40, 3), np.uint8)
        folder = tmp_path / "pets" / ("val" if n % 5 == 0 else "train") / ("dog" if n % 2 else "cat")
        folder.mkdir(parents=True, exist_ok=True)
        Image.fromarray(noise).save(folder / f"{n:02}.{('jpg', 'png', 'webp')[n % 3]}")
    return tmp_path / "pets"


def cut_short(path):
    os.truncate(path, path.stat().st_size // 2)


def identity(path):
    """Which changes when a file is written again."""
    return path.stat().st_ino, path.stat().st_mtime_ns


def pack(source, out, **options):
    said = []
    packed = packing.pack(source, out, progress=said.append, **options)
    return packed, said


@pytest.mark.parametrize("split", base.SPLITS[:2] + ("all",))
def test_a_pack_gives_what_was_packed(pets, tmp_path, split):
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
    source.part = np.arange(40, dtype=np.int8) % 3
    pack(source, tmp_path / "out", shard_size=30)
    val = open_source("arrayrecord", "val", dir=str(tmp_path / "out"))
    assert val.ids().tolist() == list(range(1, 40, 3))
    np.testing.assert_array_equal([images.decode(r) for r in val], noise[1::3])


def test_a_split_of_its_own_stays_whole(pets, tmp_path):
    source = open_source("imagefolder", "val", dir=str(pets))
    packed, _ = pack(source, tmp_path / "out")
    assert len(packed) == len(source) == 5


def test_tfds_keeps_its_splits(tmp_path):
    pytest.importorskip("tensorflow_datasets")
    from test_sources import write_tfds

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
    from test_sources import write_tfds

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
    """Five times the target: a JPEG is decoded at half its size, the others at their full one."""
    smooth = Image.linear_gradient("L").resize((400, 300)).convert("RGB")
    exif = Image.Exif()
    exif[0x0112] = orientation
    turn = orientation == 6 and form != "BMP"  # which has no EXIF
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


@pytest.mark.parametrize(("total", "most"), [(20, 2), (400, 4)])
def test_as_many_may_be_left_out_as_a_run_skips(tmp_path, capsys, total, most):
    """Two, or 1 %: neither the pack nor a run over the images themselves then stops."""
    (tmp_path / "in").mkdir()
    for n in range(total):
        Image.new("RGB", (4, 4), (n % 256, 0, 0)).save(tmp_path / "in" / f"{n:03}.png")
    command = ["pack", "folder", "--dir", str(tmp_path / "in"), "--workers", "1"]

    def run():
        source = open_source("folder", "all", dir=str(tmp_path / "in"))
        bad = pipeline.BadImages(source)
        next(pipeline.eval_batches(source, 4, total, threads=1, bad=bad))
        return len(bad)

    for n in range(most):
        (tmp_path / "in" / f"{n:03}.png").write_bytes(b"")
    assert main([*command, str(tmp_path / "a")]) == 0
    assert run() == most
    assert not capsys.readouterr().err
    (tmp_path / "in" / f"{most:03}.png").write_bytes(b"")
    for _ in range(2):  # made, and packed already
        assert main([*command, str(tmp_path / "b")]) == 1
        assert f"More than 1 % of the {total} images were left out: train with" in capsys.readouterr().err
    assert len(open_source("arrayrecord", "all", dir=str(tmp_path / "b"))) == total - most - 1
    with pytest.raises(UserError, match=f"More than 1 % of the {total} images"):
        run()


def test_a_pack_of_nothing_is_an_error(tmp_path, capsys):
    (tmp_path / "in").mkdir()
    for n in range(3):
        (tmp_path / "in" / f"{n}.png").write_bytes(b"")
    for _ in range(2):
        assert main(["pack", "folder", "--dir", str(tmp_path / "in"), str(tmp_path / "out")]) == 1
        said = capsys.readouterr().err
        assert "none of the 3 images can be packed, such as 0.png: an empty file: mend them" in said
    assert not (tmp_path / "out" / "metadata.json").exists()


def test_a_pack_killed_as_its_plan_was_written_goes_on(pets, tmp_path):
    source = open_source("imagefolder", "all", dir=str(pets))
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "plan.json.123.tmp").write_bytes(b"{")
    assert len(pack(source, tmp_path / "out")[0]) == 23
    assert not list((tmp_path / "out").glob("*.tmp"))
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "mine.tmp").write_bytes(b"")
    with pytest.raises(UserError, match="is not empty"):
        pack(source, tmp_path / "other")


def test_a_stopped_pack_goes_on(pets, tmp_path):
    source = open_source("imagefolder", "all", dir=str(pets))
    whole, _ = pack(source, tmp_path / "whole", shard_size=5)
    out = tmp_path / "out"

    def stop(line):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        packing.pack(source, out, shard_size=5, progress=stop)
    with pytest.raises(UserError, match="no finished pack.*goes on"):
        open_source("arrayrecord", "all", dir=str(out))
    (out / "images-00001-of-00005.tmp").write_bytes(b"half a shard")
    (first,) = out.glob("*.array_record")
    written = first.stat().st_mtime_ns
    packed, said = pack(source, out, shard_size=5)
    assert len(said) == 4
    assert first.stat().st_mtime_ns == written
    assert [tuple(r) for r in packed] == [tuple(r) for r in whole]
    assert sorted(p.name for p in out.iterdir()) == sorted(p.name for p in (tmp_path / "whole").iterdir())
    assert pack(source, out, shard_size=5)[1] == [f"{out} is packed already"]


def test_a_killed_pack_goes_on(pets, tmp_path):
    command = [sys.executable, "-m", "seed_jax.data", "pack", "imagefolder", str(tmp_path / "out")]
    command += ["--dir", str(pets), "--shard-size", "1", "--workers", "1"]
    os.mkfifo(
        pets / "val" / "dog" / "stuck.png"
    )  # nobody writes to it: here the pack waits, whatever its speed
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=os.getcwd()) as process:
        rescue = threading.Timer(60, process.kill)
        rescue.start()
        said = process.stdout.readline()  # from a pipe, as of `| tee`
        process.send_signal(signal.SIGKILL)
        rescue.cancel()
    assert said.startswith("1 of 24 images")
    assert not (tmp_path / "out" / "metadata.json").exists()
    written = {path: identity(path) for path in (tmp_path / "out").glob("*.array_record")}
    assert 1 <= len(written) < 24
    (pets / "val" / "dog" / "stuck.png").unlink()
    (pets / "val" / "dog" / "stuck.png").write_bytes(b"")  # as large, and no image
    assert main(command[3:]) == 0
    assert {path: identity(path) for path in written} == written
    (pets / "val" / "dog" / "stuck.png").unlink()
    source = open_source("imagefolder", "all", dir=str(pets))
    packed = open_source("arrayrecord", "all", dir=str(tmp_path / "out"))
    assert [tuple(r) for r in packed] == [tuple(r) for r in source]


@pytest.mark.parametrize("damage", [cut_short, lambda path: path.write_bytes(b""), os.unlink])
def test_a_shard_that_a_power_loss_cut_short_is_made_again(pets, tmp_path, damage):
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


def test_a_shard_is_on_the_disk_before_it_has_its_name(pets, tmp_path, monkeypatch):
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


def test_the_size_of_a_shard_is_that_which_it_was_written_with(pets, tmp_path):
    out = tmp_path / "out"
    with pytest.raises(UserError, match="array_record is missing or not whole"):
        packing.pack(
            open_source("imagefolder", "all", dir=str(pets)),
            out,
            progress=lambda line: cut_short(next(out.glob("*.array_record"))),
        )


def test_a_full_disk_is_one_sentence_and_the_pack_goes_on(pets, tmp_path):
    source = open_source("imagefolder", "all", dir=str(pets))
    limit = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, limit[1]))
    try:
        with pytest.raises(UserError, match=r"out cannot be written \(.*File too large\): mend that[^\n]*$"):
            pack(source, tmp_path / "out")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limit)
    assert len(pack(source, tmp_path / "out")[0]) == 23


def test_user_errors(pets, tmp_path):
    source = open_source("imagefolder", "all", dir=str(pets))
    with pytest.raises(UserError, match="is not empty"):
        pack(source, pets)
    pack(source, tmp_path / "out")
    with pytest.raises(UserError, match="holds another pack: short_side is 0 there and 8 here"):
        pack(source, tmp_path / "out", short_side=8)
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="cannot be written"):
        pack(source, tmp_path / "file")
    next((tmp_path / "out").glob("*.array_record")).unlink()
    with pytest.raises(UserError, match="array_record is missing or not whole; copy"):
        open_source("arrayrecord", "all", dir=str(tmp_path / "out"))
    with pytest.raises(UserError, match="no finished pack"):
        open_source("arrayrecord", "all", dir=str(pets))
    for foreign in ("{}", "[1]", '{"shards": []}', "text"):
        (pets / "metadata.json").write_text(foreign)
        with pytest.raises(
            UserError, match=r"no finished pack \((its metadata.json is that of|Expecting value)"
        ):
            open_source("arrayrecord", "all", dir=str(pets))
        with pytest.raises(UserError, match="pets holds another pack: .*: give another folder"):
            pack(source, pets)


def test_nothing_is_packed_into_a_bucket(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("seed_jax.data.__main__.open_source", lambda *a, **k: pytest.fail("listed"))
    assert main(["pack", "digits", "gs://bucket/x"]) == 1
    assert "OUT: gs://bucket/x is in a bucket" in capsys.readouterr().err
    with pytest.raises(UserError, match="OUT: gs://bucket/x is in a bucket, .* copy .* mount"):
        pack(open_source("digits", "val"), "gs://bucket/x")
    assert not list(tmp_path.iterdir())


def test_a_damaged_shard_is_bad_images(pets, tmp_path):
    packed, _ = pack(open_source("imagefolder", "all", dir=str(pets)), tmp_path / "out", shard_size=10)
    shard = tmp_path / "out" / packed.metadata["shards"][1][0]
    content = bytearray(shard.read_bytes())
    content[200:4000] = bytes(3800)
    shard.write_bytes(content)
    bad = pipeline.BadImages(packed)
    batch = next(train_batches(packed, VIEWS, 23, seed=0, bad=bad))
    assert {i for i in batch["bad"].tolist() if i >= 0} == set(bad.names) != set()
    assert set(bad.names) <= set(range(10, 20))  # of that shard
    assert packed[0].image


@pytest.fixture
def packed(tmp_path):
    """Two shards of random images, 30 kB each, and the second one's path."""
    noise = np.random.default_rng(0).integers(0, 256, (20, 100, 100, 3), np.uint8)
    packed, _ = pack(Arrays("noise", noise, None), tmp_path / "out", shard_size=10)
    return packed, tmp_path / "out" / packed.metadata["shards"][1][0]


@pytest.mark.parametrize("damage", [cut_short, os.unlink, lambda path: path.write_bytes(b"")])
def test_a_shard_that_is_not_whole_is_named_when_the_pack_is_opened(packed, damage):
    damage(packed[1])
    with pytest.raises(UserError, match=r"images-00001-of-00002.array_record is missing or not whole"):
        open_source("arrayrecord", "all", dir=str(packed[1].parent))


@pytest.mark.parametrize("damage", [cut_short, os.unlink, lambda path: path.write_bytes(b"")])
@pytest.mark.parametrize("sizes", [True, False])
def test_a_shard_that_is_lost_during_a_run_is_named(packed, damage, sizes):
    source, path = packed
    if not sizes:  # as packs were written before
        metadata = json.loads((path.parent / "metadata.json").read_text())
        metadata["shards"] = [shard[:2] for shard in metadata["shards"]]
        (path.parent / "metadata.json").write_text(json.dumps(metadata))
        source = open_source("arrayrecord", "all", dir=str(path.parent))
        if damage is cut_short:
            assert source[19].image  # so that the file is open when it is cut
    damage(path)
    assert source[0].image
    with pytest.raises(
        UserError, match=r"the shard .*images-00001-of-00002.array_record is missing, cut short"
    ):
        source[19]


def test_a_damaged_record_is_a_bad_image(packed):
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


def test_a_disk_that_fails_is_no_bad_image(packed, monkeypatch):
    source, path = packed

    class Failing:
        def __getitem__(self, i):
            raise RuntimeError(f"pread() failed: Input/output error; reading {path}; at byte 65536")

    monkeypatch.setattr(source, "records", Failing())
    with pytest.raises(
        UserError, match=r"the shard .*00001-of-00002.* unreadable \(pread\(\) failed: Input/out"
    ):
        source[19]


def test_names_that_are_not_utf8_are_escaped(tmp_path, capsys):
    (tmp_path / "in").mkdir()
    Image.new("RGB", (4, 4)).save(tmp_path / "in" / "ä.png")
    (tmp_path / "in" / "\udcff.png").write_bytes(b"")
    assert main(["inspect", "folder", "--dir", str(tmp_path / "in")]) == 0
    assert f"unreadable 1\n  {tmp_path}/in/\\udcff.png: an empty file\n" in capsys.readouterr().out
    assert main(["pack", "folder", "--dir", str(tmp_path / "in"), str(tmp_path / "out")]) == 0
    assert "left out:\n  \\udcff.png: an empty file\n" in capsys.readouterr().out
    with contextlib.redirect_stdout(io.StringIO()) as said:  # which has no encoding
        assert main(["inspect", "folder", "--dir", str(tmp_path / "in")]) == 0
    assert "\udcff.png" in said.getvalue()


def test_commands(pets, tmp_path, capsys):
    out = str(tmp_path / "out")
    (pets / "train" / "dog" / "01.png").write_bytes(b"no image")
    (pets / "train" / "dog" / "07.png").write_bytes((pets / "train" / "dog" / "07.png").read_bytes()[:500])
    assert main(["pack", "imagefolder", out, "--dir", str(pets), "--split", "train"]) == 0
    said = capsys.readouterr()
    assert f"17 images in {out}" in said.out
    assert "1 could not be read and were left out:\n  train/dog/01.png: not an image" in said.out
    assert json.loads((tmp_path / "out" / "metadata.json").read_text())["class_names"] == ["cat", "dog"]
    assert main(["inspect", "arrayrecord", "--dir", out]) == 0
    said = capsys.readouterr().out
    assert "2 classes of 8 to 9 images\n  cat: 9\n  dog: 8\n" in said
    assert "width      40 to 40, median 40" in said
    assert "JPEG RGB: 6" in said
    assert said.endswith("unreadable 0\n")
    assert main(["inspect", "arrayrecord", "--dir", out, "--all"]) == 0
    assert "unreadable 1\n  " + out + "/train/dog/07.png: " in capsys.readouterr().out
    assert main(["inspect", "imagefolder", "--dir", str(pets)]) == 0
    assert f"unreadable 1\n  {pets}/train/dog/01.png: not an image" in capsys.readouterr().out
    assert main(["inspect", "digits"]) == 0
    assert "array RGB: 1,797" in capsys.readouterr().out
    assert main(["inspect", "digit"]) == 1
    assert "did you mean 'digits'" in capsys.readouterr().err
