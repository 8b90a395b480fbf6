import builtins
import errno
import os

import pytest

from seed_jax.data import images, sources
from seed_jax.data.__main__ import main
from seed_jax.data.sources import base, cache, open_source
from seed_jax.data.sources import folder as folders
from seed_jax.errors import UserError


def touch(path):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(os.fsencode(path.name))


@pytest.fixture
def large(tmp_path, monkeypatch):
    """A folder that counts as large and was last changed long ago."""
    monkeypatch.setattr(cache, "WORTH", 10)
    root = tmp_path / "data"
    for part in ("train", "val"):
        for n in range(12):
            touch(root / part / f"class-{n % 3}" / f"{n}.png")
    for folder in (root, *root.rglob("*-*"), root / "train", root / "val"):
        os.utime(folder, (1e9, 1e9))
    return root


def listed(root, split="all"):
    source = open_source("imagefolder", split, dir=str(root))
    return [(source.name(i), source.ids()[i], source.labels()[i]) for i in range(len(source))]


def no_scan(monkeypatch):
    monkeypatch.setattr(folders, "_scan", lambda root: pytest.fail("listed again"))


def test_the_listing_of_a_large_folder_is_cached(large, monkeypatch):
    fresh = {split: listed(large, split) for split in base.SPLITS[:2]}
    fingerprint = open_source("folder", "all", dir=str(large)).fingerprint()
    no_scan(monkeypatch)
    assert {split: listed(large, split) for split in base.SPLITS[:2]} == fresh
    assert open_source("folder", "all", dir=str(large)).fingerprint() == fingerprint
    assert open_source("imagefolder", "all", dir=str(large)).class_names == ("class-0", "class-1", "class-2")


def test_a_listing_of_an_older_version_is_not_read(large, monkeypatch):
    listed(large)
    monkeypatch.setattr(cache, "FORMAT", cache.FORMAT + 1)
    no_scan(monkeypatch)
    with pytest.raises(pytest.fail.Exception, match="listed again"):
        listed(large)


@pytest.mark.parametrize("change", ["add", "remove", "rename folder", "new folder"])
def test_a_changed_folder_is_listed_again(large, change):
    before = listed(large)
    folder = large / "train" / "class-1"
    if change == "add":
        touch(folder / "new.png")
    elif change == "remove":
        (folder / "1.png").unlink()
    elif change == "rename folder":
        folder.rename(large / "train" / "class-9")
    else:
        touch(large / "train" / "class-9" / "1.png")
    assert listed(large) != before


def test_a_folder_that_changed_just_now_is_not_cached(tmp_path, monkeypatch, own_cache):
    monkeypatch.setattr(cache, "WORTH", 1)
    touch(tmp_path / "data" / "a" / "1.png")
    assert len(listed(tmp_path / "data")) == 1
    touch(tmp_path / "data" / "a" / "2.png")
    assert len(listed(tmp_path / "data")) == 2
    assert not own_cache.exists()


def test_a_broken_or_unwritable_cache_does_no_harm(large, monkeypatch, tmp_path, own_cache):
    fresh = listed(large)
    (kept,) = (own_cache / "seed_jax").iterdir()
    kept.write_bytes(kept.read_bytes()[:1000])
    assert listed(large) == fresh
    (tmp_path / "file").write_text("no folder")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    assert listed(large) == fresh


def test_small_folders_are_always_listed(large, monkeypatch, own_cache):
    monkeypatch.setattr(cache, "WORTH", 1000)
    listed(large)
    assert not own_cache.exists()


def test_links_are_followed_but_not_in_circles(tmp_path):
    touch(tmp_path / "data" / "a" / "1.png")
    touch(tmp_path / "other" / "2.png")
    (tmp_path / "data" / "linked").symlink_to(tmp_path / "other")
    (tmp_path / "data" / "a" / "up").symlink_to(tmp_path / "data")
    (tmp_path / "data" / "a" / "self").symlink_to(tmp_path / "data" / "a")
    (tmp_path / "data" / "nowhere.png").symlink_to(tmp_path / "gone")
    source = open_source("folder", "all", dir=str(tmp_path / "data"))
    assert list(source.paths) == ["a/1.png", "linked/2.png", "nowhere.png"]
    with pytest.raises(images.BadImage):
        source[2]


def test_names_are_sorted_as_paths_and_may_be_any_bytes(tmp_path):
    for name in ("b-x/1.png", "b/2.png", "b/1.png", "\udcff.png", "ä.png"):
        touch(tmp_path / "data" / name)
    source = open_source("folder", "all", dir=str(tmp_path / "data"))
    assert list(source.paths) == ["b-x/1.png", "b/1.png", "b/2.png", "ä.png", "\udcff.png"]
    assert source[4].image == b"\xff.png"
    assert source.paths.index("b/2.png") == 2
    assert source.paths[-1] == "\udcff.png"
    with pytest.raises(IndexError):
        source.paths[5]


def test_filelist(tmp_path):
    for n in range(4):
        touch(tmp_path / "data" / f"{n}.png")
    lists = tmp_path / "data" / "list.txt"
    lists.write_text("3.png\tdog\n1.png\tcat\n\n0.png\tdog\n")
    source = open_source("filelist", "all", dir=str(lists))
    assert [r.image for r in source] == [b"3.png", b"1.png", b"0.png"]
    assert source.labels().tolist() == [1, 0, 1]
    assert source.class_names == ("cat", "dog")
    whole = open_source("folder", "all", dir=str(tmp_path / "data"))
    assert set(source.ids()) < set(whole.ids())  # the same images have the same ids
    lists.write_text("3.png\t7\n1.png\t2\n")
    assert open_source("filelist", "all", dir=str(lists)).labels().tolist() == [7, 2]
    lists.write_text("3.png\n1.png")
    plain = open_source("filelist", "all", dir=str(lists))
    assert (plain.num_classes, plain.labels().tolist()) == (0, [-1, -1])
    assert plain.fingerprint() != source.fingerprint()


def test_labels_below_0_mean_no_label(tmp_path):
    for label, expected in (("-1", -1), ("-20", -1), ("0", 0), ("2147483647", 2**31 - 1)):
        (tmp_path / "list.txt").write_text(f"a.png\t3\nb.png\t{label}\n")
        source = folders.open_filelist(str(tmp_path / "list.txt"))
        assert source.labels().tolist() == [3, expected]
        assert (source.num_classes, source.class_names) == (max(3, expected) + 1, ())


def test_a_name_that_is_listed_twice_is_found_in_one_pass(tmp_path, monkeypatch):
    sorts = []
    monkeypatch.setattr(folders, "sorted", lambda x: sorts.append(1) or sorted(x), raising=False)
    (tmp_path / "list.txt").write_text("".join(f"{n:04}.png\n" for n in range(1000)) + "0998.png\n")
    with pytest.raises(UserError, match="0998.png is in .* twice"):
        open_source("filelist", "all", dir=str(tmp_path / "list.txt"))
    assert len(sorts) <= 1


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "is empty"),
        ("a\t1\nb\n", "b in .* has no label"),
        ("a\nb\na\n", "a is in .* twice"),
        ("a\t1\nb\t2147483648\n", "b in .*list.txt holds no whole number below .* but '2147483648': number"),
        ("a\t1\nb\t99999999999999999999\n", "b in .*list.txt holds .* but '99999999999999999999': number"),
        (f"a\t{'9' * 5000}\n", "a in .*list.txt holds no whole number .* but '9{39}: number"),
    ],
)
def test_filelist_errors(tmp_path, text, message):
    (tmp_path / "list.txt").write_text(text)
    with pytest.raises(UserError, match=message):
        open_source("filelist", "all", dir=str(tmp_path / "list.txt"))
    with pytest.raises(UserError, match="cannot be read"):
        open_source("filelist", "all", dir=str(tmp_path / "none.txt"))


def test_folders_in_a_bucket(bucket, tmp_path):
    names = ("train/a/1.png", "train/b/2.png", "val/a/3.png", "train/b/.hidden.png", "readme.txt")
    for name in names:
        touch(tmp_path / "data" / name)
        bucket.pipe_file(f"gs://bucket/data/{name}", os.path.basename(name).encode())
    there = open_source("imagefolder", "all", dir="gs://bucket/data")
    here = open_source("imagefolder", "all", dir=str(tmp_path / "data"))
    assert list(there.paths) == list(here.paths)
    assert [tuple(r) for r in there] == [tuple(r) for r in here]
    assert there.name(0) == "gs://bucket/data/train/a/1.png"
    assert len(open_source("folder", "val", dir="gs://bucket/data/")) == 1
    bucket.rm("gs://bucket/data/val/a/3.png")
    with pytest.raises(images.BadImage):
        there[2]
    bucket.pipe_file("gs://bucket/data/list.txt", b"train/b/2.png\n")
    (listed,) = open_source("filelist", "all", dir="gs://bucket/data/list.txt")
    assert listed[:2] == there[1][:2]
    with pytest.raises(UserError, match="no folder gs://bucket/none"):
        open_source("folder", "all", dir="gs://bucket/none")


def test_a_bucket_needs_gcsfs(monkeypatch):
    fsspec = pytest.importorskip("fsspec")

    def missing(name, **options):
        raise ImportError("Please install gcsfs to access Google Storage")

    monkeypatch.setattr(fsspec, "filesystem", missing)
    from etils.epath import backend

    backend.fsspec_backend._get_filesystem.cache_clear()
    with pytest.raises(UserError, match="gs://x needs a package that is not installed: Please install gcsfs"):
        open_source("folder", "all", dir="gs://x")
    with pytest.raises(UserError, match="data.subset: gs://x .*Please install gcsfs"):
        open_source("digits", "all", subset="gs://x")


def test_empty_split_folders_are_ignored(tmp_path):
    for n in range(20):
        touch(tmp_path / "data" / "train" / f"{n}.png")
    (tmp_path / "data" / "val").mkdir()
    sizes = [len(open_source("folder", split, dir=str(tmp_path / "data"))) for split in ("train", "all")]
    assert sizes[0] < sizes[1] == 20


@pytest.mark.parametrize("number", [errno.EMFILE, errno.ENFILE, errno.EIO, errno.ESTALE, errno.ETIMEDOUT])
def test_system_errors_do_not_give_bad_images(tmp_path, monkeypatch, number):
    touch(tmp_path / "data" / "a.png")
    source = open_source("folder", "all", dir=str(tmp_path / "data"))

    def failing(path, mode):
        raise OSError(number, os.strerror(number), path)

    with monkeypatch.context() as patch:
        patch.setattr(builtins, "open", failing)
        with pytest.raises(UserError, match=f"a.png cannot be read .{errno.errorcode[number]}: "):
            source[0]
    (tmp_path / "data" / "a.png").unlink()
    for damage in (lambda path: None, lambda path: path.mkdir()):
        damage(tmp_path / "data" / "a.png")
        with pytest.raises(images.BadImage):
            source[0]


def test_odd_lists(tmp_path):
    """A byte order mark and tabs without labels are ignored; large labels are an error."""
    for i in range(2):
        touch(tmp_path / f"{i}.png")
    (tmp_path / "list.txt").write_bytes(b"\xef\xbb\xbf0.png\t\n1.png\t\n")
    source = open_source("filelist", "all", dir=str(tmp_path / "list.txt"))
    assert (source.num_classes, source.labels().tolist()) == (0, [-1, -1])
    assert source[0].image == (tmp_path / "0.png").read_bytes()
    (tmp_path / "list.txt").write_text("0.png\tcat\n1.png\t\n")
    with pytest.raises(UserError, match="1.png in .* has no label, but other files have"):
        open_source("filelist", "all", dir=str(tmp_path / "list.txt"))
    (tmp_path / "list.txt").write_text("0.png\t0\n1.png\t42000000\n")
    with pytest.raises(UserError, match="labels up to 42,000,000 but only 2 images: number the classes from"):
        open_source("filelist", "all", dir=str(tmp_path / "list.txt"))


@pytest.fixture
def special(tmp_path):
    """A folder with two images, three special files and links to them, to nothing and to themselves."""
    root = tmp_path / "data"
    for n in range(2):
        touch(root / f"{n}.png")
    os.mkfifo(root / "pipe.png")
    os.mkfifo(root / "pipe")
    (root / "null.jpg").symlink_to("/dev/null")
    (root / "self.png").symlink_to(root / "self.png")
    (root / "self").symlink_to(root / "self")
    (root / "linked.png").symlink_to(root / "1.png")
    (tmp_path / "list.txt").write_text("data/0.png\ndata/pipe.png\ndata/self.png\n")
    return root


def test_fifos_sockets_and_devices_are_left_out(special, monkeypatch):
    sizes = {}
    for name in ("folder", "cached"):
        source = open_source("folder", "all", dir=str(special))
        sizes[name] = (list(source.paths), source.special)
        monkeypatch.setattr(cache, "WORTH", 1)
        os.utime(special, (1e9, 1e9))
    assert sizes["folder"] == sizes["cached"] == (["0.png", "1.png", "linked.png", "self.png"], 3)
    assert source[2].image == b"1.png"
    assert open_source("folder", "train", dir=str(special)).special == 3


def test_a_special_file_in_a_list_is_a_bad_image(special):
    source = open_source("filelist", "all", dir=str(special.parent / "list.txt"))
    with pytest.raises(images.BadImage, match="no regular file"):
        source[1]


def test_a_link_to_itself_is_named_by_its_own_name(special, capsys):
    assert main(["inspect", "folder", "--dir", str(special)]) == 0
    said = capsys.readouterr().out
    assert f"\n  {special}/self.png: Too many levels of symbolic links\n" in said
    assert "\n3 FIFOs, sockets and devices are left out\n" in said
    with pytest.raises(UserError, match=f"no folder {special}/self, and no .tar"):
        sources.settle("", str(special / "self"), "")


def test_a_folder_of_special_files_has_no_image(tmp_path):
    os.mkfifo(tmp_path / "a.png")
    with pytest.raises(UserError, match="there is no image in .* .it has 1 other files, for example a.png"):
        open_source("folder", "all", dir=str(tmp_path))
