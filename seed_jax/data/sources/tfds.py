"""Prepared tensorflow-datasets sets, read without TensorFlow."""

import numpy as np

from seed_jax.data.sources import cache
from seed_jax.data.sources.base import Record, digest
from seed_jax.errors import UserError

_PARTS = {"train": 0, "validation": 1, "val": 1, "test": 2}


class Tfds:
    """A prepared tensorflow-datasets set, read without TensorFlow; the id is the index within the split.

    Raises `UserError` when the set or its split is unknown or not prepared.
    """

    def __init__(self, name: str, split: str, dir: str | None = None):
        import tensorflow_datasets as tfds

        try:
            builder = tfds.builder(name, data_dir=dir, file_format="array_record")
        except tfds.core.DatasetNotFoundError:
            raise UserError(f"data.source: tensorflow-datasets has no set {name!r}.") from None
        features = builder.info.features
        if "image" not in features:
            raise UserError(f"data.source: tfds:{name} has no feature `image`, only {', '.join(features)}.")
        if not builder.info.splits:
            where = f" --data_dir={dir}" if dir else ""
            raise UserError(
                f"data.source: tfds:{name} is not prepared in {builder.data_path}; do it once with "
                f"`pip install tensorflow-cpu && tfds build {name} --file_format=array_record{where}` "
                "(only this needs TensorFlow, training does not)."
            )
        try:
            self.records = builder.as_data_source(
                split=split, deserialize_method=tfds.decode.DeserializeMethod.RAW_BYTES
            )
        except ValueError as error:
            known = ", ".join(builder.info.splits)
            raise UserError(
                f"data split {split!r} is not in tfds:{name}, which has {known}: {error}"
            ) from None
        self.what = f"{builder.info.full_name}:{split}"
        self.where = str(builder.data_path)
        self.num_classes = features["label"].num_classes if "label" in features else 0
        self.class_names = tuple(features["label"].names or ()) if self.num_classes else ()
        # `split` went to tensorflow-datasets; of 'all', which joins them, a pack keeps which was which.
        self.part = np.full(len(self.records), -1, np.int8)
        if split == "all":
            sizes = [info.num_examples for info in builder.info.splits.values()]
            self.part = np.repeat([_PARTS.get(name, -1) for name in builder.info.splits], sizes).astype(
                np.int8
            )

    def __len__(self):
        return len(self.records)

    def _parse(self, example: bytes):
        from tensorflow_datasets.proto import tf_example_pb2  # not kept: its class cannot be pickled

        return tf_example_pb2.Example.FromString(example)

    def _label(self, feature):
        return feature["label"].int64_list.value[0] if self.num_classes else -1

    def __getitem__(self, i):
        feature = self._parse(self.records[int(i)]).features.feature
        return Record(feature["image"].bytes_list.value[0], int(i), self._label(feature))

    def name(self, i):
        feature = self._parse(self.records[int(i)]).features.feature
        file = feature["file_name"].bytes_list.value[:1]
        return f"{self.what}[{i}]" + "".join(f"/{name.decode()}" for name in file)

    def ids(self):
        return np.arange(len(self))

    def labels(self):
        """Reads every record once, images undecoded; a large set's labels are kept in the user's cache."""
        if not self.num_classes:
            return np.full(len(self), -1, np.int64)
        file = cache.user_file("tfds labels", self.where, self.fingerprint())
        if (kept := cache.load(file)) is not None:
            return kept["labels"]
        parsed = (self._parse(self.records[i]).features.feature for i in range(len(self)))
        labels = np.fromiter((self._label(feature) for feature in parsed), np.int64, len(self))
        if len(self) >= cache.WORTH:
            cache.save(file, labels=labels)
        return labels

    def fingerprint(self):
        """Of name, version, split and length: a prepared set does not change under its version."""
        return digest(f"{self.what} {len(self)}".encode())
