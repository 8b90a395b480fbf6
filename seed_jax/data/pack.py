"""Packing any source into ArrayRecord shards, once, so that training reads few large files."""

import contextlib
import functools
import io
import json
import os
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
from PIL import Image

from seed_jax.data import files, images
from seed_jax.data.sources import ArrayRecord, Source, cache
from seed_jax.data.sources.arrayrecord import INDEX, METADATA, is_whole
from seed_jax.data.sources.base import Strings, check_local
from seed_jax.errors import UserError

PLAN = "plan.json"  # what is being packed; there until all shards are
_print = functools.partial(print, flush=True)  # else a pipe would show nothing for hours


def pack(
    source: Source,
    out: str | os.PathLike,
    *,
    prefix: str = "",
    short_side: int = 0,
    workers: int = 1,
    shard_size: int = 10_000,
    progress: Callable[[str], None] = _print,
) -> ArrayRecord:
    """The source as ArrayRecord shards of `shard_size` images in the folder `out`, opened.

    Ids, labels, splits, class names, and names less their `prefix` are kept. With `short_side`, images that
    are larger are resized to it once (bicubic, JPEG of quality 95); all others are copied byte for byte,
    and arrays become PNG. Images whose header cannot be read, or that cannot be resized, are left out and
    named in `metadata.json`. A pack that was stopped goes on: finished shards are kept.

    Raises:
      UserError: `out` holds something else or cannot be written, or no image can be read.
    """
    check_local("OUT", out)
    out = Path(out)
    plan = {
        "fingerprint": source.fingerprint(),
        "images": len(source),
        "short_side": short_side,
        "shard_size": shard_size,
    }
    try:
        if (out / METADATA).exists():
            done = files.read_json(out / METADATA)
            _same(out, {key: done.get("plan", {}).get(key) for key in plan}, plan)
            progress(f"{out} is packed already")
            return ArrayRecord(out)
        out.mkdir(parents=True, exist_ok=True)
        if (out / PLAN).exists():
            _same(out, files.read_json(out / PLAN), plan)
        # A plan's temporary file is left when its writer was killed.
        elif any(not path.match(f"{PLAN}.*.tmp") for path in out.iterdir()):
            raise UserError(f"{out} is not empty: give a folder of its own.")
        else:
            _write(out / PLAN, json.dumps(plan, indent=2).encode())
        starts = range(0, len(source), shard_size)
        names = [f"images-{n:05}-of-{len(starts):05}.array_record" for n in range(len(starts))]
        say = _Progress(len(source), progress)
        with ThreadPoolExecutor(workers) as pool:
            for name, start in zip(names, starts, strict=True):
                indices = range(start, min(start + shard_size, len(source)))
                kept = _is_made(out / name)
                if not kept:
                    _shard(source, indices, out / name, short_side, prefix, pool)
                say(len(indices), kept)
        _finish(source, out, names, plan)
    except OSError as error:
        raise UserError(
            f"{out} cannot be written ({error.strerror or error}): mend that and run the command again."
        ) from error
    return ArrayRecord(out)


def _same(out, theirs, plan):
    if not any(theirs.values()):
        raise UserError(f"{out} holds no pack that can be read: give another folder.")
    differ = [
        f"{key} is {theirs.get(key)} there and {plan[key]} here"
        for key in plan
        if theirs.get(key) != plan[key]
    ]
    if differ:
        raise UserError(f"{out} holds another pack: {'; '.join(differ)}: give another folder.")


class _Progress:
    """A line a shard, with the time that is left."""

    def __init__(self, total, say):
        self.total, self.say, self.began = total, say, time.monotonic()
        self.seen = self.made = 0

    def __call__(self, count, kept):
        self.seen += count
        self.made += 0 if kept else count
        if kept:
            return
        rate = self.made / (time.monotonic() - self.began)
        left = time.strftime("%H:%M:%S", time.gmtime((self.total - self.seen) / rate))
        self.say(f"{self.seen:,} of {self.total:,} images, {rate:,.0f} a second, {left} left")


def _shard(source, indices, path, short_side, prefix, pool):
    """Writes one shard and, before it has its name, what `index.npz` will hold of it."""
    from array_record.python.array_record_module import ArrayRecordWriter

    temporary = path.with_suffix(".tmp")
    with _disk_errors():
        writer = ArrayRecordWriter(str(temporary), "group_size:1,uncompressed")
    rows, names, skipped = [], [], []
    for first in range(indices.start, indices.stop, 256):  # so many encoded images are in memory at once
        part = range(first, min(first + 256, indices.stop))
        for i, made in zip(part, pool.map(lambda i: _encoded(source, i, short_side), part), strict=True):
            name = source.name(i).removeprefix(prefix).lstrip("/")
            if isinstance(made, images.BadImage):
                skipped.append(f"{name}: {made}")
                continue
            encoded, record = made
            with _disk_errors():
                writer.write(encoded)
            rows.append((record.id, record.label, source.part[i]))
            names.append(name)
    with _disk_errors():
        writer.close()
    with open(temporary, "rb") as file:
        os.fsync(file.fileno())  # or after a power loss a part of it might have its name
    ids, labels, part = np.array(rows, np.int64).reshape(-1, 3).T
    columns = {"ids": ids, "labels": labels, "part": part.astype(np.int8)}
    columns["size"] = np.array(temporary.stat().st_size)
    strings, skips = Strings.of(names), Strings.of(skipped)
    columns |= {"blob": strings.blob, "ends": strings.ends, "skips": skips.blob, "skip_ends": skips.ends}
    with files.whole(path.with_suffix(".npz")) as file:
        np.savez(file, **columns)
    os.replace(temporary, path)


def _is_made(path) -> bool:
    """Whether a shard is there, of the size that it had when it was written."""
    noted = cache.load(path.with_suffix(".npz"))
    return noted is not None and "size" in noted and is_whole(path, int(noted["size"]))


@contextlib.contextmanager
def _disk_errors():
    """ArrayRecordWriter raises RuntimeError for a full disk."""
    try:
        yield
    except RuntimeError as error:
        raise OSError(str(error).split(";")[0]) from error


def _encoded(source, i, short_side):
    """(bytes, record) of image `i`, or the BadImage that it is."""
    try:
        record = source[i]
        return encode(record.image, short_side), record
    except images.BadImage as error:
        return error


def encode(image: bytes | np.ndarray, short_side: int = 0) -> bytes:
    """The encoded image, resized to `short_side` if that is not 0 and it is larger; raises `BadImage`."""
    if not short_side and not isinstance(image, np.ndarray):
        images.open_image(image)
        return image
    picture = images.open_image(image)
    ratio = min(picture.size) / short_side if short_side else 1
    if ratio <= 1:
        return image if isinstance(image, bytes) else _saved(picture, "PNG")
    divisor = max(d for d in (1, 2, 4, 8) if d <= max(1, ratio / 2))
    picture = Image.fromarray(images.load_rgb(picture, divisor))
    scale = short_side / min(picture.size)
    size = [short_side if x == min(picture.size) else round(x * scale) for x in picture.size]
    return _saved(picture.resize(size, Image.Resampling.BICUBIC), "JPEG", quality=95)


def _saved(picture, form, **options):
    out = io.BytesIO()
    picture.save(out, form, **options)
    return out.getvalue()


def _finish(source, out, names, plan):
    parts = []
    for name in names:
        with np.load((out / name).with_suffix(".npz"), allow_pickle=False) as arrays:
            parts.append(dict(arrays))
    skipped = [line for part in parts for line in Strings(part["skips"], part["skip_ends"])]
    if len(skipped) == plan["images"]:
        raise UserError(
            f"{out}: none of the {len(skipped):,} images can be packed, such as {skipped[0]}: mend them, "
            "remove the folder and run the command again."
        )
    joined = {key: np.concatenate([part[key] for part in parts]) for key in ("ids", "labels", "part", "blob")}
    joined["ends"] = np.cumsum(np.concatenate([np.diff(part["ends"], prepend=0) for part in parts]))
    with files.whole(out / INDEX) as file:
        np.savez(file, **joined)
    metadata = {
        "images": len(joined["ids"]),
        "fingerprint": plan["fingerprint"],
        "short_side": plan["short_side"],
        "num_classes": int(source.num_classes),
        "class_names": list(source.class_names),
        "skipped": skipped,
        "shards": [
            [name, len(part["ids"]), int(part["size"])] for name, part in zip(names, parts, strict=True)
        ],
        "plan": plan,
    }
    _write(out / METADATA, json.dumps(metadata, indent=1).encode())
    for name in names:
        (out / name).with_suffix(".npz").unlink()
    for left in out.glob("*.tmp"):  # by a process that was killed
        left.unlink()
    (out / PLAN).unlink()


def _write(path: Path, content: bytes):
    with files.whole(path) as file:
        file.write(content)
