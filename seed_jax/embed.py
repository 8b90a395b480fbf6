"""`python -m seed_jax.embed SPEC DATA OUT.npz`: the features of images, by any network that can be loaded."""

import argparse
import dataclasses
import json
import os
import sys
from pathlib import Path

import jax
import numpy as np
from absl import logging
from tqdm import tqdm

from seed_jax import parallel, pretrained, rng
from seed_jax.data import files
from seed_jax.data.pipeline import BadImages, eval_batches, local_rows
from seed_jax.data.sources import Arrays, Source, open_source, recognise
from seed_jax.errors import UserError, command
from seed_jax.evals.features import Extractor

FLAGS = ("--arch", "--form")
EPILOG = """\
SPEC   a checkpoint (.pth, .pth.tar, .safetensors, .npz), the workdir of a run, or pip:efficientnet-lite0
DATA   a folder of images, of tar shards, or that `python -m seed_jax.data pack` wrote; tfds:NAME; an embedded
       set such as photos6; a .txt list of files; a .npz with `image`; a .npy of images, uint8 [N, H, W, 3]
OUT    gets `pooled` float32 [N, D], `embedding` where the network has a head, `id`, `label` (-1: none),
       `name`, and `network`: what made them

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
    parser.add_argument("--split", default="all", help="of the data (default: all)")
    parser.add_argument("--dir", help="tfds's data_dir")
    parser.add_argument("--arch", default="", help="the architecture, where the file does not tell")
    parser.add_argument("--form", default="", help="of a vision transformer, where the file does not tell")
    parser.add_argument("--size", type=int, help="side of the images (default: the network's own)")
    parser.add_argument("--batch-size", type=int, default=64, help="over all devices (default: 64)")
    parser.add_argument(
        "--raw", action="store_true", help="DATA is a .npy of normalised images, float [N, H, W, 3]"
    )
    options = parser.parse_args(arguments)
    if options.batch_size < 1:
        parser.error(f"--batch-size={options.batch_size} must be at least 1")
    if options.size is not None and options.size < 1:
        parser.error(f"--size={options.size} must be at least 1")
    if options.raw and options.size:
        parser.error("--size does not go with --raw, whose images are taken as they come")
    return options


def embed(options) -> None:
    """Does what the command says. Raises UserError for data or a network that cannot be read."""
    if options.out.suffix != ".npz":
        raise UserError(f"the output {options.out} must end in .npz.")
    if not options.out.parent.is_dir():
        raise UserError(f"there is no folder {options.out.parent} to write to; make it first.")
    given = {"form": options.form} if options.form else {}
    loaded = pretrained.load(options.spec, model=options.arch, options=given, where="SPEC", flags=FLAGS)
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
    about = {**loaded.provenance, "size": size, "raw": options.raw}
    if not options.raw:
        about |= loaded.preparation._asdict()
    _write(
        options.out,
        **features,
        id=ids,
        label=labels[order],
        name=np.array(names),
        network=np.array(json.dumps(about)),
    )
    widths = ", ".join(f"{key} {list(value.shape)}" for key, value in features.items())
    skipped = f"; {count - len(rows)} could not be read" if len(rows) < count else ""
    print(f"{options.out}: {widths}{skipped}")


def numbered(batches, batch_size: int):
    """This process's batches with the rows' places in the data before their ids, int64 `[B, 3]`.

    Several processes interleave their rows: the places tell the order again.
    """
    rows = local_rows(batch_size)
    for n, batch in enumerate(batches):
        places = np.arange(n * batch_size, (n + 1) * batch_size)[rows]
        yield {**batch, "id": np.column_stack([places, batch["id"]]).astype(np.int64)}


def _source(options) -> Source:
    data = options.data
    if data.endswith(".npy"):
        images = _load_npy(data)
        if images.dtype != np.uint8 or images.ndim != 4 or images.shape[-1] != 3:
            raise UserError(
                f"{data} holds {images.dtype} {list(images.shape)}: give uint8 [N, H, W, 3], or --raw for "
                "images that are normalised already."
            )
        return Arrays(os.path.basename(data), images, None)
    if source := recognise(data):
        return open_source(source, options.split, dir=data)
    if os.sep in data and "://" not in data and not data.startswith("tfds:"):
        raise UserError(f"DATA: there is no file or folder {data} that can be read.")
    return open_source(data, options.split, dir=options.dir)


def _raw_images(path: str) -> np.ndarray:
    images = _load_npy(path)
    if images.dtype.kind != "f" or images.ndim != 4 or images.shape[-1] != 3:
        raise UserError(f"{path} holds {images.dtype} {list(images.shape)}: --raw takes float [N, H, W, 3].")
    return images


def _load_npy(path: str) -> np.ndarray:
    try:
        return np.load(path, mmap_mode="r", allow_pickle=False)
    except (OSError, ValueError, EOFError) as error:
        raise UserError(f"{path} cannot be read as a .npy file: {error}.") from error


def raw_batches(images: np.ndarray, batch_size: int):
    """As `eval_batches`: this process's rows of each global batch, the last one padded."""
    rows = local_rows(batch_size)
    for start in range(0, len(images), batch_size):
        places = np.arange(start, start + batch_size)[rows]
        mask = places < len(images)
        batch = np.zeros((len(places), *images.shape[1:]), np.float32)
        batch[mask] = images[places[mask]]
        yield {"image": batch, "label": np.full(len(places), -1), "id": rng.split_id(places), "mask": mask}


def _write(path: Path, **arrays) -> None:
    """Whole or not at all."""
    try:
        with files.whole(path) as file:
            np.savez(file, **arrays)
    except OSError as error:
        raise UserError(f"{path} cannot be written: {error.strerror}.") from error


if __name__ == "__main__":
    sys.exit(main())
