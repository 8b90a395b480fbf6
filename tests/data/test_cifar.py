"""CIFAR archives, written by hand as Python 2 and the binary version wrote them."""

import gzip
import io
import pickle
import shutil
import struct
import tarfile

import numpy as np
import pytest

from seed_jax.data import inert_pickle
from seed_jax.data.pack import pack
from seed_jax.data.sources import cifar, open_source, recognise, settle
from seed_jax.errors import UserError

FOLDERS = {
    ("cifar10", "python"): "cifar-10-batches-py",
    ("cifar10", "binary"): "cifar-10-batches-bin",
    ("cifar100", "python"): "cifar-100-python",
    ("cifar100", "binary"): "cifar-100-binary",
}
CASES = [*FOLDERS]
ARRAY = b"cnumpy.core.multiarray\n_reconstruct\n(cnumpy\nndarray\n(K\0tU\1btR(K\1(%st"
DTYPE = b"cnumpy\ndtype\n(U\2%sK\0K\1tR(K\3U\1|NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\0tb"


def text(value):
    return b"T" + struct.pack("<i", len(value)) + value


def numbers(values):
    return b"](" + b"".join(b"J" + struct.pack("<i", n) for n in values) + b"e"


def texts(values):
    return b"](" + b"".join(text(value.encode()) for value in values) + b"e"


def pickled(**entries):
    """A dict as Python 2 pickles it, with strings of bytes; the values are pickled already."""
    return b"\x80\x02}(" + b"".join(text(k.encode()) + v for k, v in entries.items()) + b"u."


def array(rows, dtype=b"u1", shape=None):
    shape = shape or rows.shape
    head = ARRAY % b"".join(b"J" + struct.pack("<i", n) for n in shape)
    return head + DTYPE % dtype + b"\x89" + text(rows.tobytes()) + b"tb"


class Made:
    """A tiny data set: 5 n training images and n test images."""

    def __init__(self, kind, n=40):
        draw = np.random.default_rng(n)
        self.kind, self.n = kind, n
        self.images = draw.integers(0, 256, (6 * n, 32, 32, 3), np.uint8)
        self.fine = draw.permutation(np.arange(6 * n) % (10 if kind == "cifar10" else 100))
        self.coarse = self.fine % 20
        self.names = [f"class{c}" for c in range(10 if kind == "cifar10" else 100)]
        self.coarse_names = [f"coarse{c}" for c in range(20)]

    def files(self, version):
        """The content of the files by name."""
        if self.kind == "cifar10":
            parts = [f"data_batch_{b + 1}" for b in range(5)] + ["test_batch"]
            bounds = np.arange(7) * self.n
        else:
            parts, bounds = ["train", "test"], [0, 5 * self.n, 6 * self.n]
        files = {}
        for part, start, stop in zip(parts, bounds, bounds[1:], strict=False):
            files[part] = np.arange(start, stop)
        return getattr(self, f"_{version}")(files)

    def _python(self, parts):
        files = {}
        for part, rows in parts.items():
            data = self.images[rows].transpose(0, 3, 1, 2).reshape(len(rows), 3072)
            if self.kind == "cifar10":
                labels = {"labels": numbers(self.fine[rows])}
            else:
                labels = {
                    "fine_labels": numbers(self.fine[rows]),
                    "coarse_labels": numbers(self.coarse[rows]),
                }
            files[part] = pickled(batch_label=text(b"a batch"), data=array(data), **labels)
        if self.kind == "cifar10":
            files["batches.meta"] = pickled(num_vis=numbers([3072]), label_names=texts(self.names))
        else:
            files["meta"] = pickled(
                fine_label_names=texts(self.names), coarse_label_names=texts(self.coarse_names)
            )
        return files

    def _binary(self, parts):
        files = {}
        for part, rows in parts.items():
            content = b""
            for i in rows:
                label = [self.fine[i]] if self.kind == "cifar10" else [self.coarse[i], self.fine[i]]
                content += bytes(label) + self.images[i].transpose(2, 0, 1).tobytes()
            files[f"{part}.bin"] = content
        if self.kind == "cifar10":
            files["batches.meta.txt"] = "\n".join([*self.names, "", ""]).encode()
        else:
            files["fine_label_names.txt"] = "\n".join([*self.names, ""]).encode()
            files["coarse_label_names.txt"] = "\n".join([*self.coarse_names, ""]).encode()
        return files | {"readme.html": b"<html>"}


def unpack(files, folder):
    folder.mkdir()
    for name, content in files.items():
        (folder / name).write_bytes(content)
    return folder


def compress(files, folder, path):
    with tarfile.open(path, "w:gz") as tar:
        tar.addfile(directory := tarfile.TarInfo(folder))
        directory.type = tarfile.DIRTYPE
        for name, content in files.items():
            member = tarfile.TarInfo(f"{folder}/{name}")
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))
    return path


@pytest.fixture(params=CASES, ids="-".join)
def made(request, tmp_path):
    """The kind, the data set, its files, and where it lies: as an archive and unpacked."""
    kind, version = request.param
    data = Made(kind)
    files = data.files(version)
    folder = unpack(files, tmp_path / FOLDERS[kind, version])
    number = kind.removeprefix("cifar")
    archive = compress(files, folder.name, tmp_path / f"cifar-{number}-{version}.tar.gz")
    return kind, data, files, (archive, folder)


def test_pixels_labels_names_ids_and_splits(made):
    kind, data, _, places = made
    for place in places:
        source = open_source(kind, "all", dir=str(place))
        np.testing.assert_array_equal([record.image for record in source], data.images)
        np.testing.assert_array_equal(source.labels(), data.fine)
        assert [record.label for record in source] == data.fine.tolist()
        assert [record.id for record in source] == source.ids().tolist() == list(range(240))
        assert source.class_names == tuple(data.names) and source.num_classes == len(data.names)
        assert source.name(7) == f"{place.name}[7]"
        ids = {
            s: set(open_source(kind, s, dir=str(place)).ids()) for s in ("train", "val", "test", "train+val")
        }
        assert ids["test"] == set(range(200, 240))
        assert ids["train"] | ids["val"] == ids["train+val"] == set(range(200))
        assert not ids["train"] & ids["val"] and 8 <= len(ids["val"]) <= 40


def test_archive_and_folder_are_recognised_and_equal(made):
    kind, _, _, places = made
    assert [recognise(str(place)) for place in places] == [kind, kind]
    assert settle("", str(places[0]), "") == (kind, "train")
    packed, unpacked = (open_source(kind, "all", dir=str(place)).fingerprint() for place in places)
    assert packed == unpacked


def test_the_folder_of_the_archive(made):
    kind, _, _, places = made
    folder = str(places[0].parent)
    assert recognise(folder) == kind
    ours, theirs = (open_source(kind, "all", dir=place).fingerprint() for place in (folder, str(places[0])))
    assert ours == theirs


def test_both_versions_have_one_fingerprint(tmp_path):
    data = Made("cifar100")
    unpack(data.files("python"), tmp_path / "a")
    unpack(data.files("binary"), tmp_path / "b")
    sources = [cifar.cifar100(str(tmp_path / name)) for name in "ab"]
    assert (
        sources[0].fingerprint()
        == sources[1].fingerprint()
        != cifar.cifar100_coarse(str(tmp_path / "a")).fingerprint()
    )


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # of the old name numpy.core
def test_what_python_makes_of_our_pickles():
    data = Made("cifar100")
    batch = pickle.loads(data.files("python")["test"], encoding="latin1")
    np.testing.assert_array_equal(batch["data"][3].reshape(3, 32, 32), data.images[203].transpose(2, 0, 1))
    assert batch["fine_labels"] == data.fine[200:].tolist() and batch["batch_label"] == "a batch"


@pytest.mark.parametrize("version", ["python", "binary"])
def test_coarse_labels(tmp_path, version):
    data = Made("cifar100")
    source = open_source("cifar100_coarse", "all", dir=str(unpack(data.files(version), tmp_path / "x")))
    np.testing.assert_array_equal(source.labels(), data.coarse)
    assert source.class_names == tuple(data.coarse_names)


def test_splits_share_the_images_until_a_file_changes(tmp_path):
    folder = unpack(Made("cifar10").files("binary"), tmp_path / "x")
    train, val = (open_source("cifar10", split, dir=str(folder)) for split in ("train", "val"))
    assert train.source is val.source and not train.source.images.flags.writeable
    for name, content in Made("cifar10", n=41).files("binary").items():
        (folder / name).write_bytes(content)
    assert len(open_source("cifar10", "all", dir=str(folder))) == 6 * 41


def test_a_later_pickle_is_read_too(tmp_path):
    """Python 3 at a higher protocol, as some mirrors have it: bytes, and numpy's newer module names."""
    data = Made("cifar10")
    files = data.files("python")
    batch = data.images[:40].transpose(0, 3, 1, 2).reshape(40, 3072)
    files["data_batch_1"] = pickle.dumps({"data": batch, "labels": data.fine[:40].tolist()}, protocol=3)
    source = open_source("cifar10", "all", dir=str(unpack(files, tmp_path / "x")))
    np.testing.assert_array_equal(source.images, data.images)


def test_it_is_packed_with_its_splits(tmp_path):
    folder = unpack(Made("cifar10").files("binary"), tmp_path / "x")
    source = open_source("cifar10", "all", dir=str(folder))
    packed = pack(source, tmp_path / "packed")
    np.testing.assert_array_equal(np.sort(packed.ids()), source.ids())
    for split in ("train", "val", "test"):
        ours = open_source("cifar10", split, dir=str(folder))
        theirs = open_source("arrayrecord", split, dir=str(tmp_path / "packed"))
        assert {(r.id, r.label) for r in ours} == {(r.id, r.label) for r in theirs}


def test_every_missing_file_is_named(made):
    kind, _, files, (_, folder) = made
    for name in files:
        if name.startswith(("readme", "coarse")):
            continue
        content = (folder / name).read_bytes()
        (folder / name).unlink()
        official = folder.name.split("-")[1]
        with pytest.raises(UserError, match=f"has no file {name}: use cifar-{official}-python.tar.gz or"):
            open_source(kind, "all", dir=str(folder))
        (folder / name).write_bytes(content)
    with pytest.raises(UserError, match="there is no .*nowhere: download cifar-10-python.tar.gz or"):
        open_source("cifar10", "all", dir="nowhere")
    with pytest.raises(UserError, match="the source 'cifar100' needs it: set it to cifar-100-python.tar.gz"):
        open_source("cifar100", "all")


def test_a_shortened_file_is_named(made, tmp_path):
    """Whichever file is cut, also between two images; in a cut file of names a name is missing."""
    kind, data, files, _ = made
    row = {"cifar10": 3073, "cifar100": 3074}[kind]
    for name, content in files.items():
        if name.startswith(("readme", "coarse")):
            continue
        for left in (0, len(content) // 2, len(content) - (row if name.endswith(".bin") else 1)):
            if name.endswith(".txt") and left == len(content) - 1:  # the last line end is missing
                continue
            folder = unpack(files | {name: content[:left]}, tmp_path / f"{name} {left}")
            with pytest.raises(UserError, match=f"{name} is damaged or no such file .*: download or unpack"):
                open_source(kind, "all", dir=str(folder))


@pytest.mark.parametrize("share", [0.0, 0.001, 0.3, 0.9, 0.9999])
def test_a_shortened_archive_is_named(tmp_path, share):
    path = compress(Made("cifar10").files("python"), "x", tmp_path / "cifar-10-python.tar.gz")
    content = path.read_bytes()
    path.write_bytes(content[: int(share * len(content))])
    with pytest.raises(UserError, match="cifar-10-python.tar.gz (is damaged|has no file)"):
        open_source("cifar10", "all", dir=str(path))


def test_an_archive_with_a_changed_byte_is_named(tmp_path):
    path = compress(Made("cifar10").files("binary"), "x", tmp_path / "cifar-10-binary.tar.gz")
    content = bytearray(path.read_bytes())
    for place in (4 * len(content) // 7, len(content) - 6):  # in the pixels, and in the checksum
        changed = content.copy()
        changed[place] ^= 255
        path.write_bytes(changed)
        with pytest.raises(UserError, match="cifar-10-binary.tar.gz is damaged"):
            open_source("cifar10", "all", dir=str(path))
    for other in (gzip.compress(b"no tar" * 1000), b"PK\3\4" + bytes(2000)):
        path.write_bytes(other)
        with pytest.raises(UserError, match="cifar-10-binary.tar.gz is damaged"):
            open_source("cifar10", "all", dir=str(path))


def test_an_enormous_file_is_not_read(tmp_path, monkeypatch):
    monkeypatch.setattr("seed_jax.data.sources.archives.LARGEST", 1000)
    files = Made("cifar10").files("binary")
    folder = unpack(files, tmp_path / "x")
    for place in (folder, compress(files, "x", tmp_path / "a.tar.gz")):
        with pytest.raises(UserError, match="has (more than 1,000|122,920) bytes"):
            open_source("cifar10", "all", dir=str(place))


class Evil:
    def __reduce__(self):
        return (open, ("ran", "w"))


def of_shape(*shape):
    return array(np.zeros(shape, np.uint8))


BATCH = {"data": of_shape(40, 3072), "labels": numbers([0] * 40)}


@pytest.mark.parametrize(
    ("batch", "reason"),
    [
        (pickle.dumps(Evil(), 2), "no dict with data and labels"),
        (pickle.dumps({"data": Evil(), "labels": [0] * 40}, 2), ""),
        (pickled(data=array(np.zeros((40, 3072), np.float32), b"f4"), labels=BATCH["labels"]), "f4, not u1"),
        (
            pickled(data=of_shape(40, 3071), labels=BATCH["labels"]),
            r"\[40, 3071\], with 40",
        ),
        (
            pickled(data=of_shape(41, 3072), labels=BATCH["labels"]),
            r"\[41, 3072\], with 40",
        ),
        (
            pickled(data=array(np.zeros((40, 3072), np.uint8), shape=(2**30, 3072)), labels=BATCH["labels"]),
            "cannot reshape",
        ),
        (pickled(data=BATCH["data"], labels=numbers([0] * 39 + [10])), "has the label 10, not one of 0 to 9"),
        (pickled(data=BATCH["data"], labels=numbers([-1] * 40)), "has the label -1"),
        (pickled(data=BATCH["data"], labels=texts(["a"] * 40)), "has the label 'a'"),
        (pickled(data=BATCH["data"], labels=b"](" + b"\x8a\x20" + b"\1" * 32 + b"e"), "1 labels"),
        (pickled(data=BATCH["labels"], labels=BATCH["labels"]), ""),
        (pickled(data=b"cnumpy\nndarray\n)R", labels=BATCH["labels"]), ""),
        (pickled(data=b"cnumpy\nndarray\n)R(K\1K\1cnumpy\ndtype\n)RK\0K\1tb", labels=BATCH["labels"]), ""),
        (pickled(labels=BATCH["labels"]), "no dict with data and labels"),
        (b"no pickle", ""),
    ],
)
def test_hostile_batches(tmp_path, monkeypatch, batch, reason):
    monkeypatch.chdir(tmp_path)
    folder = unpack(Made("cifar10").files("python") | {"data_batch_3": batch}, tmp_path / "x")
    with pytest.raises(UserError, match=f"x/data_batch_3 is damaged or no such file.*{reason}"):
        open_source("cifar10", "all", dir=str(folder))
    assert not (tmp_path / "ran").exists()


def test_labels_that_are_no_class_in_the_binary_version(tmp_path):
    files = Made("cifar10").files("binary")
    files["test_batch.bin"] = b"\x0a" + files["test_batch.bin"][1:]
    with pytest.raises(UserError, match="test_batch.bin is damaged .*label 10, not one of 0 to 9"):
        open_source("cifar10", "all", dir=str(unpack(files, tmp_path / "x")))


def test_the_state_of_a_placeholder_is_data():
    value = inert_pickle.load(io.BytesIO(b"\x80\x02cos\nsystem\n(U\2lstR}U\1aK\1sb."), {}, None)
    assert (str(value), value.args, value.state) == ("os.system", ("ls",), {"a": 1})


def test_folders_of_images_are_no_cifar100(tmp_path):
    for name in ("train", "test"):
        for c in "ab":
            (tmp_path / name / c).mkdir(parents=True)
            for n in range(3):
                (tmp_path / name / c / f"{n}.png").touch()
    (tmp_path / "meta").touch()
    assert recognise(str(tmp_path)) == "imagefolder"
    shutil.rmtree(tmp_path / "train")
    (tmp_path / "train").touch()
    assert recognise(str(tmp_path)) == "cifar100"
