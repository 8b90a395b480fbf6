"""Turn a source into batches on the host: order, crops, reading threads and processes.

Batch `n` is a pure function of (source, views, batch_size, seed, last, n), and so is each of its rows. The
step number is therefore the whole position in the data, and any thread or process may compute any row.
"""

import collections
import functools
import itertools
import logging
import math
import os
import sys
import threading
from collections.abc import Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from types import MappingProxyType

import grain
import jax
import numpy as np

from seed_jax.data import images, readers, rng
from seed_jax.data.sources import Source
from seed_jax.data.views import ViewSpec, fill_sample
from seed_jax.errors import UserError

LAST = ("drop", "keep")
SAMPLE = 500  # images that are read to say how many are bad
_ORDER = -1  # the view number that keys an epoch's permutation; views of samples are 0, 1, ...
_NO_TARGETS = MappingProxyType({})


class BadImages:
    """The images of a source that this process could not read; logs the name of each once.

    Args:
      limit: share of the source's images that may be bad, as in `images.too_many_bad`.
    """

    def __init__(self, source: Source, limit: float = images.BAD_SHARE):
        self.source = source
        self.limit = limit
        self.names: dict[int, str] = {}
        self.errors: dict[int, str] = {}
        self._lock = threading.Lock()
        self._share: tuple[float, str] | None = None  # `_bad_share`, once it is needed

    def __len__(self):
        return len(self.names)

    def add(self, i: int, error: images.BadImage) -> None:
        with self._lock:
            if i not in self.names:
                self.names[i], self.errors[i] = self.source.name(i), str(error)
                logging.warning("skipping unreadable image %s (%s)", self.names[i], error)

    def check(self, count: int, names: Iterable[str] | None = None) -> None:
        """Raise `UserError` when `count` bad images are more than allowed.

        Args:
          names: bad images to name in the error; None for those of this process.
        """
        if images.too_many_bad(count, len(self.source), self.limit):
            with self._lock:
                names = list(self.names.values() if names is None else names)[:3]
                reasons = {self.names[i]: error for i, error in self.errors.items()}
                if self._share is None:
                    self._share = _bad_share(self.source)
                share, about = self._share
            reason = next((reasons[name] for name in names if name in reasons), "read by another process")
            raise UserError(
                f"{about}{100 * max(share, count / len(self.source)):.3g} % of the {len(self.source)} images "
                f"of a split cannot be read, such as {', '.join(names)} ({reason}), and a run skips at most "
                f"{100 * self.limit:g} %: repair or remove them."
            )


def _bad_share(source: Source) -> tuple[float, str]:
    """The share of bad images among up to `SAMPLE` evenly spaced ones, and 'About ' if these are not all.

    A run stops at the first few images too many, which say little about how many there are.
    """
    sample = np.unique(np.linspace(0, len(source) - 1, SAMPLE).astype(int)).tolist()

    def is_bad(i):
        try:
            images.decode(source[i])
        except images.BadImage:
            return True
        return False

    with ThreadPoolExecutor(_threads()) as pool:
        share = sum(pool.map(is_bad, sample)) / len(sample)
    return share, "" if len(sample) == len(source) else "About "


def steps_per_epoch(images: int, batch_size: int, last: str = "drop") -> int:
    """The number of batches in one epoch of `images` images.

    Args:
      last: 'drop' to leave out the incomplete last batch, 'keep' to count it.

    Raises:
      UserError: an epoch has no batch.
    """
    steps = images // batch_size if last == "drop" else -(-images // batch_size)
    if not steps:
        raise UserError(
            f"data.batch_size is {batch_size} but the training split has only {images} images: "
            f"use --config.data.batch_size={1 << (images.bit_length() - 1)}, or more images."
        )
    return steps


def _threads(workers: int = 1) -> int:
    """Reading threads per process: available cores divided by `workers`, at least 1, at most 16."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return max(1, min(16, cores // workers))


def local_rows(batch_size: int) -> slice:
    """This process's rows of a global batch. Raises `UserError` when processes cannot share it equally."""
    n, p = jax.process_count(), jax.process_index()
    if batch_size % n:
        raise UserError(
            f"The batch size {batch_size} is not a multiple of the {n} processes: "
            f"use {n * max(1, batch_size // n)}, for example."
        )
    return slice(p * batch_size // n, (p + 1) * batch_size // n)


def train_batches(
    source: Source,
    views: tuple[ViewSpec, ...],
    batch_size: int,
    seed: int,
    start_step: int = 0,
    *,
    last: str = "drop",
    workers: int = 0,
    threads: int | None = None,
    bad: BadImages | None = None,
    background: tuple[int, int, int] = images.WHITE,
):
    """Yield this process's rows of each global batch, endlessly, from batch `start_step` on.

    An epoch is one permutation of the source, keyed by (seed, epoch). When an image cannot be read, the next
    image of the source takes its row.

    Targets are in the coordinates of the whole upright image and are the same for all views. To move a target
    with the pixels of a view, use `crops` first and then `photometric.flips`.

    Args:
      batch_size: rows of a global batch, over all processes.
      last: 'drop' leaves out the incomplete last batch of an epoch; 'keep' yields it as a shorter batch.
      workers: reading processes (`readers.py`), which share the rows of each batch; 0 reads in threads of
        this process. The batches are bitwise the same.
      threads: reading threads per process; None for one per core.
      bad: collects the images that cannot be read; None for a new `BadImages`.
      background: as for `images.load_rgb`.

    Yields:
      A dict with
      `views`: a tuple with one uint8 array `[B, V, H, W, 3]` per ViewSpec.
      `crops`: a tuple with one float32 array `[B, V, 4]` per ViewSpec: left, top, width and height of
        the crop before the flip, as shares of the width and height of the upright image. A padded crop may
        begin below 0 and end above 1.
      `id`: uint32 `[B, 2]`, the low and high word of the sample's id.
      `pass_`: int32 `[B]`, the epoch.
      `label`: int32 `[B]`, -1 without label.
      `targets`: a dict, `[B, ...]` for each name in `Record.targets`; empty when records have no targets.
      `bad`: int32 `[B]`, the index that was drawn for the row if its image could not be read, else -1.

    Raises:
      UserError: an epoch has no batch, processes cannot share a batch equally, too many images in a row
        cannot be read, or the targets of two records differ in names, shapes or dtypes.
    """
    steps_per_epoch(len(source), batch_size, last)
    rows = local_rows(batch_size)
    processes, rest = jax.process_count(), len(source) % batch_size
    if last == "keep" and rest % processes:
        raise UserError(
            f"data.last is 'keep', but the last batch of an epoch has {rest} images, which is not a multiple "
            f"of the {processes} processes: use --config.data.last=drop or another data.batch_size."
        )
    bad = BadImages(source) if bad is None else bad
    task = source, views, batch_size, seed, last, background, _first_targets(source, bad)
    process = jax.process_index(), processes
    if workers:
        workers = min(workers, rows.stop - rows.start)
        return _in_processes(task, process, start_step, workers, threads or _threads(workers), bad)
    return _in_threads(_train_rows(*task, (process,), bad), start_step, sys.maxsize, threads)


def _first_targets(source, bad):
    """`_forms` of the first record of a source that can be read."""
    tries = 0
    while True:
        i = tries % len(source)
        try:
            return _forms(source[i].targets)
        except images.BadImage as error:
            bad.add(i, error)
            bad.check(tries)
        tries += 1


def _forms(targets: Mapping[str, np.ndarray]) -> dict:
    """The (shape, dtype) of each target."""
    return {name: (target.shape, target.dtype) for name, target in targets.items()}


def _check_targets(record, forms, name):
    """Raise `UserError` unless the targets of the record called `name` have these forms."""
    own = _forms(record.targets)
    if own == forms:
        return

    def words(form):
        return "none" if form is None else f"{form[1]} {list(form[0])}"

    target = next(k for k in [*forms, *own] if own.get(k) != forms.get(k))
    raise UserError(
        f"The target '{target}' of {name} is {words(own.get(target))}, but the first image of the source has "
        f"{words(forms.get(target))}: use targets of the same names, shapes and dtypes for all images."
    )


def _train_rows(source, views, batch_size, seed, last, background, forms, shares, bad):
    """The function from a step to some rows of its global batch.

    Args:
      forms: `_forms` that the targets of each record must have.
      shares: (index, count) pairs. Each cuts the rows into `count` consecutive shares, as equal as possible,
        and keeps the share `index`.
    """
    steps = steps_per_epoch(len(source), batch_size, last)

    @functools.lru_cache(maxsize=2)
    def order(epoch):
        return rng.host_generator(seed, 0, epoch, _ORDER).permutation(len(source))

    def batch(n):
        epoch, step = divmod(n, steps)
        indices = order(epoch)[step * batch_size : (step + 1) * batch_size]
        for index, count in shares:
            indices = indices[len(indices) * index // count : len(indices) * (index + 1) // count]
        return _train_batch(source, indices, views, seed, epoch, bad, background, forms)

    return batch


def _in_processes(task, process, start, workers, threads, bad):
    """As `_in_threads`, but each of `workers` reading processes computes its share of each batch."""
    source, views, batch_size, _, _, _, forms = task
    row = 64 + sum(spec.count * (3 * spec.size**2 + 16) for spec in views)
    row += sum(math.prod(shape) * dtype.itemsize for shape, dtype in forms.values())
    room = 4096 + -(-batch_size // (process[1] * workers)) * row
    make = functools.partial(_share, task, process, start, threads, bad.limit)
    for answers in readers.in_step(make, [(worker, workers) for worker in range(workers)], room):
        for _, errors in answers:
            for i, error in errors.items():
                bad.add(i, images.BadImage(error))
        yield jax.tree.map(lambda *x: np.concatenate(x), *(batch for batch, _ in answers))


def _share(task, process, start, threads, limit, worker):
    """In a reading process: its share of each batch, and the errors of bad images since the last batch."""
    logging.disable(logging.WARNING)  # the parent names them
    bad, sent = BadImages(task[0], limit), 0
    for batch in _in_threads(_train_rows(*task, (process, worker), bad), start, sys.maxsize, threads):
        errors = dict(itertools.islice(bad.errors.copy().items(), sent, None))
        sent += len(errors)
        yield batch, errors


def _in_threads(batch, start, stop, threads):
    """Yield `batch(n)` for each n, computed by threads up to `threads + 1` batches ahead.

    Threads help because PIL and the resizer release the GIL. One element of grain's queues is a whole batch:
    for small images, a queue of single images would cost more than the pixels.
    """
    threads = threads or _threads()
    options = grain.ReadOptions(num_threads=threads, prefetch_buffer_size=threads + 1)
    return iter(grain.MapDataset.range(start, stop).map(batch).to_iter_dataset(options))


def _train_batch(source, indices, views, seed, epoch, bad, background=images.WHITE, forms=_NO_TARGETS):
    """The rows of a training batch for these indices of the source; see `train_batches`."""
    rows = len(indices)
    arrays = tuple(np.empty((rows, s.count, s.size, s.size, 3), np.uint8) for s in views)
    crops = np.empty((rows, sum(s.count for s in views), 4), np.float32)
    targets = {name: np.empty((rows, *shape), dtype) for name, (shape, dtype) in forms.items()}
    ids, labels = np.empty(rows, np.int64), np.empty(rows, np.int32)
    unreadable = np.full(rows, -1, np.int32)
    for row, drawn in enumerate(int(i) for i in indices):
        for tries in itertools.count():
            i = (drawn + tries) % len(source)
            try:
                record = source[i]
                crops[row] = fill_sample(
                    [a[row] for a in arrays], source, record, views, seed, epoch, background
                )
                break
            except images.BadImage as error:
                bad.add(i, error)
                bad.check(tries)
                unreadable[row] = drawn
        if record.targets or forms:
            _check_targets(record, forms, source.name(i))
        for name, target in record.targets.items():
            targets[name][row] = target
        ids[row], labels[row] = record.id, record.label
    ends = np.cumsum([s.count for s in views])
    return {
        "views": arrays,
        "crops": tuple(map(np.ascontiguousarray, np.split(crops, ends[:-1], axis=1))),
        "id": rng.split_id(ids),
        "pass_": np.full(rows, epoch, np.int32),
        "label": labels,
        "targets": targets,
        "bad": unreadable,
    }


def eval_batches(
    source: Source,
    size: int,
    batch_size: int,
    *,
    resize: float = images.EVAL_RESIZE,
    interpolation: str = "bilinear",
    background: tuple[int, int, int] = images.WHITE,
    threads: int | None = None,
    bad: BadImages | None = None,
):
    """Yield each image of a source once, in order: this process's rows of each global batch.

    The last batch is padded, and the padding is masked out. Images that cannot be read are masked out too.

    Args:
      size: side of a view, pixels.
      batch_size: rows of a global batch, over all processes.
      resize, interpolation: as in `images.eval_view`. background: as for `images.load_rgb`.
      threads: reading threads; None for one per core.
      bad: collects the images that cannot be read; None for a new `BadImages`.

    Yields:
      A dict with `image` uint8 `[B, size, size, 3]`, `label` int32 `[B]`, `id` uint32 `[B, 2]` and `mask`
      bool `[B]`, True for images.

    Raises:
      UserError: processes cannot share a batch equally, or more images are bad than allowed.
    """
    rows = local_rows(batch_size)
    bad = BadImages(source) if bad is None else bad

    def batch(n):
        indices = np.arange(n * batch_size, (n + 1) * batch_size)[rows]
        image = np.zeros((len(indices), size, size, 3), np.uint8)
        ids, labels = np.zeros(len(indices), np.int64), np.full(len(indices), -1, np.int32)
        mask = np.zeros(len(indices), bool)
        for row, i in enumerate(indices[indices < len(source)].tolist()):
            try:
                record = source[i]
                pixels = images.decode(record, background)
                image[row] = images.eval_view(pixels, size, resize, interpolation)
                ids[row], labels[row], mask[row] = record.id, record.label, True
            except images.BadImage as error:
                bad.add(i, error)
                bad.check(len(bad))
        return {"image": image, "label": labels, "id": rng.split_id(ids), "mask": mask}

    return _in_threads(batch, 0, -(-len(source) // batch_size), threads)


def prefetch(iterator, place, depth: int = 2):
    """Yield `place(batch)` for each batch; a background thread works up to `depth` batches ahead.

    Closing the generator ends the thread. An exception raised by `iterator` or `place` is raised here when
    its batch is due.
    """

    def draw():
        batch = next(iterator, None)
        return None if batch is None else place(batch)

    with ThreadPoolExecutor(1, thread_name_prefix="prefetch") as thread:
        pending = collections.deque(thread.submit(draw) for _ in range(depth))
        try:
            while (batch := pending.popleft().result()) is not None:
                pending.append(thread.submit(draw))
                yield batch
        finally:
            for future in pending:
                future.cancel()
