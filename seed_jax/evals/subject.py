"""What a protocol evaluates: one network on one data set, whose features are computed once and kept."""

import dataclasses
import functools
import os
import re
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

from seed_jax import parallel
from seed_jax.data import images as pictures
from seed_jax.data import photometric, rng
from seed_jax.data.pipeline import BadImages, eval_batches, local_rows
from seed_jax.data.sources import Source, open_source
from seed_jax.data.sources import cache as arrays
from seed_jax.data.sources.base import digest, in_common, scramble
from seed_jax.data.views import ViewSpec, fill_views
from seed_jax.errors import UserError
from seed_jax.evals.features import Extractor
from seed_jax.evals.images import ROLES, Images
from seed_jax.evals.online import check_unseen, evenly, unlabelled
from seed_jax.weights.pretrained import Pretrained

FORMAT = 1  # raise it when features of the same network and images change: older files are then never read
VIEWS = ViewSpec(count=2)  # two views of an image, as MoCo-v2 trains on them


class Subject:
    """A network on a data set.

    The three parts of the data are its roles: 'bank' is learned from, choices are made on 'val', and 'test'
    is scored.

    Args:
      name: of the network, as the user wrote it.
      loaded: the network.
      images: the data set.
      split: which split is the role 'test': 'test' or 'val'.
      feature: entry of the features to read, a vector.
      size: side of the images, pixels; 0 for the network's own.
      most: evenly spaced images of each role; 0 for all.
      batch_size: images per forward, over all devices.
      cache: folder where features are kept; None keeps them in memory alone. With several processes nothing
        is kept in a folder.

    Attributes:
      notes: sentences that a reader of the scores must know.
      sources: the images of the roles that were asked for.

    Raises:
      UserError: the network has no such feature.
    """

    def __init__(
        self,
        name: str,
        loaded: Pretrained,
        images: Images,
        *,
        split: str = "test",
        feature: str = "pooled",
        size: int = 0,
        most: int = 0,
        batch_size: int = 64,
        cache: Path | None = None,
    ):
        self.name, self.loaded, self.images = name, loaded, images
        self.feature, self.size, self.notes = feature, size or loaded.size, []
        self._split, self._most, self._batch_size = split, most, batch_size
        self._cache = cache if jax.process_count() == 1 else None
        self.sources, self._wholes, self._found = {}, {}, {}
        self.mesh = parallel.make_mesh()
        sample = jax.ShapeDtypeStruct((2, self.size, self.size, 3), jnp.float32)
        shapes = jax.eval_shape(lambda v, x: loaded.network.apply(v, x, False)[0], loaded.variables, sample)
        self._vectors = {key: value.shape[1] for key, value in shapes.items() if len(value.shape) == 2}
        if feature not in self._vectors:
            raise UserError(
                f"{name} has no vector {feature!r}: use --feature with one of "
                f"{', '.join(sorted(self._vectors))}."
            )

    def source(self, role: str) -> Source:
        """The images of a role.

        Raises:
          UserError: the split is unknown or empty, or the data cannot be read.
        """
        if role not in self.sources:
            found, most = self._whole(role), self._most
            if role == "bank" and self.images.bank_size:
                most = min(most or len(found), self.images.bank_size)
            self.sources[role] = evenly(found, most)
        return self.sources[role]

    def _whole(self, role):
        """The whole split of a role; 'train' is the split that a run trained on."""
        if role not in self._wholes:
            d = self.images.data
            splits = {"bank": d.bank or d.train, "val": d.val, "test": getattr(d, self._split)}
            split = (splits | {"train": d.train})[role]
            self._wholes[role] = open_source(
                d.source,
                split,
                dir=d.dir or None,
                subset=d.subset if split == d.train else "",
                seed=self.images.seed,
            )
        return self._wholes[role]

    def _share(self, role, other) -> bool:
        """Whether the whole splits of two roles have images in common."""
        return in_common(self._whole(role), self._whole(other)) > 0

    @property
    def num_classes(self) -> int:
        return self.source("test").num_classes

    @property
    def classified(self) -> int:
        """Classes of the network's own classifier; 0 without one."""
        return self._vectors.get("logits", 0)

    def check_labels(self, *roles: str) -> None:
        """Raise `UserError` unless these roles are labelled with the same classes and 'bank' lacks 'test'."""
        for role in roles:
            if self.source(role).num_classes < 2:
                lack = "one class" if self.source(role).num_classes else "no labels"
                raise UserError(
                    f"{self.images.name} has {lack}, and this protocol needs classes: put the images of "
                    "each class into a sub-folder of their own, or use uniformity, rank or overlap."
                )
            if unlabelled(self.source(role)) is not None:
                missing = int((self.source(role).labels() < 0).sum())
                raise UserError(
                    f"{self.images.name}: {missing} of {len(self.source(role))} images lack a label in the "
                    f"split that is {ROLES[role]}: name others with --data and --splits=TRAIN,VAL,TEST."
                )
        if len({self.source(role).num_classes for role in roles}) > 1:
            raise UserError(
                f"{self.images.name}: the splits to learn from and to score have different classes: name "
                "other splits with --data and --splits=TRAIN,VAL,TEST."
            )
        if "bank" in roles and self._share("bank", "test"):
            raise UserError(
                f"{self.images.name}: what is learned from has images that are scored: name three separate "
                "splits with --data and --splits=TRAIN,VAL,TEST."
            )
        if "test" in roles and self.images.trained_on:
            check_unseen(self._whole("train"), self._whole("test"), self._split)

    def get(self, role: str, entry: str = "") -> tuple[np.ndarray, np.ndarray]:
        """Features float32 `[N, D]` and labels int `[N]` (-1: none) of a role.

        Args:
          entry: of the features; '' for `feature`.

        Raises:
          UserError: the images cannot be read.
        """
        if role not in self._found:
            source, entries = self.source(role), self._entries(role)
            self._found[role] = self._kept(
                source, ("whole", entries), lambda: self._extract(source, role, entries)
            )
            if unread := len(source) - len(self._found[role]["label"]):
                self._note(f"{unread:,} of the {len(source):,} images that are {ROLES[role]} cannot be read")
        return self._found[role][entry or self.feature], self._found[role]["label"]

    def chosen_on(
        self, labelled: np.ndarray | None = None
    ) -> tuple[tuple[np.ndarray, np.ndarray], tuple[np.ndarray, np.ndarray]]:
        """Features and labels to learn from, and others to choose on, neither of which is scored.

        The others are those of 'val'. Where some of these are scored or learned from, they are a fifth of
        'bank'.

        Args:
          labelled: ids of the images to learn from; None for all of 'bank'.
        """
        x, labels = self.get("bank")
        ids = self._found["bank"]["id"]
        learned, rows = self._divided(ids, labelled)
        if rows is None:
            return (x[learned], labels[learned]), self.get("val")
        if labelled is None:
            self._note("choices were made on a fifth of the images to learn from")
        else:
            self._note("choices were made on labelled images beside those that are learned from")
        return (x[learned], labels[learned]), (x[rows], labels[rows])

    def check_choice(self, labelled: np.ndarray, name: str) -> None:
        """Raise `UserError` if `chosen_on(labelled)` has no image to choose on; `name`: of these labels."""
        _, rows = self._divided(self.source("bank").ids(), labelled)
        if rows is not None and not rows.any():
            raise UserError(
                f"--labels: {name} leaves no image to choose the learning rate on: use a smaller share, or "
                "three separate splits with --data and --splits=TRAIN,VAL,TEST."
            )

    def _divided(self, ids, labelled):
        """Which images of 'bank' to learn from, and which to choose on: bool `[N]` each, None for 'val'."""
        learned = np.ones(len(ids), bool) if labelled is None else np.isin(ids, labelled)
        if not self._share("val", "test") and not self._share("val", "bank"):
            return learned, None
        rows = scramble(np.arange(len(ids))) % np.uint64(5) == 0
        return (learned & ~rows, rows) if labelled is None else (learned, rows & ~learned)

    def release(self) -> None:
        """Forget the features, which may be large; they are computed or read again if they are asked for."""
        self._found = {}

    def _note(self, text):
        note = f"{self.images.name}: {text}."
        if note not in self.notes:
            self.notes.append(note)

    def pairs(self, most: int) -> tuple[np.ndarray, np.ndarray]:
        """Features of two random views of at most `most` evenly spaced images of 'test', `[N, D]` each.

        Views are cropped, mirrored and coloured as MoCo-v2 trains on them (`VIEWS`), keyed by the image.
        """
        source = evenly(self.source("test"), most)
        found = self._kept(source, ("views", VIEWS, self.feature), lambda: self._views(source))
        return found["first"], found["second"]

    @functools.cached_property
    def weights(self) -> str:
        """A digest of the network and all of its variables."""
        found = digest(re.sub(r" at 0x[0-9a-f]+", "", repr(self.loaded.network)).encode())
        for path, x in jax.tree_util.tree_leaves_with_path(self.loaded.variables):
            found = digest(found.encode(), str(path).encode(), np.asarray(x).tobytes())
        return found

    def _kept(self, source, what, compute) -> dict[str, np.ndarray]:
        """`compute()`, or what an earlier command kept of it; `what`: is computed of the images.

        If some of the images cannot be read, nothing is kept.
        """
        if self._cache is None:
            return compute()
        d = self.images.data
        place = os.path.abspath(d.dir) if d.dir and "://" not in d.dir else d.dir
        shown = FORMAT, what, self.size, self.loaded.preparation, d.source, place
        key = digest(
            f"{self.weights} {source.fingerprint()} {shown}".encode(),
            source.ids().astype(np.int64),
            source.labels().astype(np.int64),
        )
        file = self._cache / f"{key}.npz"
        found = arrays.load(file)
        if found is None:
            found = compute()
            whole = all(len(rows) == len(source) for rows in found.values())
            if whole and not arrays.save(file, **found):
                raise UserError(f"--cache: {file} cannot be written: free some space, or use another folder.")
        return found

    def _entries(self, role) -> tuple[str, ...]:
        own = role == "test" and self.classified and self.classified == self.num_classes
        return (self.feature, "logits") if own and self.feature != "logits" else (self.feature,)

    @functools.cached_property
    def _extractor(self) -> Extractor:
        return Extractor(self.loaded.network, self.mesh, keys=self._entries("test"))

    def _run(self, batches, count, title, entries):
        title, size = f"{self.name}, {title}", self._batch_size
        found = self._extractor.whole(self.loaded.variables, batches, count, size, title, keys=entries)
        features, labels, ids, _ = found
        words = ids.astype(np.int64)
        return features | {"label": labels, "id": words[:, 0] | words[:, 1] << 32}

    def _extract(self, source, role, entries):
        how = self.loaded.preparation._asdict()
        batches = eval_batches(source, self.size, self._batch_size, **how)
        return self._run(batches, len(source), role, entries)

    def _views(self, source):
        spec = dataclasses.replace(VIEWS, size=self.size)
        seen = jax.jit(
            lambda pixels, ids: photometric.augment(
                spec.photometric,
                pixels,
                rng.fold(rng.sample_keys(rng.stream(0, "sample"), ids, jnp.zeros(len(ids), jnp.int32)), 0),
                spec.flip,
            )[0]
        )
        found = {}
        for view, name in enumerate(("first", "second")):
            batches = _view_batches(source, spec, view, seen, self._batch_size, self.loaded.preparation)
            found[name] = self._run(batches, len(source), f"{name} view", [self.feature])[self.feature]
        return found


def _view_batches(source, spec, view, seen, batch_size, preparation):
    """Batches for `Extractor` of one of the views that `spec` describes."""
    bad = BadImages(source)
    for start in range(0, len(source), batch_size):
        indices = np.arange(start, start + batch_size)[local_rows(batch_size)]
        pixels = np.zeros((len(indices), spec.count, spec.size, spec.size, 3), np.uint8)
        ids, mask = np.zeros(len(indices), np.int64), np.zeros(len(indices), bool)
        for row, i in enumerate(indices[indices < len(source)].tolist()):
            try:
                record = source[i]
                fill_views([pixels[row]], record, (spec,), 0, 0, preparation.background)
                ids[row], mask[row] = record.id, True
            except pictures.BadImage as error:
                bad.add(i, error)
                bad.check(len(bad))
        words = rng.split_id(ids)
        image = np.asarray(seen(pixels, words))[:, view]
        yield {"image": image, "label": np.full(len(indices), -1), "id": words, "mask": mask}
