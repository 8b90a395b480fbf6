"""`python -m seed_jax.embed SPEC DATA OUT.npz`: compute features of images with any network."""

import argparse
import dataclasses
import json
import os
from pathlib import Path

import jax
import numpy as np
from absl import logging

from seed_jax import parallel
from seed_jax.data import files, rng
from seed_jax.data.pipeline import BadImages, eval_batches, local_rows
from seed_jax.data.sources import Arrays, Source, named, open_source, recognise
from seed_jax.errors import UserError, command
from seed_jax.evals.features import Extractor
from seed_jax.weights import pretrained, swin
from seed_jax.weights.flags import FLAGS

EPILOG = """\
SPEC   a checkpoint (.pth, .pth.tar, .safetensors, .npz), the workdir of a run, or pip:efficientnet-lite0
DATA   a folder of images or of tar shards; a folder that `python -m seed_jax.data pack` wrote; tfds:NAME; an
       embedded dataset such as photos6; a .txt list of files; a .npz with `image`; a .npy of images, uint8
       [N, H, W, 3]
OUT    a file with `pooled`, float32 [N, D]; `embedding`, float32 [N, E], if the network has a head; `id`,
       uint32 [N, 2]; `label`, int [N] (-1: no label); `name`, text [N]; and `network`, JSON about the network

  python -m seed_jax.embed pip:efficientnet-lite0 PHOTOS photos.npz
  python -m seed_jax.embed runs/mine PHOTOS photos.npz
"""


@command
def main(arguments: list[str] | None = None) -> int:
    options = _parse(arguments)
    logging.set_verbosity(logging.WARNING)
    parallel.start()
    if options.out.suffix != ".npz":
        raise UserError(f"OUT is {options.out}, but must end in .npz: rename it.")
    if not options.out.parent.is_dir():
        raise UserError(f"OUT: the folder {options.out.parent} does not exist: create it first.")
    told = ({"form": options.form} if options.form else {}) | options.window
    loaded = pretrained.load_named(options.spec, flags=FLAGS, model=options.arch, options=told)
    data = _open(options.data, options.split, options.dir, options.raw)
    table = _extract(loaded, data, options.data, options.size or loaded.size, options.batch_size)
    if jax.process_index() == 0:
        _write(options.out, table)
        made = [f"{key} {list(table[key].shape)}" for key in ("pooled", "embedding") if key in table]
        left = len(data) - len(table["id"])
        print(f"{options.out}: {', '.join(made)}" + (f"; {left} could not be read" if left else ""))
    return 0


def _parse(arguments):
    parser = argparse.ArgumentParser(
        prog="python -m seed_jax.embed",
        description=__doc__.split(": ", 1)[1],
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("spec", metavar="SPEC")
    parser.add_argument("data", metavar="DATA")
    parser.add_argument("out", metavar="OUT.npz", type=Path)
    parser.add_argument("--split", default="all", help="the split of DATA to read (default: all)")
    parser.add_argument("--dir", help="the data_dir of TFDS, for tfds:NAME")
    parser.add_argument("--arch", default="", help="the architecture, if SPEC does not determine it")
    parser.add_argument(
        "--form", default="", help="the form of a vision transformer, if SPEC does not determine it"
    )
    parser.add_argument(
        "--window",
        type=swin.windows_of,
        default={},
        help="the windows of a Swin V2 as its name has them, 16 or 12to16, if SPEC does not show them",
    )
    parser.add_argument("--size", type=int, help="side of the images in pixels (default: the network's own)")
    parser.add_argument(
        "--batch-size", type=int, default=64, help="images per forward, over all devices (default: 64)"
    )
    parser.add_argument(
        "--raw",
        action="store_true",
        help="DATA is a .npy of images that are normalised already, float [N, H, W, 3]",
    )
    options = parser.parse_args(arguments)
    if options.batch_size < 1:
        parser.error(f"--batch-size is {options.batch_size}: it must be at least 1")
    if options.size is not None and options.size < 1:
        parser.error(f"--size is {options.size}: it must be at least 1")
    if options.raw and options.size:
        parser.error("--size cannot be used with --raw, which does not resize images: leave one of them out")
    return options


def embed(
    spec: str | os.PathLike,
    data: str | os.PathLike | np.ndarray,
    *,
    split: str = "all",
    dir: str | None = None,
    model: str = "",
    options: dict | None = None,
    size: int = 0,
    batch_size: int = 64,
    raw: bool = False,
) -> dict[str, np.ndarray]:
    """Features of images by any network, as `python -m seed_jax.embed` writes them.

    Images are prepared as the network's authors do; an image that cannot be read is left out.

    Args:
      spec: weights, as `seed_jax.load` takes them.
      data: a folder, file or name as the command takes it, or images `[N, H, W, 3]`, uint8.
      split: the split of `data` to read; all of it by default.
      dir: the data_dir of tensorflow-datasets, for `tfds:NAME`.
      model, options: as for `seed_jax.load`, if `spec` does not determine them.
      size: side of the images, pixels; 0 for the network's own.
      batch_size: images per forward, over all devices.
      raw: `data` has images that are normalised already, float `[N, H, W, 3]`.

    Returns:
      `pooled`, float32 `[N, D]`; `embedding`, float32 `[N, E]`, if the network has a head; `id`, uint32
      `[N, 2]`; `label`, int `[N]` (-1: none); `name`, text `[N]`; `network`, JSON about the network.

    Raises:
      UserError: the data or the network cannot be read.
    """
    parallel.start()
    if raw and size:
        raise UserError("size cannot be used with raw, which does not resize images: leave one of them out.")
    loaded = pretrained.load(spec, model=model, options=options)
    opened = _open(data if isinstance(data, np.ndarray) else os.fspath(data), split, dir, raw)
    return _extract(loaded, opened, "images", size or loaded.size, batch_size)


def _extract(
    loaded: pretrained.Pretrained, data: Source | np.ndarray, title: str, size: int, batch_size: int
):
    """The arrays that `embed` returns; an array of `data` is normalised already, and `title` names it."""
    network, raw = loaded.network, isinstance(data, np.ndarray)
    if raw:
        backbone = dataclasses.replace(network.backbone, mean=(0, 0, 0), std=(1, 1, 1))
        network = dataclasses.replace(network, backbone=backbone)
        batches = raw_batches(data, batch_size)
    else:
        bad = BadImages(data, limit=1.0)
        batches = eval_batches(data, size, batch_size, **loaded.preparation._asdict(), bad=bad)
    keys = ("pooled", "embedding") if "head" in network.parts else ("pooled",)
    extract = Extractor(network, parallel.make_mesh(), keys=keys)
    found = extract.whole(loaded.variables, batches, len(data), batch_size, "embedding")
    features, labels, ids, places = found
    description = {**loaded.provenance, "size": size, "raw": raw}
    if not raw:
        description |= loaded.preparation._asdict()
    return {
        **features,
        "id": ids,
        "label": labels,
        "name": np.array([f"{title}[{i}]" if raw else data.name(i) for i in places.tolist()]),
        "network": np.array(json.dumps(description)),
    }


def _open(data: str | np.ndarray, split: str, dir: str | None, raw: bool) -> Source | np.ndarray:
    """The source of `data`, or an array of normalised images if `raw`."""
    name = data if isinstance(data, str) else "images"
    if name.endswith(".npy"):
        data = _load_npy(name)
    if isinstance(data, np.ndarray):
        found = f"{name} contains a {data.dtype} array of shape {list(data.shape)}"
        images = data.ndim == 4 and data.shape[-1] == 3
        if raw and not (images and data.dtype.kind == "f"):
            raise UserError(f"{found}: normalised images are a float array of shape [N, H, W, 3].")
        if not raw and not (images and data.dtype == np.uint8):
            raise UserError(
                f"{found}: convert it to uint8 [N, H, W, 3], or use --raw (in Python raw=True) if the images "
                "are normalised already."
            )
        return data if raw else Arrays(os.path.basename(name), data, None)
    if raw:
        raise UserError(f"DATA is {data}, but --raw takes a .npy file of normalised images.")
    source, place = named(data)
    if not source and (source := recognise(place)) is None:
        raise UserError(
            f"{data} is not an existing file or folder of images in a supported format: check the path, and "
            "the formats in `seed-jax embed --help`."
        )
    return open_source(source, split, dir=place or dir)


def _load_npy(path: str) -> np.ndarray:
    try:
        return np.load(path, mmap_mode="r", allow_pickle=False)
    except (OSError, ValueError, EOFError) as error:
        raise UserError(
            f"DATA: {path} cannot be read as a .npy file ({error}): use a file that np.save wrote."
        ) from error


def raw_batches(images: np.ndarray, batch_size: int):
    """Yield batches as `eval_batches` does, from images that are normalised already.

    Args:
      images: float `[N, H, W, 3]`.
      batch_size: over all processes.

    Yields:
      This process's rows of each batch, the last one padded: `image` float32 `[B, H, W, 3]`, `label` int
      `[B]` (all -1), `id` uint32 `[B, 2]` (the index in `images`), and `mask` bool `[B]` (false for padding).
    """
    rows = local_rows(batch_size)
    for start in range(0, len(images), batch_size):
        indices = np.arange(start, start + batch_size)[rows]
        mask = indices < len(images)
        batch = np.zeros((len(indices), *images.shape[1:]), np.float32)
        batch[mask] = images[indices[mask]]
        yield {"image": batch, "label": np.full(len(indices), -1), "id": rng.split_id(indices), "mask": mask}


def _write(path: Path, arrays: dict[str, np.ndarray]) -> None:
    """Write an .npz file atomically."""
    try:
        with files.whole(path) as file:
            np.savez(file, **arrays)
    except OSError as error:
        raise UserError(
            f"{path} cannot be written ({error.strerror}): free some space, or choose another OUT."
        ) from error
