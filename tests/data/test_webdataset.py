import errno
import io
import json
import os
import tarfile

import pytest
from PIL import Image

from seed_jax.data import images
from seed_jax.data.sources import open_source, webdataset
from seed_jax.data.sources.webdataset import expand_braces
from seed_jax.errors import UserError


def jpeg(grey):
    out = io.BytesIO()
    Image.new("L", (9, 7), grey).save(out, "JPEG")
    return out.getvalue()


def shard(path, members, form=tarfile.PAX_FORMAT):
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w", format=form) as tar:
        for name, content in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))


@pytest.fixture
def shards(tmp_path):
    """Two shards of six images each; one image has its label in JSON, one has no label."""
    for s in range(2):
        members = {}
        for n in range(6):
            key = f"{'long-folder-name/' * 9}{s}{n}"  # over 100 letters: an extended header
            members[f"{key}.cls"] = str(n % 3).encode()
            members[f"{key}.jpg"] = jpeg(20 * n + s)
            members[f"{key}.txt"] = b"a caption"
        if s:
            del members[f"{key}.cls"], members[f"{'long-folder-name/' * 9}{s}4.cls"]
            members[f"{key}.json"] = json.dumps({"label": 7, "caption": "x"}).encode()
        path = tmp_path / "data" / f"x-{s:03}.tar"
        shard(path, members, [tarfile.PAX_FORMAT, tarfile.GNU_FORMAT][s])
        os.utime(path, (1e9, 1e9))
    return tmp_path / "data"


def test_reads_what_tarfile_reads(shards):
    source = open_source("webdataset", "all", dir=str(shards))
    assert source.labels().tolist() == [0, 1, 2, 0, 1, 2, 0, 1, 2, 0, -1, 7]
    assert (len(source), source.num_classes) == (12, 8)
    for i in range(12):
        name = "/".join(source.name(i).split("/")[-10:])
        with tarfile.open(source.shards[source.shard[i]]) as tar:
            assert source[i].image == tar.extractfile(name).read()
        assert source[i].id == source.ids()[i]
    assert images.decode(source[3]).shape == (7, 9, 3)


def test_ids_are_those_of_the_unpacked_files(shards, tmp_path):
    with tarfile.open(shards / "x-000.tar") as tar:
        tar.extractall(tmp_path / "files", filter="data")
    folder = open_source("folder", "all", dir=str(tmp_path / "files"))
    source = open_source("webdataset", "all", dir=str(shards / "x-000.tar"))
    assert source.ids().tolist() == folder.ids().tolist()


@pytest.mark.parametrize("pattern", ["", "x-*.tar", "x-{000..001}.tar", "{x-000,x-001}.tar"])
def test_patterns(shards, pattern):
    assert len(open_source("webdataset", "all", dir=str(shards / pattern))) == 12


def test_braces():
    assert expand_braces("a{08..11}b") == ["a08b", "a09b", "a10b", "a11b"]
    assert expand_braces("{x,y}-{0..1}") == ["x-0", "x-1", "y-0", "y-1"]


@pytest.mark.parametrize("writable", [True, False])
def test_the_index_is_built_once_and_again_when_a_shard_changes(shards, own_cache, monkeypatch, writable):
    if not writable:  # as on a read-only disk, even for root
        save = webdataset.cache.save
        monkeypatch.setattr(
            webdataset.cache, "save", lambda f, **a: False if f.parent == shards else save(f, **a)
        )
    before = open_source("webdataset", "all", dir=str(shards))
    assert (len(list(shards.glob(".seed_jax_index*"))), own_cache.exists()) == (
        writable,
        not writable,
    )
    build = webdataset._index
    monkeypatch.setattr(webdataset, "_index", lambda shards: pytest.fail("indexed again"))
    again = open_source("webdataset", "all", dir=str(shards))
    assert [tuple(r) for r in again] == [tuple(r) for r in before]
    assert again.fingerprint() == before.fingerprint()
    monkeypatch.setattr(webdataset, "_index", build)
    shard(shards / "x-001.tar", {"one.png": b"1"})
    changed = open_source("webdataset", "all", dir=str(shards))
    assert len(changed) == 7
    assert changed.fingerprint() != before.fingerprint()


@pytest.mark.parametrize("writable", [True, False])
def test_an_index_of_an_older_version_is_not_read(shards, own_cache, monkeypatch, writable):
    save = webdataset.cache.save
    with monkeypatch.context() as older:
        older.setattr(webdataset.cache, "FORMAT", 1)
        older.setattr(webdataset, "_label", lambda *a: None)
        if not writable:
            older.setattr(
                webdataset.cache, "save", lambda f, **a: False if f.parent == shards else save(f, **a)
            )
        assert open_source("webdataset", "all", dir=str(shards)).num_classes == 0
    assert len([*shards.glob(".seed_jax_index*"), *own_cache.rglob("*.npz")]) == 1
    assert open_source("webdataset", "all", dir=str(shards)).labels().max() == 7
    for index in shards.glob(".seed_jax_index*"):  # and a file that is not an index
        webdataset.cache.save(index, labels=[1])
    assert open_source("webdataset", "all", dir=str(shards)).labels().max() == 7


def test_labels_added_to_a_shard_are_seen(shards):
    for path in shards.iterdir():
        path.unlink()
    shard(shards / "x-000.tar", {"a.png": b"x"})
    os.utime(shards / "x-000.tar", (1e9, 1e9))
    assert open_source("webdataset", "all", dir=str(shards)).labels().tolist() == [-1]
    shard(shards / "x-000.tar", {"a.png": b"x", "a.cls": b"5"})
    assert open_source("webdataset", "all", dir=str(shards)).labels().tolist() == [5]


def test_without_a_label_in_json_the_cls_file_counts(tmp_path):
    members = {"a.json": b'{"caption": "x"}', "a.cls": b"3", "a.png": b"x"}
    members |= {"b.json": b'{"label": null}', "b.png": b"x", "c.json": b"[]", "c.png": b"x"}
    shard(tmp_path / "x.tar", members)
    assert open_source("webdataset", "all", dir=str(tmp_path)).labels().tolist() == [3, -1, -1]


def test_labels_are_whole_and_within_bounds(tmp_path):
    members = {"a.json": b'{"label": 2.0}', "b.json": b'{"label": -7}', "c.json": b'{"label": "4"}'}
    members |= {"d.cls": b"2147483647\n", "e.cls": b"-1"}
    shard(tmp_path / "x.tar", members | {f"{x}.png": b"x" for x in "abcde"})
    labels = webdataset.WebDataset(tmp_path).labels()
    assert labels.tolist() == [2, -1, 4, 2**31 - 1, -1]
    wrong = {
        "json": ["[3]", "1.7", "NaN", "1e400", "3000000000", '"x"'],
        "cls": ["2147483648", "9" * 30, "1.7"],
    }
    for kind, labels in wrong.items():
        for label in labels:
            content = f'{{"label": {label}}}' if kind == "json" else label
            shard(tmp_path / "x.tar", {f"a.{kind}": content.encode(), "a.png": b"x"})
            with pytest.raises(
                UserError, match=rf"a.{kind} in .*x.tar holds no whole number .* as label but "
            ):
                open_source("webdataset", "all", dir=str(tmp_path))
    shard(tmp_path / "x.tar", {"a.json": b"{label", "a.png": b"x"})
    with pytest.raises(UserError, match=r"a.json in .*x.tar cannot be read as JSON"):
        open_source("webdataset", "all", dir=str(tmp_path))


def test_system_errors_do_not_give_bad_images(shards, monkeypatch):
    source = open_source("webdataset", "all", dir=str(shards))

    def stale(path):
        raise OSError(errno.ESTALE, os.strerror(errno.ESTALE), path)

    monkeypatch.setattr(webdataset, "open_file", stale)
    with pytest.raises(UserError, match=r"x-000.tar is missing, .* unreadable \(.*Stale"):
        source[0]


def test_images_of_the_same_name_in_several_shards_have_different_ids(tmp_path):
    for s in range(3):
        shard(tmp_path / f"{s}.tar", {"0000.png": bytes([s]), "0000.cls": b"1"})
    source = open_source("webdataset", "all", dir=str(tmp_path))
    assert len(set(source.ids())) == 3
    assert [r.image for r in source] == [b"\0", b"\1", b"\2"]


def test_splits_from_the_names_of_shards(tmp_path):
    for s in ("in1k-train-000", "in1k-train-001", "in1k-val-000"):
        shard(tmp_path / f"{s}.tar", {f"{s}.{n}.webp".replace(".", "_", 1): b"x" for n in range(3)})
    sizes = [len(open_source("webdataset", s, dir=str(tmp_path))) for s in ("train", "val", "all")]
    assert sizes == [6, 3, 9]


def test_a_shard_that_vanishes_or_shrinks_is_named(shards):
    source = open_source("webdataset", "all", dir=str(shards))
    (shards / "x-000.tar").unlink()
    path = shards / "x-001.tar"
    path.write_bytes(path.read_bytes()[: int(source.offset[7]) + 30])
    good = images.decode(source[6])
    assert good.shape == (7, 9, 3)
    for i, name in ((0, "x-000.tar"), (7, "x-001.tar"), (8, "x-001.tar")):
        with pytest.raises(UserError, match=f"the shard .*{name} is missing, cut short or unreadable"):
            source[i]


def test_user_errors(tmp_path):
    def error(match, dir=tmp_path):
        with pytest.raises(UserError, match=match):
            open_source("webdataset", "all", dir=str(dir))

    error("no .tar file matches")
    error("there is no shard .*x-001.tar", tmp_path / "x-{001..002}.tar")
    shard(tmp_path / "a.tar", {"a.txt": b"x"})
    error("none of the 1 shards in .* contains an image")
    shard(tmp_path / "a.tar", {"a.png": b"x", "a.cls": b"cat"})
    error("a.cls in .*a.tar holds no whole number")
    whole = (tmp_path / "a.tar").read_bytes()
    for broken in (b"", b"no tar" * 500, whole[:700]):
        (tmp_path / "a.tar").write_bytes(broken)
        error("a.tar cannot be read as an uncompressed .tar|no image in")


def test_shards_in_a_bucket(shards, bucket, own_cache):
    for shard_ in shards.iterdir():
        bucket.pipe_file(f"gs://bucket/x/{shard_.name}", shard_.read_bytes())
    here = open_source("webdataset", "all", dir=str(shards))
    there = open_source("webdataset", "all", dir="gs://bucket/x")
    assert [tuple(r) for r in there] == [tuple(r) for r in here]
    assert len(open_source("webdataset", "all", dir="gs://bucket/x/x-{000..000}.tar")) == 6
    bucket.rm("gs://bucket/x/x-000.tar")
    with pytest.raises(UserError, match="the shard gs://bucket/x/x-000.tar is missing"):
        there[0]
