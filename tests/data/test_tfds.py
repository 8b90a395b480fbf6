"""Sets of tensorflow-datasets, without TensorFlow."""

import numpy as np
import pytest
from PIL import Image

from seed_jax.data import images, pipeline, sources
from seed_jax.data.sources import open_source
from seed_jax.errors import UserError


def write_tfds(path, examples, names=(), form="array_record", **more):
    """Write a small CIFAR-10 as tensorflow-datasets prepares it, without TensorFlow; `more`: further splits.

    With `names`, the file names of the training images, it writes ImageNet, whose records have file names.
    `form` is the format that the metadata name.
    """
    tfds = pytest.importorskip("tensorflow_datasets")
    from array_record.python.array_record_module import ArrayRecordWriter
    from tensorflow_datasets.proto import tf_example_pb2

    dataset = "imagenet2012" if names else "cifar10"
    builder = tfds.builder(dataset, data_dir=path, file_format=form)
    builder.data_path.mkdir(parents=True)
    splits = []
    for split, content in {"train": examples, **more}.items():
        file = str(builder.data_path / f"{dataset}-{split}.{form}-00000-of-00001")
        writer = ArrayRecordWriter(file, "group_size:1")
        for n, (image, label) in enumerate(content):
            example = tf_example_pb2.Example()
            if names and split == "train":
                example.features.feature["file_name"].bytes_list.value.append(names[n].encode())
            example.features.feature["image"].bytes_list.value.append(image)
            example.features.feature["label"].int64_list.value.append(label)
            writer.write(example.SerializeToString())
        writer.close()
        template = tfds.core.ShardedFileTemplate(
            dataset_name=dataset, data_dir=builder.data_path, split=split, filetype_suffix=form
        )
        splits.append(
            tfds.core.SplitInfo(
                name=split, shard_lengths=[len(content)], num_bytes=1, filename_template=template
            )
        )
    builder.info.set_splits(tfds.core.splits.SplitDict(splits))
    builder.info.write_to_directory(builder.data_path)


def test_tfds_gives_encoded_bytes_without_tensorflow(tmp_path):
    Image.new("RGB", (40, 30), (200, 30, 30)).save(tmp_path / "red.png")
    red = (tmp_path / "red.png").read_bytes()
    write_tfds(tmp_path / "tfds", [(red, 4), (red, 9), (red, 0)])
    source = open_source("tfds:cifar10", "train", dir=str(tmp_path / "tfds"))
    assert (len(source), source.num_classes) == (3, 10)
    assert source[1][:3] == (red, source.ids()[1], 9)
    assert source.name(1) == "cifar10/3.0.2:train[1]"
    assert source.labels().tolist() == [4, 9, 0]
    assert images.decode(source[2])[0, 0].tolist() == [200, 30, 30]
    part = open_source("tfds:cifar10", "train[:2]", dir=str(tmp_path / "tfds"))
    assert [r.id for r in part] == source.ids()[:2].tolist()
    assert part.fingerprint() != source.fingerprint()
    with pytest.raises(UserError, match="'validation' is not in tfds:cifar10 .*: choose one of train"):
        open_source("tfds:cifar10", "validation", dir=str(tmp_path / "tfds"))


def test_the_id_of_an_image_is_the_same_in_every_tfds_split(tmp_path):
    content = [(bytes([n + 1]), n) for n in range(8)]
    write_tfds(tmp_path, content[:5], test=content[5:])
    seen = {}
    for split in ("train", "test", "all", "test+train", "train[2:4]", "train[60%:]+test[:1]"):
        source = open_source("tfds:cifar10", split, dir=str(tmp_path))
        assert [r.id for r in source] == source.ids().tolist()
        for record in source:
            assert seen.setdefault(record.image, record.id) == record.id
    assert len(set(seen.values())) == 8
    assert min(seen.values()) >= 0


def test_a_tfds_set_is_read_once_for_its_labels_and_names(tmp_path, monkeypatch):
    monkeypatch.setattr(sources.tfds.cache, "WORTH", 2)
    write_tfds(tmp_path, [(b"x", 4), (b"y", 9)], names=["n01_7.JPEG", "n02_5.JPEG"], test=[(b"z", 1)])

    def opened(split="train"):
        source = open_source("tfds:imagenet2012", split, dir=str(tmp_path))
        return source.labels().tolist(), [source.name(i).split("/")[-1] for i in range(len(source))]

    assert opened() == ([4, 9], ["n01_7.JPEG", "n02_5.JPEG"])
    monkeypatch.setattr(sources.tfds, "read", lambda *a: pytest.fail("read again"))
    assert opened() == ([4, 9], ["n01_7.JPEG", "n02_5.JPEG"])
    monkeypatch.undo()
    assert opened("test") == ([1], ["5.1.0:test[0]"])  # no file name


def test_one_name_of_a_tfds_set_reads_one_record(tmp_path, monkeypatch):
    write_tfds(tmp_path, [(b"x", 4), (b"y", 9)], names=["n01_7.JPEG", "n02_5.JPEG"])
    source = open_source("tfds:imagenet2012", "train", dir=str(tmp_path))
    seen, read = [], sources.tfds.read
    monkeypatch.setattr(sources.tfds, "read", lambda *a: seen.append(a[-1]) or read(*a))
    assert source.name(1) == "imagenet2012/5.1.0:train[1]/n02_5.JPEG"
    assert seen == [1]


@pytest.mark.parametrize("indexed", [False, True])
def test_a_damaged_record_of_a_tfds_set_gives_a_bad_image(tmp_path, indexed):
    """The record is skipped, counted and named by its index; other labels and names are read."""
    Image.new("RGB", (40, 30), (200, 30, 30)).save(tmp_path / "red.png")
    content = [((tmp_path / "red.png").read_bytes(), n) for n in range(200)]
    content[7] = (np.random.default_rng(0).bytes(200_000), 7)
    names = [f"n{n:03}.JPEG" for n in range(200)]
    write_tfds(tmp_path / "tfds", content, names=names)
    (shard,) = (tmp_path / "tfds").rglob("*.array_record*")
    data = bytearray(shard.read_bytes())
    data[100_000:100_100] = bytes(100)
    shard.write_bytes(data)
    source = open_source("tfds:imagenet2012", "train", dir=str(tmp_path / "tfds"))
    if indexed:
        assert source.labels().tolist() == [-1 if n == 7 else n for n in range(200)]
    bad = pipeline.BadImages(source)
    batch = next(pipeline.eval_batches(source, 8, 200, bad=bad))
    assert np.flatnonzero(~batch["mask"]).tolist() == [7]
    assert bad.names == {7: "imagenet2012/5.1.0:train[7]"}
    assert source.name(8) == "imagenet2012/5.1.0:train[8]/n008.JPEG"


def test_a_tfds_shard_that_is_cut_short(tmp_path):
    write_tfds(tmp_path, [(bytes(50_000), n) for n in range(4)])
    (shard,) = tmp_path.rglob("*.array_record*")
    shard.write_bytes(shard.read_bytes()[:70_000])
    with pytest.raises(
        UserError, match="the shard .*cifar10-train.array_record-00000-of-00001 is missing, cut"
    ):
        open_source("tfds:cifar10", "train", dir=str(tmp_path)).labels()


@pytest.mark.parametrize(
    ("name", "message"),
    [
        (
            "imagenet2012",
            r"imagenet2012/5.1.0: prepare it once with `pip install tensorflow-cpu && python -c .*"
            r"tfds.builder\('imagenet2012', data_dir='.*', file_format='array_record'\).download_and_prepare",
        ),
        ("imagenot", "no dataset 'imagenot'"),
        ("mnist/foo", r"tfds:mnist/foo cannot be opened \(BuilderConfig foo not found"),
        ("mnist:9.9.9", r"tfds:mnist:9.9.9 cannot be opened \(Dataset mnist .* only: 3.0.1"),
        ("mnist:3", r"tfds:mnist:3 cannot be opened \(Parsing .*: write tfds:NAME, tfds:NAME/CONFIG or"),
        ("ag_news_subset", "no feature `image`"),
    ],
)
def test_tfds_errors(tmp_path, name, message):
    pytest.importorskip("tensorflow_datasets")
    with pytest.raises(UserError, match=message):
        open_source(f"tfds:{name}", "train", dir=str(tmp_path))


@pytest.mark.parametrize("name", ["cifar10", "cifar10:3.0.2"])
def test_a_tfds_set_that_was_prepared_as_tfrecord(tmp_path, name):
    """tfds's default; with a version it takes another path through tfds."""
    write_tfds(tmp_path, [(b"x", 4)], form="tfrecord")
    with pytest.raises(
        UserError,
        match=r"cifar10/3.0.2 as tfrecord, .*: prepare it again, in another data.dir, with `pip install "
        rf"tensorflow-cpu && .*tfds.builder\('{name}', data_dir='OTHER', file_format='array_record'\)",
    ):
        open_source(f"tfds:{name}", "train", dir=str(tmp_path))


def test_a_tfds_set_that_cannot_be_read(tmp_path):
    write_tfds(tmp_path, [(b"x", 4)])
    (info,) = tmp_path.rglob("dataset_info.json")
    info.unlink()
    info.mkdir()
    with pytest.raises(UserError, match="data.dir: .* cannot be read .*dataset_info.json"):
        open_source("tfds:cifar10", "train", dir=str(tmp_path))


def test_a_tfds_set_that_is_not_prepared_but_known_online(tmp_path, monkeypatch):
    """With a connection, tfds knows the sizes of splits before the set is prepared."""
    tfds = pytest.importorskip("tensorflow_datasets")
    write_tfds(tmp_path / "prepared", [(b"x", 4)])
    splits = tfds.builder("cifar10", data_dir=tmp_path / "prepared").info.splits
    monkeypatch.setattr(tfds.core.DatasetInfo, "initialize_from_bucket", lambda self: self.set_splits(splits))
    with pytest.raises(UserError, match="is not prepared in .*other/cifar10/3.0.2: prepare it once"):
        open_source("tfds:cifar10", "train", dir=str(tmp_path / "other"))
