"""ImageNet and Tiny ImageNet as their archives unpack, with a devkit written by scipy."""

import io
import shutil
import tarfile

import numpy as np
import pytest
import scipy.io
from PIL import Image

from seed_jax.data import images
from seed_jax.data.sources import open_source, recognise, scored_splits, settle
from seed_jax.errors import UserError

SYNSETS = ("n01440764", "n02123045", "n03000247")  # sorted; the devkit numbers them 3, 1, 2
NUMBERS = (3, 1, 2)
TRUTH = "ILSVRC2012_validation_ground_truth.txt"


def save(path, grey):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (9, 7), (grey, grey, grey)).save(path, "PNG")


def meta(synsets=SYNSETS, numbers=NUMBERS):
    """meta.mat: a struct array, with an inner node of the tree after the classes."""
    kinds = [("ILSVRC2012_ID", "O"), ("WNID", "O"), ("words", "O"), ("num_children", "O")]
    rows = [(float(n), wnid, "a, b", 0.0) for n, wnid in sorted(zip(numbers, synsets, strict=True))]
    rows.append((float(len(rows) + 1), "n00001740", "entity", 3.0))
    file = io.BytesIO()
    scipy.io.savemat(file, {"synsets": np.array(rows, kinds).reshape(-1, 1)})
    return file.getvalue()


def devkit(folder, how, truth, content):
    """Write the ground truth and meta.mat as the unpacked devkit, as its archive, or as two files."""
    files = {TRUTH: "".join(f"{n}\n" for n in truth).encode(), "meta.mat": content, "map_clsloc.txt": b"x"}
    data = "ILSVRC2012_devkit_t12/data"
    if how == "archive":
        with tarfile.open(folder / "ILSVRC2012_devkit_t12.tar.gz", "w:gz") as tar:
            for name, content in files.items():
                member = tarfile.TarInfo(f"{data}/{name}")
                member.size = len(content)
                tar.addfile(member, io.BytesIO(content))
        return
    place = folder / data if how == "unpacked" else folder
    place.mkdir(parents=True, exist_ok=True)
    for name, content in files.items():
        (place / name).write_bytes(content)


@pytest.fixture
def imagenet(tmp_path):
    """Four training images of each class, six flat validation images, two test images."""
    for c, synset in enumerate(SYNSETS):
        for n in range(4):
            save(tmp_path / "train" / synset / f"{synset}_{n}.JPEG", 10 * c + n)
    for n in range(1, 7):
        save(tmp_path / "val" / f"ILSVRC2012_val_{n:08}.JPEG", 100 + n)
    for n in range(1, 3):
        save(tmp_path / "test" / f"ILSVRC2012_test_{n:08}.JPEG", 200 + n)
    return tmp_path


LABELS = [1, 2, 0, 0, 2, 1]  # of the validation images
VALUES = [NUMBERS[label] for label in LABELS]


def by_name(source, root):
    return {source.name(i).removeprefix(f"{root}/"): int(source.labels()[i]) for i in range(len(source))}


@pytest.mark.parametrize("how", ["unpacked", "archive", "files"])
def test_flat_validation_images(imagenet, how):
    devkit(imagenet, how, VALUES, meta())
    root = str(imagenet)
    assert settle("", root, "") == ("imagenet", "train")
    assert scored_splits("imagenet", root, "val", "test") == ("val", "val")
    val = open_source("imagenet", "val", dir=root)
    assert by_name(val, root) == {
        f"val/ILSVRC2012_val_{n:08}.JPEG": label for n, label in enumerate(LABELS, 1)
    }
    assert images.decode(val[2])[0, 0].tolist() == [103] * 3 and val[2].label == 0
    assert val.class_names == SYNSETS and val.num_classes == 3
    train = open_source("imagenet", "train", dir=root)
    assert train.labels().tolist() == [0] * 4 + [1] * 4 + [2] * 4
    everything = open_source("imagenet", "all", dir=root)
    assert len(everything) == 20 and sorted(everything.labels())[:2] == [-1, -1]
    same = open_source("folder", "all", dir=root)
    np.testing.assert_array_equal(everything.ids(), same.ids())
    before = everything.fingerprint()
    devkit(imagenet, how, sorted(VALUES), meta())
    assert before != open_source("imagenet", "all", dir=root).fingerprint()


def test_validation_images_in_class_folders_as_imagefolder(imagenet):
    shutil.rmtree(imagenet / "val")
    shutil.rmtree(imagenet / "test")
    for n, label in enumerate(LABELS, 1):
        save(imagenet / "val" / SYNSETS[label] / f"ILSVRC2012_val_{n:08}.JPEG", n)
    root = str(imagenet)
    assert recognise(root) == "imagefolder"
    for split in ("train", "val"):
        ours, theirs = (open_source(name, split, dir=root) for name in ("imagenet", "imagefolder"))
        assert by_name(ours, root) == by_name(theirs, root)
        np.testing.assert_array_equal(ours.ids(), theirs.ids())
    devkit(imagenet, "archive", VALUES, meta())
    assert recognise(root) == "imagenet"


@pytest.mark.parametrize("text", ["n03000247\nn01440764\n", "n01440764 tench, Tinca tinca\n\nn03000247 mail"])
def test_classes_of_a_list(imagenet, text):
    """As for ImageNet-100: the classes are numbered in sorted order, whatever the list's."""
    devkit(imagenet, "unpacked", VALUES, meta())
    (imagenet / "imagenet100.txt").write_text(text)
    place = str(imagenet / "imagenet100.txt")
    assert settle("", place, "") == ("imagenet", "train")
    train, val, everything = (open_source("imagenet", s, dir=place) for s in ("train", "val", "all"))
    assert train.class_names == ("n01440764", "n03000247") and train.num_classes == 2
    assert train.labels().tolist() == [0] * 4 + [1] * 4
    new = {0: 0, 2: 1}
    assert by_name(val, imagenet) == {
        f"val/ILSVRC2012_val_{n:08}.JPEG": new[label] for n, label in enumerate(LABELS, 1) if label in new
    }
    assert len(everything) == len(train) + len(val) and set(everything.ids()) == {*train.ids(), *val.ids()}
    complete = open_source("imagenet", "all", dir=str(imagenet))
    assert set(train.ids()) < set(complete.ids()) and train.fingerprint() != complete.fingerprint()


def test_a_list_of_files_is_no_list_of_classes(imagenet):
    (imagenet / "list.txt").write_text("train/n01440764/n01440764_0.JPEG\n")
    assert recognise(str(imagenet / "list.txt")) == "filelist"
    (imagenet / "list.txt").write_bytes(b"\xff\xfe")
    assert recognise(str(imagenet / "list.txt")) == "filelist"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            lambda root: shutil.rmtree(root / "ILSVRC2012_devkit_t12"),
            f"no {TRUTH}: put ILSVRC2012_devkit_t12",
        ),
        (
            lambda root: (root / "ILSVRC2012_devkit_t12/data/meta.mat").unlink(),
            f"has {TRUTH} but no meta.mat",
        ),
        (lambda root: shutil.rmtree(root / "val"), "no image in .*/val: unpack ILSVRC2012_img_val.tar there"),
        (lambda root: shutil.rmtree(root / "train"), "no image in .*/train: unpack ILSVRC2012_img_train.tar"),
        (lambda root: devkit(root, "unpacked", VALUES, meta()[:-40]), "data/meta.mat is damaged"),
        (lambda root: devkit(root, "unpacked", VALUES, b""), "data/meta.mat is damaged"),
        (lambda root: devkit(root, "unpacked", VALUES, b"no mat" * 99), "data/meta.mat is damaged"),
        (lambda root: devkit(root, "unpacked", VALUES, meta(("a", "b", "c"))), "not called as n01440764"),
        (lambda root: devkit(root, "unpacked", ["x"] * 6, meta()), f"{TRUTH} is damaged .*line 1 is 'x'"),
        (lambda root: devkit(root, "unpacked", [4] * 6, meta()), "line 1 is '4', no class of meta.mat"),
        (
            lambda root: devkit(root, "unpacked", VALUES[:5], meta()),
            "no class for the image ILSVRC2012_val_0{7}6",
        ),
        (
            lambda root: (root / "val/ILSVRC2012_val_00000003.JPEG").unlink(),
            "has 5 of the 6 images in .*ground_truth.txt, and not ILSVRC2012_val_00000003: unpack",
        ),
        (
            lambda root: shutil.rmtree(root / "train/n02123045"),
            "val_00000001.JPEG .* of none of the 2 classes",
        ),
        (lambda root: save(root / "train/loose.JPEG", 1), "train/loose.JPEG .* is of none of the 3 classes"),
        (lambda root: save(root / "train/cats/1.JPEG", 1), "cats in .*/train is no class of ImageNet"),
    ],
)
def test_what_is_missing_or_damaged_is_named(imagenet, change, message):
    devkit(imagenet, "unpacked", VALUES, meta())
    change(imagenet)
    with pytest.raises(UserError, match=message):
        open_source("imagenet", "all", dir=str(imagenet))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("n01440764\nn09999999", "lists the class n09999999, of which .*/train has no image"),
        (
            "n01440764\ntench",
            "imagenet100.txt: 'tench' is no class: write one class a line, such as n01440764",
        ),
        ("", "imagenet100.txt: it is empty"),
        (None, "there is no .*imagenet100.txt"),
    ],
)
def test_hostile_lists(imagenet, text, message):
    devkit(imagenet, "unpacked", VALUES, meta())
    if text is not None:
        (imagenet / "imagenet100.txt").write_text(text)
    with pytest.raises(UserError, match=message):
        open_source("imagenet", "train", dir=str(imagenet / "imagenet100.txt"))


def test_a_damaged_devkit_archive_is_named(imagenet):
    devkit(imagenet, "archive", VALUES, meta())
    path = imagenet / "ILSVRC2012_devkit_t12.tar.gz"
    path.write_bytes(path.read_bytes()[:-30])
    with pytest.raises(UserError, match="ILSVRC2012_devkit_t12.tar.gz is damaged"):
        open_source("imagenet", "all", dir=str(imagenet))


WNIDS = ("n02124075", "n01443537", "n07749582")  # not sorted, as in the original


@pytest.fixture
def tiny(tmp_path):
    root = tmp_path / "tiny-imagenet-200"
    for c, synset in enumerate(WNIDS):
        for n in range(3):
            save(root / "train" / synset / "images" / f"{synset}_{n}.JPEG", 10 * c + n)
        (root / "train" / synset / f"{synset}_boxes.txt").write_text("x")
    for n in range(4):
        save(root / "val" / "images" / f"val_{n}.JPEG", 100 + n)
        save(root / "test" / "images" / f"test_{n}.JPEG", 200 + n)
    (root / "val" / "val_annotations.txt").write_text(
        "".join(f"val_{n}.JPEG\t{WNIDS[n % 3]}\t0\t32\t44\t62\n" for n in range(4))
    )
    (root / "wnids.txt").write_text("\n".join(WNIDS) + "\n")
    (root / "words.txt").write_text("n00001740\tentity\n")
    return root


def test_tiny_imagenet(tiny):
    root = str(tiny)
    assert settle("", root, "") == ("tiny_imagenet", "train")
    assert scored_splits("tiny_imagenet", root, "val", "test") == ("val", "val")
    train, val, everything = (open_source("tiny_imagenet", s, dir=root) for s in ("train", "val", "all"))
    assert train.class_names == tuple(sorted(WNIDS)) and train.num_classes == 3
    assert [train.class_names[n] for n in train.labels()] == [w for w in sorted(WNIDS) for _ in range(3)]
    assert all(f"/{train.class_names[r.label]}_" in train.name(i) for i, r in enumerate(train))
    assert by_name(val, root) == {
        f"val/images/val_{n}.JPEG": sorted(WNIDS).index(WNIDS[n % 3]) for n in range(4)
    }
    assert images.decode(val[3])[0, 0].tolist() == [103] * 3
    assert len(everything) == 17 and (everything.labels() < 0).sum() == 4
    np.testing.assert_array_equal(everything.ids(), open_source("folder", "all", dir=root).ids())


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda root: (root / "wnids.txt").unlink(), "no .*wnids.txt: unpack the archive again"),
        (lambda root: (root / "val/val_annotations.txt").unlink(), "no .*val_annotations.txt: unpack"),
        (
            lambda root: (root / "val/val_annotations.txt").write_text("val_0.JPEG"),
            "the line 'val_0.JPEG' has no",
        ),
        (lambda root: (root / "val/val_annotations.txt").write_bytes(b"\xff"), "annotations.txt is damaged"),
        (
            lambda root: (root / "val/val_annotations.txt").write_text("val_0.JPEG\tn02124075\n"),
            "val_annotations.txt has no class for the image val_1",
        ),
        (
            lambda root: (root / "val/images/val_2.JPEG").unlink(),
            "has 3 of the 4 images in .*, and not val_2",
        ),
        (lambda root: (root / "wnids.txt").write_text("n02124075\nn01443537\n"), "of none of the 2 classes"),
        (lambda root: shutil.rmtree(root), "there is no folder"),
    ],
)
def test_what_tiny_imagenet_lacks_is_named(tiny, change, message):
    change(tiny)
    with pytest.raises(UserError, match=message):
        open_source("tiny_imagenet", "train", dir=str(tiny))


def test_joined_splits(imagenet):
    devkit(imagenet, "unpacked", VALUES, meta())
    both = open_source("imagenet", "train+val", dir=str(imagenet))
    assert len(both) == 18
    for split in ("train+", "train+all", "+", "train+trian", ""):
        with pytest.raises(UserError, match="is unknown; choose one of train, val, test, all, or join"):
            open_source("imagenet", split, dir=str(imagenet))
