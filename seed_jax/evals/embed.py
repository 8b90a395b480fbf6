"""`python -m seed_jax.embed SPEC DATA OUT.npz`: compute features of images with any network."""

import argparse
import dataclasses
import json
import os
from pathlib import Path

import jax
import numpy as np
from absl import logging
from tqdm import tqdm

from seed_jax import parallel, rng
from seed_jax.data import files
from seed_jax.data.pipeline import BadImages, eval_batches, local_rows
from seed_jax.data.sources import Arrays, Source, open_source, recognise
from seed_jax.errors import UserError, command
from seed_jax.evals.features import Extractor
from seed_jax.weights import pretrained

FLAGS = ("--arch", "--form")
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
    embed(options)
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


def embed(options) -> None:
    """Run the command with its parsed arguments: extract the features and write OUT.npz.

    With several processes, process 0 writes.

    Raises:
      UserError: the data or the network cannot be read, or OUT.npz cannot be written.
    """
    if options.out.suffix != ".npz":
        raise UserError(f"OUT is {options.out}, but must end in .npz: rename it.")
    if not options.out.parent.is_dir():
        raise UserError(f"OUT: the folder {options.out.parent} does not exist: create it first.")
    form = {"form": options.form} if options.form else {}
    loaded = pretrained.load(options.spec, model=options.arch, options=form, where="SPEC", flags=FLAGS)
    network, size = loaded.network, options.size or loaded.size
    if options.raw:
        images = _raw_images(options.data)
        backbone = dataclasses.replace(network.backbone, mean=(0, 0, 0), std=(1, 1, 1))
        network = dataclasses.replace(network, backbone=backbone)
        batches, count = raw_batches(images, options.batch_size), len(images)
    else:
        source = _source(options)
        count = len(source)
        batches = eval_batches(
            source,
            size,
            options.batch_size,
            **loaded.preparation._asdict(),
            bad=BadImages(source, limit=1.0),
        )
    keys = ("pooled", "embedding") if "head" in network.parts else ("pooled",)
    extract = Extractor(network, parallel.make_mesh(), keys=keys)
    steps = -(-count // options.batch_size)
    first = jax.process_index() == 0
    progress = tqdm(batches, "embedding", steps, unit="batch", disable=None if first else True)
    features, labels, ids = extract(loaded.variables, numbered(progress, options.batch_size))
    if not first:
        return
    order = np.argsort(ids[:, 0])
    rows, ids = ids[order, 0], ids[order, 1:].astype(np.uint32)
    features = {key: value[order] for key, value in features.items()}
    names = [f"{options.data}[{i}]" if options.raw else source.name(i) for i in rows.tolist()]
    description = {**loaded.provenance, "size": size, "raw": options.raw}
    if not options.raw:
        description |= loaded.preparation._asdict()
    _write(
        options.out,
        **features,
        id=ids,
        label=labels[order],
        name=np.array(names),
        network=np.array(json.dumps(description)),
    )
    shapes = ", ".join(f"{key} {list(value.shape)}" for key, value in features.items())
    skipped = f"; {count - len(rows)} could not be read" if len(rows) < count else ""
    print(f"{options.out}: {shapes}{skipped}")


def numbered(batches, batch_size: int):
    """Yield the batches of this process with each row's index in the data put before its id.

    The rows of several processes are gathered process by process; the indices restore their order.

    Args:
      batches: as from `eval_batches`, with `id` uint32 `[B, 2]`.
      batch_size: over all processes.

    Yields:
      The same batches, with `id` int64 `[B, 3]`: index and id.
    """
    rows = local_rows(batch_size)
    for n, batch in enumerate(batches):
        indices = np.arange(n * batch_size, (n + 1) * batch_size)[rows]
        yield {**batch, "id": np.column_stack([indices, batch["id"]]).astype(np.int64)}


def _source(options) -> Source:
    data = options.data
    if data.endswith(".npy"):
        images = _load_npy(data)
        if images.dtype != np.uint8 or images.ndim != 4 or images.shape[-1] != 3:
            raise UserError(
                f"{data} contains a {images.dtype} array of shape {list(images.shape)}: convert it to uint8 "
                "[N, H, W, 3], or use --raw if the images are normalised already."
            )
        return Arrays(os.path.basename(data), images, None)
    if source := recognise(data):
        return open_source(source, options.split, dir=data)
    if os.sep in data and "://" not in data and not data.startswith("tfds:"):
        raise UserError(
            f"DATA: {data} is not an existing file or folder of images in a supported format: check the "
            "path, and the formats in --help."
        )
    return open_source(data, options.split, dir=options.dir)


def _raw_images(path: str) -> np.ndarray:
    images = _load_npy(path)
    if images.dtype.kind != "f" or images.ndim != 4 or images.shape[-1] != 3:
        raise UserError(
            f"{path} contains a {images.dtype} array of shape {list(images.shape)}: with --raw, use a float "
            "array of shape [N, H, W, 3]."
        )
    return images


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


def _write(path: Path, **arrays) -> None:
    """Write an .npz file atomically."""
    try:
        with files.whole(path) as file:
            np.savez(file, **arrays)
    except OSError as error:
        raise UserError(
            f"{path} cannot be written ({error.strerror}): free some space, or choose another OUT."
        ) from error
