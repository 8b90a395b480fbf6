"""Datasets that tensorflow-datasets has prepared, read without TensorFlow."""

import contextlib
import functools
import os
import textwrap

import numpy as np

from seed_jax.data.images import BadImage
from seed_jax.data.sources import cache
from seed_jax.data.sources.arrayrecord import read
from seed_jax.data.sources.base import Record, Strings, check_local, digest, path_id, scramble
from seed_jax.errors import UserError

_SPLITS = {"train": 0, "validation": 1, "val": 1, "test": 2}


class Tfds:
    """A dataset that tensorflow-datasets has prepared as ArrayRecord.

    The id of an image is a hash of its shard and its position in the shard. An image's name ends in its file
    name if the dataset has the feature `file_name`.

    Args:
      name: `NAME`, `NAME/CONFIG` or `NAME:1.2.3`.
      split: a split as tensorflow-datasets names it; 'all' joins all splits.
      dir: the data_dir of tensorflow-datasets; None for its default.

    Raises:
      UserError: the dataset or the split is unknown, the dataset has no images, or it is not prepared as
        ArrayRecord.
    """

    def __init__(self, name: str, split: str, dir: str | None = None):
        import tensorflow_datasets as tfds

        check_local("data.dir", dir or "")
        try:
            builder = tfds.builder(name, data_dir=dir)
        except tfds.core.DatasetNotFoundError:
            raise UserError(
                f"data.source: tensorflow-datasets has no dataset {name!r}: check its spelling."
            ) from None
        except (ValueError, TypeError, AssertionError) as error:
            # Before the colon, tfds repeats all arguments.
            reason = textwrap.shorten(str(error).split('": ', 1)[-1], 200)
            raise UserError(
                f"data.source: tfds:{name} cannot be opened ({reason}): write tfds:NAME, tfds:NAME/CONFIG or "
                "tfds:NAME:1.2.3 with an existing dataset, config and version."
            ) from None
        features = builder.info.features
        if "image" not in features:
            raise UserError(
                f"data.source: tfds:{name} has no feature `image`, only {', '.join(features)}: choose "
                "another dataset."
            )
        if not (builder.data_path / "dataset_info.json").exists():
            raise UserError(
                f"data.source: tfds:{name} is not prepared in {builder.data_path}: prepare it once with "
                f"{_preparing(name, dir)}."
            )
        if builder.info.file_format is not tfds.core.FileFormat.ARRAY_RECORD:
            raise UserError(
                f"data.source: tfds:{name} was prepared in {builder.data_path} as "
                f"{builder.info.file_format.value}, which only TensorFlow reads: prepare it again, in "
                f"another data.dir, with {_preparing(name, 'OTHER')}."
            )
        try:
            self.records = builder.as_data_source(
                split=split, deserialize_method=tfds.decode.DeserializeMethod.RAW_BYTES
            )
        except ValueError as error:
            known = ", ".join(builder.info.splits)
            raise UserError(
                f"data split {split!r} is not in tfds:{name} ({error}): choose one of {known}."
            ) from None
        self.title = f"{builder.info.full_name}:{split}"
        self.folder = str(builder.data_path)
        self.num_classes = features["label"].num_classes if "label" in features else 0
        self.class_names = tuple(features["label"].names or ()) if self.num_classes else ()
        self.has_file_names = "file_name" in features
        self.special = 0
        # A pack of 'all' keeps the splits. A single split is already what the user chose.
        self.splits = np.full(len(self.records), -1, np.int8)
        if split == "all":
            sizes = [info.num_examples for info in builder.info.splits.values()]
            self.splits = np.repeat([_SPLITS.get(name, -1) for name in builder.info.splits], sizes).astype(
                np.int8
            )
        self.shards = builder.info.splits[split].file_instructions
        self._ids = np.concatenate([_ids(shard) for shard in self.shards])

    def __len__(self):
        return len(self.records)

    def _feature(self, i):
        from tensorflow_datasets.proto import tf_example_pb2  # not an attribute: cannot be pickled

        example = read(self.records, self.shards, int(i))
        return tf_example_pb2.Example.FromString(example).features.feature

    def _label(self, feature):
        return feature["label"].int64_list.value[0] if self.num_classes else -1

    def __getitem__(self, i):
        number, feature = int(self._ids[i]), self._feature(i)
        return Record(feature["image"].bytes_list.value[0], number, self._label(feature))

    def name(self, i):
        """`DATASET:SPLIT[i]`, then any file name; reads record `i` unless `labels` was called."""
        file = ""
        if "_index" in self.__dict__:
            file = self._index[1][i]
        elif self.has_file_names:
            with contextlib.suppress(BadImage):
                file = _file_name(self._feature(i))
        return f"{self.title}[{i}]" + (f"/{file}" if file else "")

    def ids(self):
        return self._ids

    def labels(self):
        return self._index[0] if self.num_classes else np.full(len(self), -1, np.int64)

    @functools.cached_property
    def _index(self) -> tuple[np.ndarray, Strings]:
        """Labels int64 `[N]` and file names of all images.

        This reads every record once; the result is cached for datasets of at least 20,000 images. A damaged
        record gets the label -1 and no name: the pipeline skips and counts it later.
        """
        file = cache.user_file("tfds", self.folder, self.fingerprint())
        if (kept := cache.load(file)) is not None:
            return kept["labels"], Strings(kept["blob"], kept["ends"])
        labels, names = np.full(len(self), -1, np.int64), [""] * len(self)
        for i in range(len(self)):
            with contextlib.suppress(BadImage):
                feature = self._feature(i)
                labels[i], names[i] = self._label(feature), _file_name(feature)
        strings = Strings.of(names)
        if len(self) >= cache.WORTH:
            cache.save(file, labels=labels, blob=strings.blob, ends=strings.ends)
        return labels, strings

    def fingerprint(self):
        """A hash of name, version, split and ids: a prepared dataset does not change within a version."""
        return digest(self.title.encode(), self._ids)


def _preparing(name: str, dir: str | None) -> str:
    """The command that prepares a dataset; `tfds build` would need several more packages."""
    where = f", data_dir='{dir}'" if dir else ""
    return (
        '`pip install tensorflow-cpu && python -c "import tensorflow_datasets as tfds; '
        f"tfds.builder('{name}'{where}, file_format='array_record').download_and_prepare()\"` "
        "(only this needs TensorFlow, training does not)"
    )


def _file_name(feature) -> str:
    return next((value.decode() for value in feature["file_name"].bytes_list.value), "")


def _ids(shard) -> np.ndarray:
    """The ids of a shard's records, int64: the same for any split or slice that is read, and in a pack."""
    places = np.arange(shard.skip, shard.skip + shard.take, dtype=np.uint64)
    first = np.uint64(path_id(os.path.basename(shard.filename)))
    return (scramble(places + first) >> np.uint64(1)).astype(np.int64)
