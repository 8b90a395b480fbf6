import errno
import io
import os
import sys
import tarfile
import types

import numpy as np
import pytest
from PIL import Image

from seed_jax.data import images, sources
from seed_jax.data.pack import pack
from seed_jax.data.sources import folder, open_source, recognise
from seed_jax.errors import UserError


def save(path, colour=(200, 30, 30), size=(40, 30), **kwargs):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", size, colour).save(path, **kwargs)


@pytest.fixture
def pets(tmp_path):
    for n in range(30):
        save(tmp_path / "cat" / f"{n}.png")
        save(tmp_path / "dog" / "old" / f"{n}.JPG")
    return tmp_path


@pytest.mark.parametrize(
    ("name", "length", "classes"), [("digits", 1797, 10), ("photos", 520, 2), ("photos6", 1378, 6)]
)
def test_embedded_sources(name, length, classes):
    if name == "photos6":
        pytest.importorskip("skimage")
    source = open_source(name, "all")
    assert (len(source), source.num_classes) == (length, classes)
    record = source[7]
    assert record.image.shape == (32, 32, 3)
    assert record.image.dtype == np.uint8
    assert record.label == source.labels()[7]
    assert set(source.labels()) == set(range(classes))
    assert source.fingerprint() == open_source(name, "all").fingerprint()


def test_tiles_make_up_the_photograph():
    from sklearn.datasets import load_sample_images

    china = load_sample_images().images[0]
    np.testing.assert_array_equal(open_source("photos", "all")[21].image, china[32:64, 32:64])


def test_digits_keep_their_grey_levels():
    image = open_source("digits", "all")[0].image
    assert (image[..., 0] == image[..., 2]).all()
    assert image.max() > 220
    assert image[0, 0, 0] == 0


def test_splits_are_disjoint_complete_and_stable():
    parts = {split: {r.id for r in open_source("digits", split)} for split in ("train", "val", "test")}
    assert sum(map(len, parts.values())) == len(set.union(*parts.values())) == 1797
    assert 0.67 < len(parts["train"]) / 1797 < 0.73
    assert 0.08 < len(parts["val"]) / 1797 < 0.12
    # An id stays in its split whatever else is in the data.
    assert sources.split_of(np.array([3, 2**62 + 1]))[1] == sources.split_of(np.array([2**62 + 1]))[0]
    assert len({open_source("digits", s).fingerprint() for s in sources.SPLITS}) == 4


def test_split_labels_and_names_follow_the_samples():
    source = open_source("digits", "val")
    assert [r.label for r in source] == source.labels().tolist()
    assert source.name(0) == f"digits[{source[0].id}]"


def test_folder_is_nested_and_unlabelled(pets):
    (pets / "readme.txt").write_text("no image")
    save(pets / ".hidden" / "x.png")
    save(pets / "cat" / "._0.png")
    source = open_source("folder", "all", dir=str(pets))
    assert len(source) == 60
    assert source.num_classes == 0
    assert set(source.labels()) == {-1}
    assert source.name(0) == str(pets / "cat" / "0.png")
    assert images.decode(source[0]).shape == (30, 40, 3)


def test_folder_ids_depend_on_the_relative_path_alone(pets, tmp_path_factory):
    elsewhere = tmp_path_factory.mktemp("elsewhere")
    save(elsewhere / "cat" / "5.png")
    (ours,) = (r.id for r in open_source("folder", "all", dir=str(elsewhere)))
    source = open_source("folder", "all", dir=str(pets))
    assert source[source.paths.index("cat/5.png")].id == ours
    assert 0 <= ours < 2**63
    assert len({r.id for r in source}) == 60


def test_imagefolder_labels_by_the_first_sub_folder(pets):
    source = open_source("imagefolder", "all", dir=str(pets))
    assert source.num_classes == 2
    assert source.labels().tolist() == [0] * 30 + [1] * 30
    assert source[59].label == 1


def test_folder_with_its_own_splits(tmp_path):
    for split, classes in (("train", "abc"), ("val", "bc")):
        for name in classes:
            save(tmp_path / split / name / "1.png")
    train, val = (open_source("imagefolder", s, dir=str(tmp_path)) for s in ("train", "val"))
    assert (len(train), len(val)) == (3, 2)
    assert val.labels().tolist() == [1, 2]  # the classes are numbered over all splits
    assert val.num_classes == 3
    assert not {r.id for r in train} & {r.id for r in val}
    assert len(open_source("folder", "all", dir=str(tmp_path))) == 5
    with pytest.raises(UserError, match="'test'.*is empty"):
        open_source("folder", "test", dir=str(tmp_path))


def test_a_class_called_train_is_a_class(tmp_path):
    for name in ("train", "plane"):
        save(tmp_path / name / "1.png")
    assert open_source("imagefolder", "all", dir=str(tmp_path)).num_classes == 2


def test_folder_fingerprint_sees_added_and_changed_files(pets):
    before = open_source("folder", "all", dir=str(pets)).fingerprint()
    save(pets / "cat" / "5.png", size=(200, 200))
    changed = open_source("folder", "all", dir=str(pets)).fingerprint()
    save(pets / "cat" / "new.png")
    assert len({before, changed, open_source("folder", "all", dir=str(pets)).fingerprint()}) == 3


@pytest.mark.parametrize("shape", [(50, 6, 5, 3), (50, 6, 5)])
def test_npz(tmp_path, shape):
    image = np.random.default_rng(0).integers(0, 256, shape, np.uint8)
    np.savez(tmp_path / "x.npz", image=image, label=np.arange(50) % 3)
    source = open_source("npz", "all", dir=str(tmp_path / "x.npz"))
    assert (len(source), source.num_classes, source[4].label) == (50, 3, 1)
    expected = image[4] if image.ndim == 4 else np.stack([image[4]] * 3, -1)
    np.testing.assert_array_equal(source[4].image, expected)
    np.savez(tmp_path / "y.npz", image=image)
    unlabelled = open_source("npz", "all", dir=str(tmp_path / "y.npz"))
    assert unlabelled.num_classes == 0
    assert unlabelled.fingerprint() != source.fingerprint()


def test_npz_in_a_bucket(tmp_path, bucket):
    image = np.random.default_rng(0).integers(0, 256, (50, 6, 5, 3), np.uint8)
    np.savez(tmp_path / "x.npz", image=image, label=np.arange(50) % 3)
    bucket.pipe_file("gs://bucket/x.npz", (tmp_path / "x.npz").read_bytes())
    here = open_source("npz", "val", dir=str(tmp_path / "x.npz"))
    there = open_source("npz", "val", dir="gs://bucket/x.npz")
    np.testing.assert_array_equal(here[1].image, there[1].image)
    assert here[1][1:] == there[1][1:]
    assert here.fingerprint() == there.fingerprint()
    with pytest.raises(UserError, match="gs://bucket/y.npz cannot be read as an .npz"):
        open_source("npz", "all", dir="gs://bucket/y.npz")


@pytest.mark.parametrize("name", ["arrayrecord", "tfds:cifar10"])
def test_packs_and_tfds_are_not_read_from_a_bucket(name):
    with pytest.raises(UserError, match="data.dir: gs://bucket/x is in a bucket, .* copy .* mount"):
        open_source(name, "train", dir="gs://bucket/x")


@pytest.mark.parametrize("name", ["folder", "webdataset"])
@pytest.mark.parametrize("kind", ["HttpError", "OSError"])
def test_a_bucket_that_refuses(bucket, monkeypatch, name, kind):
    """gcsfs raises OSError for a 403, but its own class for a 401."""
    gcsfs = types.ModuleType("gcsfs.retry")
    gcsfs.HttpError = type("HttpError", (Exception,), {})
    monkeypatch.setitem(sys.modules, "gcsfs.retry", gcsfs)
    error = {"HttpError": gcsfs.HttpError, "OSError": OSError}[kind]

    def refuse(self, path, **options):
        raise error("Forbidden: b/x\nno access, 401")

    with monkeypatch.context() as patch:
        patch.setattr(type(bucket), "isdir", refuse)
        with pytest.raises(UserError, match=r"gs://x cannot be read \(Forbidden: b/x no access, 401\)"):
            open_source(name, "all", dir="gs://x")
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w") as tar:
        tar.addfile(tarfile.TarInfo("a.png"))
    bucket.pipe_file(f"gs://x/a.{'png' if name == 'folder' else 'tar'}", file.getvalue())
    source = open_source(name, "all", dir="gs://x")
    monkeypatch.setattr(type(bucket), "open", refuse)
    with pytest.raises(UserError, match=r"gs://x/a.* \(Forbidden: b/x no access, 401\)"):
        source[0]


def test_user_errors_of_names(tmp_path):
    with pytest.raises(UserError, match="did you mean 'digits'"):
        open_source("digit", "train")
    with pytest.raises(UserError, match="it is one of arrayrecord, cifar10, cifar100, .*tiny_imagenet"):
        open_source("xyzzy", "train")
    with pytest.raises(UserError, match="split 'trian' is unknown"):
        open_source("digits", "trian")
    with pytest.raises(UserError, match="data.dir is not set, and the source 'folder'"):
        open_source("folder", "train")


def test_user_errors_of_folders(tmp_path):
    with pytest.raises(UserError, match="no folder .*nowhere"):
        open_source("folder", "train", dir=str(tmp_path / "nowhere"))
    with pytest.raises(UserError, match="it is empty"):
        open_source("folder", "train", dir=str(tmp_path))
    (tmp_path / "a.mp4").write_text("film")
    with pytest.raises(UserError, match=r"1 other files, for example a.mp4\)"):
        open_source("folder", "train", dir=str(tmp_path))
    save(tmp_path / "b.png")
    with pytest.raises(UserError, match="b.png .*is in no class folder"):
        open_source("imagefolder", "train", dir=str(tmp_path))


def test_a_split_may_be_empty(tmp_path):
    np.savez(tmp_path / "one.npz", image=np.zeros((1, 4, 4, 3), np.uint8))
    other = "val" if sources.split_of(np.array([0]))[0] != 1 else "test"
    with pytest.raises(UserError, match=f"'{other}' of .*one.npz is empty"):
        open_source("npz", other, dir=str(tmp_path / "one.npz"))


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({"images": np.zeros((2, 4, 4, 3), np.uint8)}, "no array `image`"),
        ({"image": np.zeros((2, 4, 4, 3), np.float32)}, "is a float32 array"),
        ({"image": np.zeros((2, 4, 4, 4), np.uint8)}, "save it as uint8"),
        (
            {"image": np.zeros((2, 4, 4), np.uint8), "label": np.zeros(3, int)},
            r"int64 array of shape \[3\]: .* one whole number per image, shape \[2\]",
        ),
        ({"image": np.zeros((2, 4, 4), np.uint8), "label": np.zeros(2)}, "float64 .*: save one whole"),
        (
            {"image": np.zeros((2, 4, 4), np.uint8), "label": np.array([0, 3_000_000_000])},
            r"`label` in .*x.npz holds no whole number below 2\*\*31 as label but 3000000000: number",
        ),
        (
            {"image": np.zeros((2, 4, 4), np.uint8), "label": np.array([0, 2**64 - 1], np.uint64)},
            "as label but 18446744073709551615: number",
        ),
    ],
)
def test_user_errors_of_npz(tmp_path, arrays, message):
    np.savez(tmp_path / "x.npz", **arrays)
    with pytest.raises(UserError, match=message):
        open_source("npz", "all", dir=str(tmp_path / "x.npz"))


def test_a_file_that_is_not_npz(tmp_path):
    (tmp_path / "x.npz").write_bytes(b"PK\x03\x04 not a zip")
    np.save(tmp_path / "x.npy", np.zeros((2, 4, 4), np.uint8))
    with pytest.raises(UserError, match="no array `image`"):
        open_source("npz", "all", dir=str(tmp_path / "x.npy"))
    for path in ("x.npz", "missing.npz"):
        with pytest.raises(UserError, match="cannot be read as an .npz"):
            open_source("npz", "all", dir=str(tmp_path / path))


def test_a_damaged_npz(tmp_path):
    path = tmp_path / "x.npz"
    np.savez_compressed(path, image=np.random.default_rng(0).integers(0, 4, (50, 6, 5, 3), np.uint8))
    whole = path.read_bytes()
    deflated = whole[:500] + b"\xff" * 100 + whole[600:]
    encrypted = bytearray(whole)
    encrypted[whole.rindex(b"PK\x01\x02") + 8] |= 1  # the flag of an encrypted member
    for damaged, why in ((b"", "No data left"), (deflated, "Error -3|invalid"), (encrypted, "encrypted")):
        path.write_bytes(damaged)
        with pytest.raises(UserError, match=rf"x.npz cannot be read as an .npz file \(.*({why})"):
            open_source("npz", "all", dir=str(path))


def test_npz_labels_below_0_mean_no_label(tmp_path):
    np.savez(tmp_path / "x.npz", image=np.zeros((4, 4, 4), np.uint8), label=np.array([1, -1, -7, 0]))
    source = open_source("npz", "all", dir=str(tmp_path / "x.npz"))
    assert (source.labels().tolist(), source.num_classes) == ([1, -1, -1, 0], 2)


@pytest.mark.parametrize("source", [None, "webdataset", "folder"])
def test_a_folder_that_may_not_be_listed(tmp_path, monkeypatch, source):
    save(tmp_path / "a.png")

    def refuse(path):  # refuses root too
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), os.fspath(path))

    monkeypatch.setattr(os, "listdir", refuse)
    monkeypatch.setattr(os, "scandir", refuse)
    message = rf"data.dir: {tmp_path}/? cannot be (read|listed) \(Permission denied\): make it readable."
    with pytest.raises(UserError, match=message):
        if source:
            open_source(source, "all", dir=str(tmp_path))
        else:
            recognise(str(tmp_path))


def test_recognise(tmp_path, bucket):
    """A user who packs or tars a folder of images still names only the folder."""
    for i in range(4):
        save(tmp_path / "images" / "a" / f"{i}.png")
    (tmp_path / "images" / "metadata.json").write_text("{}")
    pack(open_source("folder", "all", dir=str(tmp_path / "images")), tmp_path / "packed")
    (tmp_path / "shards").mkdir()
    with tarfile.open(tmp_path / "shards" / "x.tar", "w") as tar:
        tar.add(tmp_path / "images" / "a" / "0.png", "0.png")
    (tmp_path / "list.txt").write_text("images/a/0.png\nimages/a/3.png\n")
    np.savez(tmp_path / "x.npz", image=np.zeros((3, 8, 8, 3), np.uint8))
    counts = {"images": 4, "packed": 4, "shards": 1, "shards/x.tar": 1, "list.txt": 2, "x.npz": 3}
    found = {path: recognise(str(tmp_path / path)) for path in counts}
    assert found == {
        "images": "folder",
        "packed": "arrayrecord",
        "shards": "webdataset",
        "shards/x.tar": "webdataset",
        "list.txt": "filelist",
        "x.npz": "npz",
    }
    for path, count in counts.items():
        assert len(open_source(found[path], "all", dir=str(tmp_path / path))) == count
    (tmp_path / "unpacked" / "train").mkdir(parents=True)
    (tmp_path / "unpacked" / "train.tar").touch()
    save(tmp_path / "unpacked" / "train" / "a.png")
    assert (recognise("photos6"), recognise(str(tmp_path / "unpacked"))) == (None, "folder")
    bucket.pipe_file("gs://x/in/a.png", b"")
    assert (recognise("gs://x/in"), recognise("gs://x/out")) == ("folder", None)


CLASS_FOLDERS = {  # files, and whether their folders are classes
    "classes": ([f"{c}/{n}.png" for c in "ab" for n in range(2)], True),
    "own splits": ([f"{s}/{c}/{n}.png" for s in ("train", "val") for c in "ab" for n in range(2)], True),
    "an image in no folder": ([f"{c}/{n}.png" for c in "ab" for n in range(9)] + ["x.png"], False),
    "an image of no class": (
        [f"{s}/a/{n}.png" for s in ("train", "val") for n in range(9)] + ["val/x.png"],
        False,
    ),
    "own splits, one as in tfds": (
        [f"{s}/{c}/{n}.png" for s in ("train", "validation") for c in "ab" for n in range(2)],
        True,
    ),
    "images next to the splits": (
        [f"{s}/{c}/{n}.png" for s in ("train", "val") for c in "ab" for n in range(2)]
        + ["samples/1.png", "x/y/1.png", "z.png"],
        True,
    ),
    "one folder": ([f"a/{n}.png" for n in range(9)], False),
    "one folder with images": ([f"a/{n}.png" for n in range(9)] + ["b/readme.txt"], False),
    "splits without classes": ([f"{s}/{n}.png" for s in ("train", "test") for n in range(9)], False),
    "one image per folder": ([f"{n}/a.png" for n in range(9)], False),
    "more than half as many folders": ([f"{n}/a.png" for n in range(9)] + ["0/b.png"], False),
    "nested": ([f"{y}/{m}/{n}.png" for y in "ab" for m in "cd" for n in range(9)], False),
}


@pytest.mark.parametrize("name", CLASS_FOLDERS)
def test_a_folder_of_classes_is_recognised(tmp_path, name):
    files, labelled = CLASS_FOLDERS[name]
    for file in files:
        save(tmp_path / file, format="PNG")
    root = str(tmp_path)
    source, train = sources.settle("", root, "")
    assert (recognise(root), source, train) == (
        ("imagefolder", "imagefolder", "train") if labelled else ("folder", "folder", "all")
    )
    assert sources.settle("", root, "val") == (source, "val")
    assert sources.settle("folder", root, "") == ("folder", "all")  # exactly what the user says
    assert open_source(source, "all", dir=root).num_classes == (2 if labelled else 0)


@pytest.mark.parametrize(
    ("strays", "sentence"),
    [
        ([], None),
        (["x.png"], "x.png is not directly in a class folder: move it away"),
        (["b/c/1.png"], "b/c/1.png is not directly in a class folder: move it away"),
        (["x.png", "y.png"], "x.png and 1 more are not directly in a class folder: move them away"),
        ([f"c/{c}/{n}.png" for c in "de" for n in range(9)], ""),
        ([f"{n}.png" for n in range(9)], ""),
    ],
)
def test_what_prevents_classes_is_named(tmp_path, strays, sentence):
    for file in [f"{c}/{n}.png" for c in "ab" for n in range(2)] + strays:
        save(tmp_path / file, format="PNG")
    assert sources.no_classes(str(tmp_path)) == (sentence and f"{sentence} and the sub-folders are classes")


def test_images_next_to_the_splits_have_no_class(tmp_path):
    for file in ("train/a/1.png", "val/b/1.png", "samples/1.png", "a/1.png"):
        save(tmp_path / file, format="PNG")
    source = open_source("imagefolder", "all", dir=str(tmp_path))
    assert source.class_names == ("a", "b")
    assert {os.path.relpath(source.name(i), tmp_path): int(source.labels()[i]) for i in range(4)} == {
        "a/1.png": -1,
        "samples/1.png": -1,
        "train/a/1.png": 0,
        "val/b/1.png": 1,
    }


@pytest.mark.parametrize(
    ("splits", "scored"),
    [
        (("train", "val"), ("val", "val")),
        (("train", "validation"), ("val", "val")),
        (("train", "test"), ("test", "test")),
        (("train", "val", "test"), ("val", "test")),
        (("",), ("val", "test")),
    ],
)
def test_one_split_to_score_stands_for_both(tmp_path, splits, scored):
    for split in splits:
        for n in range(4):
            save(tmp_path / split / "ab"[n % 2] / f"{n}.png", format="PNG")
    assert sources.scored_splits("imagefolder", str(tmp_path), "val", "test") == scored
    assert sources.scored_splits("imagefolder", str(tmp_path), "train", "test") == ("train", "test")


def test_a_folder_is_listed_once(tmp_path, monkeypatch):
    save(tmp_path / "a" / "1.png", format="PNG")
    listed, list_it = [], folder._list
    monkeypatch.setattr(folder, "_list", lambda root: listed.append(root) or list_it(root))
    with sources.listed_once():
        sources.settle("", str(tmp_path), "")
        open_source("folder", "all", dir=str(tmp_path))
        assert listed == [str(tmp_path)]
    save(tmp_path / "a" / "2.png", format="PNG")
    assert len(open_source("folder", "all", dir=str(tmp_path))) == 2


def test_what_cannot_be_recognised(tmp_path):
    (tmp_path / "a.png").touch()
    for place in ("none", "a.png"):
        with pytest.raises(UserError, match=f"data.dir: there is no folder {tmp_path}/{place}, and no .tar"):
            sources.settle("", str(tmp_path / place), "")
    with pytest.raises(UserError, match="data.source is '', .* data.dir, .* --config.data.dir=FOLDER"):
        sources.settle("", "", "train")


@pytest.mark.parametrize("name", sources.EMBEDDED)
def test_an_embedded_source_takes_no_folder(name, tmp_path):
    match = (
        f"data.dir is {tmp_path}, but the source '{name}' .*configs/seed_folder.py, or --config.data.source= "
    )
    with pytest.raises(UserError, match=match):
        open_source(name, "all", dir=str(tmp_path))


def test_the_source_photographs_is_gone():
    with pytest.raises(UserError, match="Unknown data.source 'photographs'"):
        open_source("photographs", "all")
