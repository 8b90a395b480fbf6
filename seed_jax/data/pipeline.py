"""From a source to batches, on the host: order, geometry, threads, processes.

Batch `n` is a pure function of (source, views, batch_size, seed, n), and so is each of its rows: the step
number is the whole position, and any thread, process or host may compute any rows.
"""

import collections
import dataclasses
import functools
import itertools
import logging
import os
import sys
import threading
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor

import grain
import jax
import numpy as np

from seed_jax import rng
from seed_jax.data import images, readers
from seed_jax.data.sources import Source
from seed_jax.errors import UserError

_ORDER = -1  # the view number that keys an epoch's permutation; views of samples are 0, 1, ...


@dataclasses.dataclass(frozen=True)
class ViewSpec:
    """`count` random views of `size x size`: crop area and aspect, flip probability, photometric preset."""

    count: int = 1
    size: int = 224
    scale: tuple[float, float] = (0.2, 1.0)
    ratio: tuple[float, float] = (3 / 4, 4 / 3)
    flip: float = 0.5
    photometric: str = "mocov2"


class BadImages:
    """The images of a source that this process could not decode: each is named in the log once.

    Args:
      limit: of `images.too_many_bad`.
    """

    def __init__(self, source: Source, limit: float = images.BAD_SHARE):
        self.source = source
        self.limit = limit
        self.names: dict[int, str] = {}
        self.errors: dict[int, str] = {}
        self._lock = threading.Lock()

    def __len__(self):
        return len(self.names)

    def add(self, i: int, error: images.BadImage) -> None:
        with self._lock:
            if i not in self.names:
                self.names[i], self.errors[i] = self.source.name(i), str(error)
                logging.warning("skipping unreadable image %s (%s)", self.names[i], error)

    def check(self, count: int, names: Iterable[str] | None = None) -> None:
        """Raise `UserError` if so many bad images, `names` among them, are too many."""
        if images.too_many_bad(count, len(self.source), self.limit):
            with self._lock:
                names = list(self.names.values() if names is None else names)[:3]
                reasons = {self.names[i]: error for i, error in self.errors.items()}
            reason = next((reasons[name] for name in names if name in reasons), "read by another process")
            raise UserError(
                f"More than {100 * self.limit:g} % of the {len(self.source)} images of a split cannot be "
                f"read, {', '.join(names)} among them ({reason}); repair or remove them."
            )


def steps_per_epoch(images: int, batch_size: int) -> int:
    """Whole batches in one pass; raises `UserError` when there is not even one."""
    if images < batch_size:
        raise UserError(
            f"data.batch_size is {batch_size} but the training split has only {images} images: "
            f"use --config.data.batch_size={max(1, images // 2)}, or --config.data.train=all."
        )
    return images // batch_size


def _threads(workers: int = 1) -> int:
    """Reading threads of each of so many processes: one a core that this process may use, 16 at most."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return max(1, min(16, cores // workers))


def local_rows(batch_size: int) -> slice:
    """This process's rows of a global batch."""
    n, p = jax.process_count(), jax.process_index()
    if batch_size % n:
        raise UserError(f"The batch size {batch_size} must be a multiple of the {n} processes.")
    return slice(p * batch_size // n, (p + 1) * batch_size // n)


def train_batches(
    source: Source,
    views: tuple[ViewSpec, ...],
    batch_size: int,
    seed: int,
    start_step: int = 0,
    *,
    workers: int = 0,
    threads: int | None = None,
    bad: BadImages | None = None,
):
    """Endless batches from step `start_step` on, this process's rows of each global batch of `batch_size`.

    Yields dicts of `views` (a tuple, one uint8 `[B, V, H, W, 3]` a ViewSpec), `id` uint32 `[B, 2]`, `pass_`,
    `label` and `bad` int32 `[B]`. An epoch is one permutation of the source keyed by (seed, epoch); its
    incomplete last batch is dropped. An unreadable image gives its place to the next index of the source; its
    own index then stands in `bad`, which is -1 elsewhere. Too many in a row raise `UserError`.

    Args:
      workers: reading processes (`readers.py`), which share the rows of each batch; 0 for threads of this
        process. The batches are the same to the bit.
      threads: of each process; None for as many as there are cores.
      bad: where unreadable images are noted; a `BadImages` of the source if None.
    """
    steps_per_epoch(len(source), batch_size)  # or it raises
    rows = local_rows(batch_size)
    bad = BadImages(source) if bad is None else bad
    task = source, views, batch_size, seed
    if workers:
        return _in_processes(task, rows, start_step, workers, threads, bad)
    return _in_threads(_train_rows(*task, rows, bad), start_step, sys.maxsize, threads)


def _train_rows(source, views, batch_size, seed, rows, bad):
    """The function from a step to those rows of its global batch."""
    steps = steps_per_epoch(len(source), batch_size)

    @functools.lru_cache(maxsize=2)
    def order(epoch):
        return rng.host_generator(seed, 0, epoch, _ORDER).permutation(len(source))

    def batch(n):
        epoch, step = divmod(n, steps)
        indices = order(epoch)[step * batch_size : (step + 1) * batch_size][rows]
        return _train_batch(source, indices, views, seed, epoch, bad)

    return batch


def _in_processes(task, rows, start, workers, threads, bad):
    """As `_in_threads`: each process makes its share of the rows of every batch, by threads of its own."""
    source, views, *_ = task
    workers = min(workers, rows.stop - rows.start)
    ends = [rows.start + (rows.stop - rows.start) * n // workers for n in range(workers + 1)]
    shares = [slice(*pair) for pair in itertools.pairwise(ends)]
    largest = max(share.stop - share.start for share in shares)
    room = 4096 + 64 * largest + largest * sum(3 * spec.count * spec.size**2 for spec in views)
    make = functools.partial(_share, task, start, threads or _threads(workers), bad.limit)
    for parts in readers.in_step(make, shares, room):
        for _, found in parts:
            for i, error in found.items():
                bad.add(i, images.BadImage(error))
        yield jax.tree.map(lambda *x: np.concatenate(x), *(batch for batch, _ in parts))


def _share(task, start, threads, limit, rows):
    """In a reading process: those rows of each batch, and what bad images have been found since the last."""
    logging.disable(logging.WARNING)  # the parent names them
    bad, told = BadImages(task[0], limit), 0
    for batch in _in_threads(_train_rows(*task, rows, bad), start, sys.maxsize, threads):
        found = dict(itertools.islice(bad.errors.copy().items(), told, None))
        told += len(found)
        yield batch, found


def _in_threads(batch, start, stop, threads):
    """`batch(n)` for each n, computed by threads (PIL releases the GIL), up to `threads + 1` batches ahead.

    A whole batch is one element: small images would spend more on grain's queues than on pixels.
    """
    threads = threads or _threads()
    options = grain.ReadOptions(num_threads=threads, prefetch_buffer_size=threads + 1)
    return iter(grain.MapDataset.range(start, stop).map(batch).to_iter_dataset(options))


def _train_batch(source, indices, views, seed, epoch, bad):
    arrays = tuple(np.empty((len(indices), s.count, s.size, s.size, 3), np.uint8) for s in views)
    ids, labels = np.empty(len(indices), np.int64), np.empty(len(indices), np.int32)
    unreadable = np.full(len(indices), -1, np.int32)
    for row, drawn in enumerate(int(i) for i in indices):
        for tries in itertools.count():
            i = (drawn + tries) % len(source)
            try:
                record = source[i]
                _fill_views([a[row] for a in arrays], record, views, seed, epoch)
                break
            except images.BadImage as error:
                bad.add(i, error)
                bad.check(tries)
                unreadable[row] = drawn
        ids[row], labels[row] = record.id, record.label
    return {
        "views": arrays,
        "id": rng.split_id(ids),
        "pass_": np.full(len(indices), epoch, np.int32),
        "label": labels,
        "bad": unreadable,
    }


def _fill_views(outs, record, views, seed, epoch):
    """Writes a sample's views into `outs`, uint8 `[V, H, W, 3]` a spec; views are numbered across specs."""
    specs = [spec for spec in views for _ in range(spec.count)]
    targets = [view for out in outs for view in out]
    numbers = [
        rng.host_generator(seed, record.id, epoch, v).random(images.NUMBERS) for v in range(len(specs))
    ]
    picture = images.open_image(record.image)
    size = images.upright_size(picture)
    boxes = [
        images.crop_box(*size, u, spec.scale, spec.ratio) for u, spec in zip(numbers, specs, strict=True)
    ]
    divisor = images.draft_divisor(boxes, [s.size for s in specs]) if images.is_jpeg(picture) else 1
    pixels = images.load_rgb(picture, divisor)
    for target, spec, box in zip(targets, specs, boxes, strict=True):
        target[:] = images.resized_crop(pixels, box, spec.size, divisor)


def eval_batches(
    source: Source,
    size: int,
    batch_size: int,
    *,
    resize: float = images.EVAL_RESIZE,
    interpolation: str = "bilinear",
    threads: int | None = None,
    bad: BadImages | None = None,
):
    """Every image once, in order: this process's rows of each global batch of `batch_size`, the last padded.

    Yields dicts of `image` uint8 `[B, size, size, 3]`, `label` int32 `[B]`, `id` uint32 `[B, 2]` and `mask`
    bool `[B]`. An unreadable image is masked out and noted in `bad`. `resize`, `interpolation`: of
    `images.eval_view`.
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
                image[row] = images.eval_view(images.decode(record), size, resize, interpolation)
                ids[row], labels[row], mask[row] = record.id, record.label, True
            except images.BadImage as error:
                bad.add(i, error)
                bad.check(len(bad))
        return {"image": image, "label": labels, "id": rng.split_id(ids), "mask": mask}

    return _in_threads(batch, 0, -(-len(source) // batch_size), threads)


def prefetch(iterator, place, depth: int = 2):
    """`place(batch)` for each batch, drawn and placed up to `depth` batches ahead by a background thread.

    Closing the generator ends the thread; an exception of `iterator` or `place` is raised at its batch.
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
