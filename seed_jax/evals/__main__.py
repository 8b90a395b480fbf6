"""`python -m seed_jax.evals RUN_OR_WEIGHTS…`: how good frozen networks are, by the usual protocols."""

import argparse
import json
import logging as python_logging
import sys
from pathlib import Path

import jax
from absl import logging

import seed_jax
from seed_jax import parallel
from seed_jax.config import Evals
from seed_jax.data import files
from seed_jax.errors import UserError, command, unknown
from seed_jax.evals import accuracy
from seed_jax.evals.final import SPLITS, evaluate, open_run
from seed_jax.evals.images import ROLES, Images, open_images
from seed_jax.evals.protocols import PROTOCOLS, Options
from seed_jax.evals.subject import Subject
from seed_jax.evals.transfer import SETS
from seed_jax.report.tables import SCORES, Table
from seed_jax.train import workdir
from seed_jax.weights import flags, pretrained, source

ONLY = {"k": "knn", "labels": "semi", "teacher": "overlap"}  # flags that one protocol reads
FINAL = ("network", "protocol", "best", "dir", "split")  # the flags that the final evaluation takes
EPILOG = """\
RUN_OR_WEIGHTS  the workdir of a run; a checkpoint (.pth, .pth.tar, .safetensors, .npz) or
                pip:efficientnet-lite0, which need --protocol and --data

Without --protocol: kNN, linear probe and classifier of runs on their own data, in percent.

Protocols:
{protocols}

Known data sets, from tensorflow-datasets, or as SET:FOLDER, each with its usual metric for transfer:
  {sets}

  python -m seed_jax.evals runs/mine
  python -m seed_jax.evals pip:efficientnet-lite0 --data PHOTOS --protocol=knn,linear,rank
  python -m seed_jax.evals runs/a runs/b --protocol=transfer --data pets:PETS --data flowers --out scores.json
  python -m seed_jax.evals runs/mine --protocol=overlap --teacher=pip:efficientnet-lite0

Intervals are of 95 %, over test images (over tasks in few_shot).
"""


@command
def main(arguments: list[str] | None = None) -> int:
    given = _parse(arguments)
    logging.set_verbosity(logging.WARNING)
    python_logging.getLogger().setLevel(python_logging.WARNING)
    parallel.start()
    if given.protocol:
        _protocols(given)
    else:
        _final(given)
    return 0


def _final(given) -> None:
    """Print the final evaluation of runs."""
    results = [evaluate(run, best=given.best, dir=given.dir, split=given.split) for run in given.network]
    names = list(SCORES) + sorted({name for scores in results for name in scores} - {*SCORES, "parameters"})
    names = [name for name in names if any(name in scores for scores in results)]
    rows = [
        [run, f"{scores['parameters']:,}", *(scores.get(name) for name in names)]
        for run, scores in zip(given.network, results, strict=True)
    ]
    columns = [f"{SCORES.get(name, name)}, {given.split} %" for name in names]
    print(Table(["run", "parameters", *columns], rows).aligned())


def _protocols(given) -> None:
    """Check all protocols on all networks and data sets, then measure, print and write them."""
    subjects = _subjects(given)
    for subject, options in subjects:
        for name in given.protocol:
            PROTOCOLS[name].check(subject, options)
    results = []
    for subject, options in subjects:
        scores = {}
        for name in given.protocol:
            scores |= PROTOCOLS[name].measure(subject, options)
        results.append((subject, options, scores))
        subject.release()
    if jax.process_index():
        return
    names = {(subject.images.name, name): None for subject, _, scores in results for name in scores}
    cells = {
        (subject.name, subject.images.name, name): score.text()
        for subject, _, scores in results
        for name, score in scores.items()
    }
    rows = [[f"{data}: {name}", *(cells.get((n, data, name)) for n in given.network)] for data, name in names]
    table = [["score", *given.network], *rows]
    if len(given.network) > len(rows):
        table = [list(column) for column in zip(*table, strict=True)]
        table[0][0] = "network"
    print(Table(table[0], table[1:]).aligned())
    print(f"Shares in percent with 95 % intervals over the {given.split} images (few-shot: over tasks).")
    notes = dict.fromkeys([note for subject, *_ in results for note in subject.notes] + _unequal(results))
    print("".join(f"{note}\n" for note in notes), end="")
    if given.out:
        _write(given.out, [_described(*result) for result in results])
        print(given.out)


def _unequal(results) -> list[str]:
    """A sentence for each setting that differs among the networks of a table."""
    of_network = {subject.name: (subject.feature, options.k) for subject, options, _ in results}
    told = []
    for flag, values in zip(("feature", "k"), zip(*of_network.values(), strict=True), strict=True):
        if len(set(values)) > 1:
            each = ", ".join(f"{value} of {name}" for name, value in zip(of_network, values, strict=True))
            told.append(f"The networks differ in --{flag} ({each}): set it for a fair comparison.")
    return told


def _subjects(given) -> list[tuple[Subject, Options]]:
    """Every network on every data set."""
    shown = [open_images(name, given.dir, given.splits) for name in given.data]
    teacher = given.teacher and _teacher(given.teacher)
    shared = {
        "split": given.split,
        "most": given.images,
        "batch_size": given.batch_size,
        "cache": given.cache,
    }
    beside = [teacher and Subject(given.teacher, teacher, images, **shared) for images in shown]
    found = []
    for spec in given.network:
        loaded, own, evals = _open(spec, given)
        if own:
            shown, beside = [own], [teacher and Subject(given.teacher, teacher, own, **shared)]
        size = own.data.image_size if own else 0 if Path(spec).is_dir() else given.size
        for images, its in zip(shown, beside, strict=True):
            feature = given.feature or evals.feature
            subject = Subject(spec, loaded, images, feature=feature, size=size, **shared)
            found.append((subject, Options(given.k or evals.k, given.labels, given.seed, its or None)))
    return found


def _teacher(spec: str) -> pretrained.Pretrained:
    try:
        return pretrained.load_named(spec, flags=flags.FLAGS)
    except UserError as error:
        text = f"--teacher: {error}"
        if any(flag in text for flag in flags.FLAGS):
            text += " They are flags of `python -m seed_jax.weights export`: export the teacher first."
        raise UserError(text) from error


def _open(spec: str, given) -> tuple[pretrained.Pretrained, Images | None, Evals]:
    """A network, the data of its run and the `evals` section; with --data None and the section's defaults."""
    if not Path(spec).is_dir():
        source.find(spec)
        if not given.data:
            raise UserError(
                f"{spec} is a weights file, which has no images of its own: name some with --data."
            )
        told = ({"form": given.form} if given.form else {}) | given.window
        return pretrained.load_named(spec, flags=flags.FLAGS, model=given.arch, options=told), None, Evals()
    if given.data:
        return pretrained.of_run(spec, workdir.load_run(spec, best=given.best)), None, Evals()
    run, config = open_run(spec, best=given.best, dir=given.dir)
    name = config.data.dir or config.data.source
    d = config.data.settled()
    images = Images(name, d, None, config.train.seed, config.evals.bank_size, trained_on=True)
    return pretrained.of_run(spec, run), images, config.evals


def _described(subject: Subject, options: Options, scores: dict[str, accuracy.Score]) -> dict:
    """One result, as the JSON has it."""
    d = subject.images.data
    sources = [(role, subject.sources[role]) for role in ROLES if role in subject.sources]
    teacher = options.teacher and {"network": options.teacher.name, "weights": options.teacher.weights}
    return {
        "network": subject.name,
        "weights": subject.weights,
        "provenance": subject.loaded.provenance,
        "feature": subject.feature,
        "preparation": {"size": subject.size, **subject.loaded.preparation._asdict()},
        "data": {
            "name": subject.images.name,
            "source": d.source,
            "splits": {"train": d.train, "val": d.val, "test": d.test},
            "classes": subject.num_classes,
            **{role: {"images": len(x), "fingerprint": x.fingerprint()} for role, x in sources},
        },
        "options": {**options._asdict(), "teacher": teacher},
        "scores": {name: score._asdict() for name, score in scores.items()},
        "notes": subject.notes,
    }


def _write(out: Path, results: list[dict]) -> None:
    whole = {"seed_jax": seed_jax.__version__, "resamples": accuracy.RESAMPLES, "level": accuracy.LEVEL}
    try:
        with files.whole(out, "w") as file:
            json.dump(whole | {"results": results}, file, indent=1, default=str)
    except OSError as error:
        raise UserError(f"--out: {out} cannot be written ({error.strerror}): use another file.") from error


def _parse(arguments) -> argparse.Namespace:
    usual = Options()
    lines = "\n".join(f"  {name:<12}{protocol.about}" for name, protocol in PROTOCOLS.items())
    parser = argparse.ArgumentParser(
        prog="python -m seed_jax.evals",
        description=__doc__.split(": ", 1)[1],
        epilog=EPILOG.format(protocols=lines, sets=", ".join(SETS)),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("network", nargs="+", metavar="RUN_OR_WEIGHTS")
    parser.add_argument(
        "--protocol",
        default=[],
        type=lambda names: names.split(","),
        metavar="NAME,NAME",
        help=f"protocols to measure, out of {', '.join(PROTOCOLS)}",
    )
    parser.add_argument(
        "--data",
        action="append",
        default=[],
        help="a folder of images or of tar shards, tfds:NAME, an embedded data set such as digits, or a "
        "known data set; may be given several times (default: the data of each run)",
    )
    parser.add_argument(
        "--splits",
        default="",
        metavar="TRAIN,VAL,TEST",
        help="splits of --data to learn from, choose on and score (default: train,val,test; for tfds, "
        "train[:90%%],train[90%%:],test)",
    )
    parser.add_argument(
        "--best",
        action="store_true",
        help="for runs, use the checkpoint with the best score during training (default: the newest)",
    )
    parser.add_argument(
        "--dir",
        default="",
        help="the new folder of a run's data, if it has moved; with --data, the data_dir of TFDS",
    )
    parser.add_argument(
        "--split",
        choices=SPLITS,
        default="test",
        help="the split to measure on, data.test or data.val (default: test)",
    )
    flags.add(parser)
    parser.add_argument(
        "--feature", default="", help="the vector to read (default: pooled, or evals.feature of the run)"
    )
    parser.add_argument(
        "--teacher", default="", help="for overlap: weights or run whose `pooled` is compared"
    )
    parser.add_argument(
        "--labels",
        default=usual.labels,
        type=lambda specs: tuple(specs.split(",")),
        metavar="SHARE,SHARE",
        help="for semi: shares of the labels of each class, drawn by --seed, or by 3 as 1%%@3, or files that "
        "name the labelled images, as SimCLR's 1percent.txt (default: 1%%,10%%)",
    )
    parser.add_argument(
        "--k", type=int, default=0, help=f"neighbours of kNN (default: {Evals.k}, or evals.k of the run)"
    )
    parser.add_argument(
        "--images", type=int, default=0, help="images of each split, evenly spaced (default: all)"
    )
    parser.add_argument(
        "--batch-size", type=int, default=64, help="images per forward, over all devices (default: 64)"
    )
    parser.add_argument("--seed", type=int, default=usual.seed, help="seed of random draws (default: 0)")
    parser.add_argument(
        "--cache", type=Path, help="folder that keeps features for the next command (docs/evaluation.md)"
    )
    parser.add_argument("--out", type=Path, metavar="FILE.json", help="write all results there, too")
    given = parser.parse_args(arguments)
    for name in given.protocol:
        if name not in PROTOCOLS:
            raise unknown("protocol in --protocol", name, PROTOCOLS)
    flags.check(given, given.network)
    for name, least in (("k", 0), ("images", 0), ("batch_size", 1), ("seed", 0)):
        if getattr(given, name) < least:
            flag = name.replace("_", "-")
            raise UserError(f"--{flag} is {getattr(given, name)}: use {least} or more.")
    if not given.protocol:
        for spec in given.network:
            if not Path(spec).is_dir() and source.find(spec):
                raise UserError(
                    f"{spec} is a weights file: name what to measure with --protocol, and images with --data."
                )
        for name, value in vars(given).items():
            if name not in FINAL and value != parser.get_default(name):
                flag = name.replace("_", "-")
                raise UserError(f"--{flag} is for protocols: name some with --protocol.")
    for flag, protocol in ONLY.items():
        unused = given.protocol and protocol not in given.protocol
        if unused and getattr(given, flag) != parser.get_default(flag):
            raise UserError(f"--{flag} is for the protocol {protocol}, which --protocol does not name.")
    if given.splits and not given.data:
        raise UserError("--splits names splits of --data: name the data, too.")
    for flag, path in (("cache", given.cache), ("out", given.out and given.out.parent)):
        if path is not None and not path.is_dir():
            raise UserError(f"--{flag}: there is no folder {path}: create it first.")
    return given


if __name__ == "__main__":
    sys.exit(main())
