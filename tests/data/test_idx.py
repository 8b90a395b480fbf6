"""IDX files written with struct, and the real Fashion-MNIST where Debian's package is installed."""

import gzip
import os
import struct

import numpy as np
import pytest

from seed_jax.data.sources import open_source, recognise, settle
from seed_jax.errors import UserError

FASHION = "/usr/share/datasets/fashion-mnist"


def encoded(array, code=8):
    return struct.pack(f">BBBB{array.ndim}I", 0, 0, code, array.ndim, *array.shape) + array.tobytes()


def made(prefix="", test="t10k", dot="-", first=0):
    """Images, labels and files of 60 training and 15 test images of 5 x 4 pixels."""
    draw = np.random.default_rng(3)
    images, labels = (
        draw.integers(0, 256, (75, 5, 4), np.uint8),
        (np.arange(75) % 10 + first).astype(np.uint8),
    )
    files = {}
    for part, rows in (("train", slice(60)), (test, slice(60, 75))):
        files[f"{prefix}{part}-images{dot}idx3-ubyte"] = encoded(images[rows])
        files[f"{prefix}{part}-labels{dot}idx1-ubyte"] = encoded(labels[rows])
    return images, labels, files


def save(folder, files, compressed=True):
    folder.mkdir(exist_ok=True, parents=True)
    for name, content in files.items():
        path = folder / (f"{name}.gz" if compressed else name)
        path.write_bytes(gzip.compress(content, mtime=0) if compressed else content)
    return folder


@pytest.mark.parametrize("compressed", [True, False])
@pytest.mark.parametrize("dot", ["-", "."])
def test_pixels_labels_ids_and_splits(tmp_path, compressed, dot):
    images, labels, files = made(dot=dot)
    folder = save(tmp_path / "mnist", files, compressed)
    assert settle("", str(folder), "") == ("idx", "train")
    source = open_source("idx", "all", dir=str(folder))
    np.testing.assert_array_equal([r.image for r in source], np.stack([images] * 3, axis=-1))
    assert source[3].image.dtype == np.uint8
    assert [r.label for r in source] == source.labels().tolist() == labels.tolist()
    assert [r.id for r in source] == source.ids().tolist() == list(range(75))
    assert (source.num_classes, source.class_names, source.name(70)) == (10, (), "mnist[70]")
    ids = {s: set(open_source("idx", s, dir=str(folder)).ids()) for s in ("train", "val", "test")}
    assert ids["test"] == set(range(60, 75)) and ids["train"] | ids["val"] == set(range(60))
    assert ids["val"] and not ids["train"] & ids["val"]


def test_compressed_and_not_are_the_same_data(tmp_path):
    *_, files = made()
    found = {
        open_source("idx", "all", dir=str(save(tmp_path / str(c), files, c))).fingerprint() for c in (0, 1)
    }
    assert len(found) == 1
    save(tmp_path / "0", files)  # both in one folder
    assert len(open_source("idx", "all", dir=str(tmp_path / "0"))) == 75


@pytest.mark.parametrize(
    ("kind", "first", "name"),
    [
        ("letters", 1, "a b c d e f g h i j"),
        ("balanced", 0, "0 1 2 3 4 5 6 7 8 9"),
        ("byclass", 50, "o p q r s t u v w x"),
        ("bymerge", 37, "b d e f g h n q r t"),  # 47 classes end in these: those that differ from capitals
        ("digits", 0, ""),
    ],
)
def test_emnist(tmp_path, kind, first, name):
    """Stored with rows and columns exchanged; the letters count from 1."""
    images, labels, files = made(f"emnist-{kind}-", "test", first=first)
    folder = save(tmp_path / "gzip", files)
    source = open_source("idx", "all", dir=str(folder))
    np.testing.assert_array_equal(source[7].image[..., 1], images[7].T)
    names = [source.class_names[i] for i in source.labels()[:10]] if source.class_names else []
    assert " ".join(names) == name
    np.testing.assert_array_equal(source.labels(), labels - (kind == "letters"))
    sizes = {"letters": 26, "balanced": 47, "byclass": 62, "bymerge": 47, "digits": 10}
    assert source.num_classes == sizes[kind]


def test_one_of_several_data_sets_is_chosen_by_its_training_images(tmp_path):
    for kind in ("letters", "balanced"):
        save(tmp_path, made(f"emnist-{kind}-", "test", first=1)[2])
    assert recognise(str(tmp_path)) == "idx"
    first = f"{tmp_path}/emnist-balanced-train-images-idx3-ubyte.gz"
    with pytest.raises(UserError, match=f"there are 2 data sets in .* images of one, such as {first}"):
        open_source("idx", "all", dir=str(tmp_path))
    assert recognise(first) == "idx"
    assert open_source("idx", "all", dir=first).num_classes == 47
    assert open_source("idx", "all", dir=first.replace("balanced", "letters")).num_classes == 26


@pytest.mark.parametrize(
    ("folder", "names"),
    [("FashionMNIST/raw", "T-shirt/top Trouser"), ("KMNIST/raw", "o ki"), ("MNIST/raw", "")],
)
def test_class_names_by_the_folder(tmp_path, folder, names):
    source = open_source("idx", "all", dir=str(save(tmp_path / folder, made()[2])))
    assert " ".join(source.class_names[:2]) == names and len(source.class_names) in (0, 10)


def test_missing_files_are_named(tmp_path):
    *_, files = made()
    for name in files:
        folder = save(tmp_path / name, {n: c for n, c in files.items() if n != name})
        say = "there is no train-images-idx3-ubyte or train-images-idx3-ubyte.gz in"
        say = say if name.startswith("train-images") else f"there is no {name} or {name}.gz in"
        with pytest.raises(UserError, match=say):
            open_source("idx", "all", dir=str(folder))
    with pytest.raises(UserError, match="no nowhere: use the folder of train-images-idx3-ubyte.gz"):
        open_source("idx", "all", dir="nowhere")
    with pytest.raises(UserError, match="needs it: set it to the folder of train-images-idx3-ubyte.gz"):
        open_source("idx", "all")


IMAGES, LABELS, FILES = made()
GZ = gzip.compress(FILES["train-images-idx3-ubyte"], mtime=0)
SHORT = gzip.compress(struct.pack(">4I", 0x803, 60, 10**5, 10**5), mtime=0)


@pytest.mark.parametrize(
    ("name", "content", "reason"),
    [
        ("train-images-idx3-ubyte", b"", "begins with nothing, not with 00000803"),
        ("train-images-idx3-ubyte", b"\0\0\x08", "begins with 000008, not"),
        (
            "train-labels-idx1-ubyte",
            FILES["train-images-idx3-ubyte"],
            "begins with 00000803, not with 00000801",
        ),
        ("t10k-images-idx3-ubyte", b"\x89PNG" * 100, "begins with 89504e47, not with 00000803"),
        ("train-images-idx3-ubyte", encoded(IMAGES[:60].astype(">f4"), 13), "float32, not uint8"),
        ("t10k-labels-idx1-ubyte", encoded(LABELS[60:].astype(">i4"), 12), "int32, not uint8"),
        (
            "train-images-idx3-ubyte",
            FILES["train-images-idx3-ubyte"][:-1],
            r"shorter than its shape \[60, 5, 4\]",
        ),
        ("t10k-labels-idx1-ubyte", FILES["t10k-labels-idx1-ubyte"] + b"x", r"longer than its shape \[15\]"),
        ("train-images-idx3-ubyte", struct.pack(">4I", 0x803, *[2**32 - 1] * 3), "shorter than its shape"),
        ("t10k-labels-idx1-ubyte", encoded(LABELS[:14]), "14 labels for 15 images"),
        ("t10k-images-idx3-ubyte", encoded(IMAGES[60:].reshape(15, 4, 5)), r"images are \[4, 5\]"),
        ("train-images-idx3-ubyte.gz", GZ[:-200], "end-of-stream"),
        ("train-images-idx3-ubyte.gz", GZ[:-8] + b"1234" + GZ[-4:], "CRC"),
        ("train-images-idx3-ubyte.gz", GZ[:200] + b"\xff\xff\xff\xff" + GZ[204:], ""),
        ("train-images-idx3-ubyte.gz", FILES["train-images-idx3-ubyte"], "Not a gzipped file"),
        ("train-images-idx3-ubyte.gz", b"", "begins with nothing"),
        (
            "train-images-idx3-ubyte.gz",
            gzip.compress(struct.pack(">4I", 0x803, 60, 10**5, 10**5), mtime=0),
            "shorter",
        ),
    ],
)
def test_a_damaged_file_is_named(tmp_path, name, content, reason):
    save(tmp_path, FILES, compressed=False)
    (tmp_path / name.removesuffix(".gz")).unlink()
    (tmp_path / name).write_bytes(content)
    with pytest.raises(
        UserError, match=f"{name} is damaged or no such file .*{reason}.*: download or unpack"
    ):
        open_source("idx", "all", dir=str(tmp_path))


def test_a_letter_that_is_none(tmp_path):
    save(tmp_path, made("emnist-letters-", "test", first=0)[2])
    with pytest.raises(UserError, match="emnist-letters-train-labels-idx1-ubyte.gz is damaged .*the label 0"):
        open_source("idx", "all", dir=str(tmp_path))


@pytest.mark.skipif(not os.path.exists(FASHION), reason=f"{FASHION} is not there (dataset-fashion-mnist)")
def test_the_real_fashion_mnist():
    source = open_source("idx", "all", dir=FASHION)
    assert len(source) == 70_000
    assert np.bincount(source.labels()[:60_000]).tolist() == [6000] * 10
    assert np.bincount(source.labels()[60_000:]).tolist() == [1000] * 10
    assert source.class_names[source[0].label] == "Ankle boot"
    with gzip.open(f"{FASHION}/t10k-images-idx3-ubyte.gz") as file:
        last = np.frombuffer(file.read()[-784:], np.uint8).reshape(28, 28)
    np.testing.assert_array_equal(source[69_999].image[..., 2], last)
    # The mean and std that torchvision's users normalise Fashion-MNIST with.
    pixels = source.images[:60_000] / np.float32(255)
    assert (round(float(pixels.mean()), 4), round(float(pixels.std()), 4)) == (0.2860, 0.3530)
