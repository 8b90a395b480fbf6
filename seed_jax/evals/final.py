"""The final evaluation: the frozen network of a run, scored once on the test split."""

import dataclasses
import logging
import os

import jax
import numpy as np

from seed_jax import parallel
from seed_jax.config import Config, Data
from seed_jax.data.sources import open_source
from seed_jax.data.sources.base import Source
from seed_jax.errors import UserError
from seed_jax.evals import EVALUATORS, linear
from seed_jax.evals.base import SharedFeatures
from seed_jax.evals.online import check_bank, check_unseen, evenly, scores_of
from seed_jax.models.network import Network
from seed_jax.train import workdir

SPLITS = ("test", "val")  # the splits that can be reported


@dataclasses.dataclass(frozen=True)
class Scores:
    """What one evaluation of a frozen network measured.

    Attributes:
      values: each score by name, in [0, 1], or an array `[M]` with a number in [0, 1] for each image, whose
        mean is the score.
      parameters: number of parameters in the backbone.
      step: of the checkpoint; None for a network without one.
      split: of the images, as `data.test` names it.
      images: fingerprint of the split that was scored.
      note: a sentence that a reader of the scores must know; '' if there is none.
    """

    values: dict[str, float | np.ndarray]
    parameters: int
    step: int | None
    split: str
    images: str
    note: str = ""

    def percent(self) -> dict[str, float]:
        """The scores in percent, and `parameters`."""
        means = {name: float(np.mean(value)) for name, value in self.values.items()}
        return {"parameters": self.parameters} | {name: 100 * mean for name, mean in means.items()}


def evaluate(
    directory: str | os.PathLike, *, best: bool = False, dir: str = "", split: str = "test"
) -> dict[str, float]:
    """Accuracies of a run, in percent, on images that training has not seen.

    No choice was made on them either, unless the validation split is scored, because `split` says so or the
    data has only one of `val` and `test`: a warning says so.

    >>> seed_jax.evaluate("runs/mine")  # doctest: +SKIP
    {'parameters': 1517856, 'knn': 89.5, 'linear': 89.3}

    Args:
      directory: the workdir of the run.
      best: take the checkpoint with the best score on the validation split, not the newest one.
      dir: where the data of the run is now; '' if it has not moved.
      split: 'test', or 'val', whose images choices such as the best checkpoint were made on.

    Returns:
      `parameters` of the backbone, `knn`, `linear`, and `top1` of a classifier, as `score_network` measures
      them.

    Raises:
      UserError: the data is missing or has no labels, or the run was trained on different data or on some of
        the images that are scored.
    """
    return score_run(directory, best=best, dir=dir, split=split).percent()


def score_run(
    directory: str | os.PathLike, *, best: bool = False, dir: str = "", split: str = "test"
) -> Scores:
    """The scores of a run, image by image; arguments and errors as `evaluate`."""
    run, config = open_run(directory, best=best, dir=dir)
    scores = score_network(run.network, run.variables, config, split)
    if scores.note:
        logging.warning("%s", scores.note)
    return dataclasses.replace(scores, step=run.step)


def open_run(directory: str | os.PathLike, *, best: bool, dir: str) -> tuple[workdir.Run, Config]:
    """A run and its config, which says where its data is now; the data is that of the run.

    Arguments and errors as `evaluate`.
    """
    run = workdir.load_run(directory, best=best)
    workdir.warn_of_resize(directory)
    d = _settled(run, dir or run.config.data.dir)
    config = dataclasses.replace(run.config, data=d)
    try:
        train = open_source(d.source, d.train, dir=d.dir or None, subset=d.subset, seed=config.train.seed)
    except UserError as error:
        raise UserError(f"{error} If the data has moved, pass its new folder with --dir.") from None
    then, now = run.manifest["data"].get("fingerprint"), train.fingerprint()
    if then not in (None, now):
        raise UserError(
            f"{directory} was trained on different data from {d.dir or d.source} (fingerprint {then}, not "
            f"{now}): pass the folder of the run's images with --dir."
        )
    return run, config


def _settled(run: workdir.Run, dir: str) -> Data:
    """The section `data` of a run's config, with what the run recognised then in place of ''."""
    d = dataclasses.replace(run.config.data, dir=dir)
    manifest = run.manifest
    if not d.source:
        source = manifest["data"].get("source", "")
        val, test = manifest.get("val_split", d.val), manifest.get("test_split", d.test)
        d = dataclasses.replace(d, source=source, val=val, test=test)
    return dataclasses.replace(d, train=d.train or manifest.get("train_split", "")).settled()


def open_scored(config: Config, split: str) -> Source:
    """The images that are scored: those of `data.test` or `data.val`, as `split` says.

    Raises:
      UserError: the data is missing or has no labels, or the run trained on some of these images.
    """
    d = config.data.settled()
    source = _labelled(config, getattr(d, split))
    check_unseen(_labelled(config, d.train), source, split)
    return source


def _labelled(config: Config, split: str) -> Source:
    d = config.data.settled()
    subset = d.subset if split == d.train else ""
    source = open_source(d.source, split, dir=d.dir or None, subset=subset, seed=config.train.seed)
    if source.num_classes < 2:
        lack = "one class" if source.num_classes else "no labels"
        raise UserError(
            f"{d.dir or d.source} has {lack}, so there is nothing to measure accuracy with: put the "
            "images of each class into a sub-folder of their own, and train another run."
        )
    return source


def score_network(network: Network, variables, config: Config, split: str = "test") -> Scores:
    """The scores of a frozen network on `data.test` or `data.val`, image by image.

    The learning rate of the linear probe is chosen on `data.val`: with `split='val'` on the images that are
    scored, and also if `data.test` is the same split; `Scores.note` says so.

    Args:
      network: as for `SharedFeatures`, with its `variables`.
      config: of the run; `evals.feature` is the entry of the features that kNN and linear probe read.
      split: 'test' or 'val'.

    Returns:
      Scores with these values:
      `knn`: `evals.k` neighbours among `evals.bank_size` images of `data.bank` (or `data.train`).
      `linear`: a linear probe trained on the same images, its learning rate chosen on `data.val`.
      `top1`, and `NAME_top1` for an entry `NAME_logits`: the network's own classifiers of these classes.

    Raises:
      UserError: as `open_scored`; the bank contains the images that are scored, or the network does not
        produce the feature that `evals.feature` names.
    """
    d, e = config.data.settled(), config.evals
    reported = getattr(d, split)
    chosen_on = "queries" if reported == d.val else "val"
    bank = _labelled(config, d.bank or d.train)
    sources = {
        chosen_on: _labelled(config, d.val),
        "queries": open_scored(config, split),
        "bank": evenly(bank, e.bank_size),
    }
    check_bank(d, bank, sources[chosen_on], sources["queries"])

    features = SharedFeatures(network, variables, parallel.make_mesh(), config, sources)
    evaluators = [evaluator(features, e) for evaluator in EVALUATORS.values() if evaluator.needs_labels]
    features.want(chosen_on, e.feature)
    values = scores_of(evaluators, variables)

    def examples(name):
        entries, labels = features.get(name, variables)
        return entries[e.feature], labels

    fitted = linear.fit(*examples("bank"), *examples(chosen_on), num_classes=features.num_classes)
    values["linear"] = fitted.correct(*examples("queries"))
    note = ""
    if chosen_on == "queries":
        why = "is scored" if split == "val" else "serves as val and as test"
        note = (
            f"{d.dir or d.source}: one split, {d.val}, {why}, so the best checkpoint and the linear probe's "
            "learning rate are chosen on the images that are scored."
        )
    return Scores(
        values,
        parameters=sum(x.size for x in jax.tree.leaves(variables["params"]["backbone"])),
        step=None,
        split=reported,
        images=sources["queries"].fingerprint(),
        note=note,
    )
