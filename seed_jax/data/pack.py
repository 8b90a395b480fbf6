"""Pack a source into ArrayRecord shards, so that training reads a few large files."""

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

PLAN = "plan.json"  # describes an unfinished pack; removed when the pack is finished
_print = functools.partial(print, flush=True)  # unflushed, a pipe would show nothing for hours


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
    """Write a source as ArrayRecord shards into the folder `out`, and open the result.

    The pack keeps ids, labels, splits, class names and names. Encoded images are copied byte for byte, and
    arrays become PNG. An image whose header cannot be read, or that cannot be resized, is left out and named
    in `metadata.json`. If a pack was stopped, the same call keeps its finished shards and resumes.

    Args:
      prefix: removed from the start of each image's name.
      short_side: images with a larger short side (pixels) are resized to it, bicubic, and saved as JPEG of
        quality 95, or as PNG if they have alpha; 0 resizes none.
      workers: number of threads that read and encode images.
      shard_size: images per shard.
      progress: called with one line of text per shard.

    Raises:
      UserError: `out` is not empty and holds no earlier run of this pack, it cannot be written, or no image
        can be read.
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
            finished = files.read_json(out / METADATA)
            _check_same(out, {key: finished.get("plan", {}).get(key) for key in plan}, plan)
            progress(f"{out} is already packed")
            return ArrayRecord(out)
        out.mkdir(parents=True, exist_ok=True)
        if (out / PLAN).exists():
            _check_same(out, files.read_json(out / PLAN), plan)
        # A process that was killed may have left the temporary file of its plan.
        elif any(not path.match(f"{PLAN}.*.tmp") for path in out.iterdir()):
            raise UserError(f"{out} is not empty: choose an empty or a new output folder.")
        else:
            _write(out / PLAN, json.dumps(plan, indent=2).encode())
        starts = range(0, len(source), shard_size)
        names = [f"images-{n:05}-of-{len(starts):05}.array_record" for n in range(len(starts))]
        report = _Progress(len(source), progress)
        with ThreadPoolExecutor(workers) as pool:
            for name, start in zip(names, starts, strict=True):
                indices = range(start, min(start + shard_size, len(source)))
                kept = _is_finished(out / name)
                if not kept:
                    _write_shard(source, indices, out / name, short_side, prefix, pool)
                report(len(indices), kept)
        _finish(source, out, names, plan)
    except OSError as error:
        raise UserError(
            f"{out} cannot be written ({error.strerror or error}): fix this and run the command again."
        ) from error
    return ArrayRecord(out)


def _check_same(out, theirs, plan):
    if not any(theirs.values()):
        raise UserError(f"{out} contains no readable pack: choose another output folder.")
    differ = [
        f"its {key} is {theirs.get(key)}, not {plan[key]}" for key in plan if theirs.get(key) != plan[key]
    ]
    if differ:
        raise UserError(
            f"{out} contains a different pack ({'; '.join(differ)}): choose another output folder."
        )


class _Progress:
    """Prints one line per shard, with an estimate of the remaining time."""

    def __init__(self, total, say):
        self.total, self.say, self.began = total, say, time.monotonic()
        self.finished = self.written = 0

    def __call__(self, count, kept):
        self.finished += count
        self.written += 0 if kept else count
        if kept:
            return
        rate = self.written / (time.monotonic() - self.began)
        left = time.strftime("%H:%M:%S", time.gmtime((self.total - self.finished) / rate))
        self.say(f"{self.finished:,} of {self.total:,} images, {rate:,.0f} images/s, {left} left")


def _write_shard(source, indices, path, short_side, prefix, pool):
    """Write one shard, and its rows of `index.npz` first: a shard under its final name is complete."""
    from array_record.python.array_record_module import ArrayRecordWriter

    temporary = path.with_suffix(".tmp")
    with _disk_errors():
        writer = ArrayRecordWriter(str(temporary), "group_size:1,uncompressed")
    rows, names, skipped = [], [], []
    for first in range(indices.start, indices.stop, 256):  # bounds the encoded images in memory
        chunk = range(first, min(first + 256, indices.stop))
        for i, result in zip(chunk, pool.map(lambda i: _encoded(source, i, short_side), chunk), strict=True):
            name = source.name(i).removeprefix(prefix).lstrip("/")
            if isinstance(result, images.BadImage):
                skipped.append(f"{name}: {result}")
                continue
            encoded, record = result
            with _disk_errors():
                writer.write(encoded)
            rows.append((record.id, record.label, source.splits[i]))
            names.append(name)
    with _disk_errors():
        writer.close()
    with open(temporary, "rb") as file:
        os.fsync(file.fileno())  # else a power loss could leave a cut file under the final name
    ids, labels, splits = np.array(rows, np.int64).reshape(-1, 3).T
    columns = {"ids": ids, "labels": labels, "part": splits.astype(np.int8)}
    columns["size"] = np.array(temporary.stat().st_size)
    strings, skips = Strings.of(names), Strings.of(skipped)
    columns |= {"blob": strings.blob, "ends": strings.ends, "skips": skips.blob, "skip_ends": skips.ends}
    with files.whole(path.with_suffix(".npz")) as file:
        np.savez(file, **columns)
    os.replace(temporary, path)


def _is_finished(path) -> bool:
    """Whether a shard exists and has the size with which it was written."""
    columns = cache.load(path.with_suffix(".npz"))
    return columns is not None and "size" in columns and is_whole(path, int(columns["size"]))


@contextlib.contextmanager
def _disk_errors():
    """Raise OSError where ArrayRecordWriter raises RuntimeError, as it does for a full disk."""
    try:
        yield
    except RuntimeError as error:
        raise OSError(str(error).split(";")[0]) from error


def _encoded(source, i, short_side):
    """(encoded bytes, record) of image `i`; a returned `BadImage` if it cannot be packed."""
    try:
        record = source[i]
        return encode(record.image, short_side), record
    except images.BadImage as error:
        return error


def encode(image: bytes | np.ndarray, short_side: int = 0) -> bytes:
    """The encoded image of a pack; raises `BadImage`.

    Args:
      image: encoded bytes, returned unchanged unless resized; or uint8 `[H, W, 3]`, returned as PNG.
      short_side: an image with a larger short side (pixels) is resized to it and returned as JPEG of quality
        95, or as PNG if it has alpha, which a run puts on its own background; 0 resizes none.
    """
    if not short_side and not isinstance(image, np.ndarray):
        images.open_image(image)
        return image
    picture = images.open_image(image)
    ratio = min(picture.size) / short_side if short_side else 1
    if ratio <= 1:
        return image if isinstance(image, bytes) else _saved(picture, "PNG")
    if images.has_alpha(picture) and (rgba := images.load_rgba(picture)).getextrema()[3][0] < 255:
        return _saved(_resized(rgba, short_side), "PNG")
    divisor = max(d for d in (1, 2, 4, 8) if d <= max(1, ratio / 2))
    picture = Image.fromarray(images.load_rgb(picture, divisor))
    return _saved(_resized(picture, short_side), "JPEG", quality=95)


def _resized(picture, short_side):
    scale = short_side / min(picture.size)
    size = [short_side if x == min(picture.size) else round(x * scale) for x in picture.size]
    return picture.resize(size, Image.Resampling.BICUBIC)


def _saved(picture, file_format, **options):
    out = io.BytesIO()
    picture.save(out, file_format, **options)
    return out.getvalue()


def _finish(source, out, names, plan):
    shards = []
    for name in names:
        with np.load((out / name).with_suffix(".npz"), allow_pickle=False) as arrays:
            shards.append(dict(arrays))
    skipped = [line for shard in shards for line in Strings(shard["skips"], shard["skip_ends"])]
    if len(skipped) == plan["images"]:
        raise UserError(
            f"{out}: none of the {len(skipped):,} images can be packed (the first: {skipped[0]}): fix them, "
            "remove the folder and run the command again."
        )
    joined = {key: np.concatenate([s[key] for s in shards]) for key in ("ids", "labels", "part", "blob")}
    joined["ends"] = np.cumsum(np.concatenate([np.diff(s["ends"], prepend=0) for s in shards]))
    with files.whole(out / INDEX) as file:
        np.savez(file, **joined)
    metadata = {
        "images": len(joined["ids"]),
        "fingerprint": plan["fingerprint"],
        "short_side": plan["short_side"],
        "num_classes": int(source.num_classes),
        "class_names": list(source.class_names),
        "skipped": skipped,
        "shards": [[name, len(s["ids"]), int(s["size"])] for name, s in zip(names, shards, strict=True)],
        "plan": plan,
    }
    _write(out / METADATA, json.dumps(metadata, indent=1).encode())
    for name in names:
        (out / name).with_suffix(".npz").unlink()
    for left in out.glob("*.tmp"):  # from a process that was killed
        left.unlink()
    (out / PLAN).unlink()


def _write(path: Path, content: bytes):
    with files.whole(path) as file:
        file.write(content)
