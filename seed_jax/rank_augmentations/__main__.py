"""`python -m seed_jax.rank_augmentations TEACHER DATA`: which augmentation suits this teacher best."""

import argparse
import dataclasses
import itertools
import json
import logging as python_logging
import sys
from pathlib import Path

from absl import logging
from tqdm import tqdm

from seed_jax import config, parallel
from seed_jax.config import Data
from seed_jax.data import files
from seed_jax.data.sources import named, open_source, recognise
from seed_jax.errors import UserError, command, unknown
from seed_jax.methods.base import base_view
from seed_jax.rank_augmentations import measure, page
from seed_jax.train import teacher, workdir
from seed_jax.weights import pretrained, swin
from seed_jax.weights.flags import FLAGS

SMALL = 64  # sides up to this one are cropped as CIFAR, larger ones as ImageNet
EPILOG = """\
TEACHER  a checkpoint (.pth, .pth.tar, .safetensors, .npz), the workdir of a run, or pip:efficientnet-lite0
DATA     a folder of images or of tar shards; an official archive, such as cifar-100-python.tar.gz, or its
         folder; tfds:NAME; an embedded data set such as scattered. Without it: those of the run TEACHER

  python -m seed_jax.rank_augmentations runs/teacher
  python -m seed_jax.rank_augmentations resnet32x4.pth cifar-100-python
  python -m seed_jax.rank_augmentations --config cifar100_kd resnet32x4.pth cifar-100-python
  python -m seed_jax.rank_augmentations --config runs/digits_kd scattered   (the run's teacher, other data)

It writes report.html, results.json and ranking.svg into --out, and prints the ranking. No labels are needed.
"""


@command
def main(arguments: list[str] | None = None) -> int:
    options = _parse(arguments)
    logging.set_verbosity(logging.WARNING)
    python_logging.getLogger().setLevel(python_logging.WARNING)
    files.claim(options.out)
    print("Reading the teacher and the data.", flush=True)
    parallel.start()
    loaded, data, seed, notes = _read(options)
    source = open_source(data.source, data.train, dir=data.dir or None, subset=data.subset, seed=seed)
    batches = measure.originals(source, base_view(data), options.seed, data.background)
    first = [next(batches) for _ in range(measure.STEPS)]  # a bad image is noticed before the compilation
    batches = itertools.chain(first, batches)
    respond = measure.responses(loaded, batches, data.image_size)
    print("Compiling, then measuring: the first chunk takes longest.", flush=True)
    with tqdm(total=options.chunks, desc="measuring", unit="chunk") as bar:
        ranked = measure.measure(
            respond,
            batches,
            options.augmentations or measure.paper(data.image_size),
            chunks=options.chunks,
            limit=60 * options.minutes,
            seed=options.seed,
            fill=loaded.network.mean,
            draw=options.draw,
            released=options.released,
            done=bar.update,
        )
    facts = {
        "teacher": loaded.provenance["source"],
        **({"step": loaded.provenance["step"]} if "step" in loaded.provenance else {}),
        "data": data.dir or data.source,
        "split": data.train,
        "images": len(source),
        "fingerprint": source.fingerprint(),
        "size": data.image_size,
        "crop": data.crop,
        "chunks": f"{len(ranked[0].means)} of {options.chunks}",
        "draw": options.draw,
        "released": options.released,
        "seed": options.seed,
    }
    features = loaded.features(2, data.image_size)
    if "logits" not in features:
        notes.append(page.SIMILARITIES)
    elif features["logits"].shape[-1] == source.num_classes:
        known = f"{100 * measure.accuracy(respond, first):.0f} % of {measure.SEEN} training crops"
        facts["the teacher's first choice is the label of"] = known
        notes.append(
            f"The teacher's first choice is the label of {known}. A teacher that does not know the data says "
            "little about it; if it only has the classes in another order, the ranking holds."
        )
    if len(ranked[0].means) < options.chunks:
        notes.append(
            f"Only {len(ranked[0].means)} of {options.chunks} chunks were measured, since --minutes "
            f"{options.minutes:g} had passed."
        )
    if all(one.uncertain for one in ranked):
        notes.append("The teacher's answers are nearly uniform, so the ranking means little: train it first.")
    if len(source) < 10 * measure.SEEN:
        notes.append(
            f"The data has {len(source):,} images. A chunk sees {measure.SEEN} different ones, and so chunks "
            "differ less than those of a large data set: values are too low."
        )
    _write(options.out, ranked, facts, [*notes, *page.ABOUT])
    print(f"\n{page.table(ranked).aligned()}\n")
    print("\n".join([page.advice(ranked), page.PREDICTION, *notes]))
    print(f"\n{options.out / 'report.html'}")
    return 0


def _parse(arguments):
    parser = argparse.ArgumentParser(
        prog="python -m seed_jax.rank_augmentations",
        description="Which augmentation suits a teacher, before a student is trained: T.stddev of each.",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("teacher", metavar="TEACHER", nargs="?", default="")
    parser.add_argument("data", metavar="DATA", nargs="?", default="")
    parser.add_argument(
        "--config", default="", help="a config or the workdir of a run, for the teacher, data and crops"
    )
    parser.add_argument("--split", help="the split of DATA (default: the training split)")
    parser.add_argument("--dir", help="the data_dir of TFDS, for tfds:NAME")
    parser.add_argument("--arch", default="", help="the architecture, if TEACHER does not determine it")
    parser.add_argument("--form", default="", help="the form of a vision transformer, likewise")
    parser.add_argument(
        "--window",
        type=swin.windows_of,
        default={},
        help="the windows of a Swin V2, likewise, as its name has them: 16 or 12to16",
    )
    parser.add_argument("--size", type=int, help="side of the images in pixels (default: the teacher's own)")
    parser.add_argument(
        "--augmentations",
        default=[],
        type=lambda names: names.split(","),
        metavar="NAME,NAME",
        help=f"augmentations to rank, out of {', '.join(measure.NAMES)} (default: those of the paper)",
    )
    parser.add_argument(
        "--chunks", type=int, default=50, help="chunks of 640 rows; more narrow the intervals (default: 50)"
    )
    parser.add_argument(
        "--minutes",
        type=float,
        default=9.0,
        help="begin no chunk after this time, but measure five in any case (default: 9)",
    )
    parser.add_argument("--seed", type=int, default=0, help="seed of crops and augmentations (default: 0)")
    parser.add_argument(
        "--draw",
        choices=("batch", "image"),
        default="batch",
        help="one augmentation for a batch, as in the released code, or for each image (default: batch)",
    )
    parser.add_argument(
        "--released", action="store_true", help="cut to whole levels and use torchvision 0.10's rules"
    )
    parser.add_argument(
        "--out",
        type=Path,
        default=Path("runs/rank_augmentations"),
        help="folder of the page and its files (default: runs/rank_augmentations)",
    )
    options = parser.parse_args(arguments)
    if options.config and not options.data and _is_data(options.teacher):
        options.teacher, options.data = "", options.teacher
    if not options.teacher and not options.config:
        parser.error("name a TEACHER, or a run with --config")
    for name in options.augmentations:
        if name not in measure.NAMES:
            raise unknown("augmentation in --augmentations", name, measure.NAMES)
        if options.augmentations.count(name) > 1:
            raise UserError(f"--augmentations names {name} twice: name each once.")
    if options.chunks < measure.FEWEST:
        raise UserError(f"--chunks is {options.chunks}: use {measure.FEWEST} or more.")
    if options.size is not None and not 8 <= options.size <= 1024:
        raise UserError(f"--size is {options.size}: use 8 to 1024.")
    for name in ("minutes", "seed"):
        if getattr(options, name) < 0:
            raise UserError(f"--{name} is {getattr(options, name)}: use 0 or more.")
    if options.dir and not options.data.startswith("tfds:"):
        raise UserError("--dir is for DATA of the form tfds:NAME: leave it out.")
    told = options.arch or options.form or options.window
    if told and (not options.teacher or Path(options.teacher).is_dir()):
        raise UserError("--arch, --form and --window are for a TEACHER that is a file: leave them out.")
    return options


def _is_data(name: str) -> bool:
    """Whether the argument beside `--config` is DATA, which an .npz is not, as it may have weights."""
    if name and Path(name).exists():
        weights = name.endswith(".npz") or (Path(name) / "config.json").exists()
        return not weights and recognise(name) is not None
    return bool(name and named(name)[0])


def _read(options) -> tuple[teacher.Loaded, Data, int, list[str]]:
    """The teacher as a step sees it, the section `data`, the seed of its subset, and notes for the user."""
    is_run = options.teacher and Path(options.teacher).is_dir()
    run, notes = options.config or (options.teacher if is_run else ""), []
    given = _config(run) if run else None
    if options.teacher:
        told = ({"form": options.form} if options.form else {}) | options.window
        found = pretrained.load_named(options.teacher, flags=FLAGS, model=options.arch, options=told)
        size = options.size or (given.data.image_size if given else found.size)
        loaded = teacher.prepare(teacher.Loaded(found.network, found.variables, found.provenance), size)
        if found.assumed:
            notes.append(
                f"{options.teacher} does not say how images are normalised: ImageNet's mean and std are "
                "assumed. For others, use a --config with teacher.options."
            )
    elif given.teacher.weights:
        size = options.size or given.data.image_size
        seed, precision = given.train.seed, given.train.precision
        loaded = teacher.load(given.teacher, image_size=size, seed=seed, precision=precision)
    else:
        raise UserError(f"--config: {options.config} has no teacher: name TEACHER too.")
    if not given and not options.data:
        raise UserError(f"{options.teacher} does not say what it was trained on: name DATA too.")
    data, seed = (given.data, given.train.seed) if given else (_usual(size), 0)
    if options.data:
        source, place = named(options.data)
        data = dataclasses.replace(data, source=source, dir=place or options.dir or "", train="", subset="")
    data = dataclasses.replace(data, image_size=size, train=options.split or data.train)
    return loaded, data.settled(), seed, notes


def _config(file: str) -> config.Config:
    if Path(file).is_dir():
        return workdir.load_run(file).config
    return config.resolve(config.load(file))


def _usual(size: int) -> Data:
    """The crops that classifiers are trained on: small images are moved, others are cut at random."""
    if size <= SMALL:
        return Data(image_size=size, photometric="none", crop="pad", padding=size // 8, resize=1.0)
    return Data(image_size=size, photometric="none", crop_scale=(0.08, 1.0))


def _write(out: Path, ranked, facts: dict, notes: list[str]) -> None:
    rows = [
        {
            "name": one.name,
            "t_stddev": one.t_stddev,
            "interval": one.interval,
            "above_best": one.above(ranked[0]),
            "entropy": one.entropy,
            "seconds": round(one.seconds, 2),
        }
        for one in ranked
    ]
    files.write(out / "results.json", json.dumps({**facts, "augmentations": rows}, indent=1) + "\n")
    page.write(out / "report.html", ranked, facts, notes)


if __name__ == "__main__":
    sys.exit(main())
