"""Images in memory, and .npz files."""

import os

import numpy as np

from seed_jax.data.sources import cache
from seed_jax.data.sources.base import Record, as_label, digest, open_file, split_of
from seed_jax.errors import UserError


class Arrays:
    """Images in memory; the id is the index.

    Args:
      title: what messages call the dataset.
      images: uint8 `[N, H, W, 3]`, or grey `[N, H, W]`, which a record repeats for red, green and blue.
      labels: int `[N]`, -1 for none; or None.
      class_names: empty when the classes have no names.
      splits: int8 `[N]`, as in `Source`; None divides the images by a hash of the id.
    """

    def __init__(self, title, images, labels, class_names=(), splits=None):
        self.title = title
        self.images = images
        self._labels = np.full(len(images), -1, np.int64) if labels is None else labels.astype(np.int64)
        self.num_classes = len(class_names) or int(self._labels.max(initial=-1)) + 1
        self.class_names, self.special = class_names, 0
        self.splits = split_of(np.arange(len(images))) if splits is None else splits

    def __len__(self):
        return len(self.images)

    def __getitem__(self, i):
        image = self.images[i]
        if image.ndim == 2:
            image = np.repeat(image[..., None], 3, axis=-1)
        return Record(image, int(i), int(self._labels[i]))

    def name(self, i):
        return f"{self.title}[{i}]"

    def ids(self):
        return np.arange(len(self.images))

    def labels(self):
        return self._labels

    def fingerprint(self):
        return digest(repr(self.images.shape).encode(), np.ascontiguousarray(self.images), self._labels)


def npz(path: str) -> Arrays:
    """The images of a .npz file.

    The file has `image`, uint8 `[N, H, W, 3]` or `[N, H, W]`, and optionally `label`, int `[N]`. A label
    below 0 means none. Raises `UserError` when the file cannot be read or its arrays are different.
    """
    try:
        with open_file(path) as file:
            arrays = np.load(file, allow_pickle=False)
            arrays = {key: arrays[key] for key in ("image", "label") if key in arrays}
    except cache.BROKEN_NPZ as error:
        reason = str(error) or type(error).__name__
        raise UserError(
            f"data.dir: {path} cannot be read as an .npz file ({reason}): copy or save it again."
        ) from None
    if "image" not in arrays:
        raise UserError(
            f"data.dir: {path} has no array `image`: save it with np.savez(path, image=..., label=...)."
        )
    images, labels = arrays["image"], arrays.get("label")
    if images.dtype != np.uint8 or not (images.ndim == 3 or images.ndim == 4 and images.shape[-1] == 3):
        raise UserError(
            f"data.dir: `image` in {path} is a {images.dtype} array of shape {list(images.shape)}: save it "
            "as uint8 [N, H, W, 3] or [N, H, W]."
        )
    if labels is not None and (labels.dtype.kind not in "iu" or labels.shape != images.shape[:1]):
        raise UserError(
            f"data.dir: `label` in {path} is a {labels.dtype} array of shape {list(labels.shape)}: save one "
            f"whole number per image, shape [{len(images)}]."
        )
    if labels is not None:
        as_label(int(labels.max(initial=0)), f"`label` in {path}")
        labels = np.maximum(labels.astype(np.int64), -1)
    if images.ndim == 3:
        images = np.repeat(images[..., None], 3, axis=-1)
    return Arrays(os.path.basename(path), images, labels)
