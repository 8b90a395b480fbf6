"""What a run reads: the splits of its data, and its teacher."""

import dataclasses

from seed_jax.config import Config, Data
from seed_jax.data.sources import Source, listed_once, no_classes, open_source
from seed_jax.errors import UserError
from seed_jax.evals import EVALUATORS
from seed_jax.evals.online import check_bank, evenly, unlabelled
from seed_jax.report.verdict import LABELS
from seed_jax.train import teacher

UNLABELLED = 512  # images of a probe without labels


@dataclasses.dataclass(frozen=True)
class Sources:
    """The splits of a run.

    Attributes:
      train: what the run trains on.
      bank: labelled images that evaluators search or learn from; None without labels or probe.
      val: what a probe scores; None if there is no probe, because `evals.names` is empty. Without labels, or
        if none of the labelled images is left for a probe, at most 512 evenly spaced images of `train`.
      names: the evaluators that a probe runs: `evals.names`, or those of the table that need no labels.
      data: the section `data` of the config, settled.
      note: a sentence about labels and probe for the start of the run; '' if there is nothing to say.
    """

    train: Source
    bank: Source | None
    val: Source | None
    names: tuple[str, ...]
    data: Data
    note: str = ""

    @property
    def held_out(self) -> bool:
        """Whether a probe scores images that are not trained on, with their labels."""
        return self.bank is not None


def open_all(config: Config) -> tuple[Sources, teacher.Loaded | None]:
    """The sources and the teacher.

    Raises:
      UserError: all problems of the sources and the teacher in one message.
    """
    problems, sources, loaded = [], None, None
    try:
        with listed_once():
            sources = open_sources(config)
    except UserError as error:
        problems.append(str(error))
    if config.method.needs_teacher:
        try:
            loaded = teacher.load(
                config.teacher,
                image_size=config.data.image_size,
                seed=config.train.seed,
                precision=config.train.precision,
            )
        except UserError as error:
            problems.append(str(error))
    if problems:
        raise UserError("\n".join(problems))
    return sources, loaded


def settled(config: Config) -> Data:
    """The section `data` with what its empty values mean (`Data.settled`).

    An empty `data.train` is 'all' if `evals.names` is empty and the method needs no labels: no image need be
    left out.

    Raises:
      UserError: as `Data.settled`.
    """
    d = config.data
    if not (d.train or config.evals.names or config.method.needs_labels):
        d = dataclasses.replace(d, train="all")
    return d.settled()


def open_sources(config: Config) -> Sources:
    """The splits of a run.

    Raises:
      UserError: they cannot be read, or lack the labels that the run needs.
    """
    d, labels = settled(config), config.method.needs_labels
    recognised = not config.data.source
    evaluators = [EVALUATORS[name] for name in config.evals.names]
    bank = any(evaluator.needs_bank for evaluator in evaluators)

    def open_split(split):
        return open_source(d.source, split, dir=d.dir or None)

    train = open_source(d.source, d.train, dir=d.dir or None, subset=d.subset, seed=config.train.seed)
    place = d.dir or d.source
    if not evaluators and (train.num_classes < 2 or (recognised and not labels)):
        return Sources(train, None, None, (), d)
    if train.num_classes < 2:
        advice = no_classes(d.dir) if recognised and d.source == "folder" else ""
        advice = advice or LABELS + ("" if recognised else " and set data.source=''")
        lack = "one class" if train.num_classes else "no labels"
        return _without_labels(config, d, train, f"{place} has {lack}", advice)
    if recognised and d.train == "all" and not d.bank and not labels:
        advice = f"use --config.data.train= to train on one split of {place}"
        return _without_labels(config, d, train, "data.train is 'all'", advice)
    try:
        test = open_split(d.test)  # a missing test split must be noticed before the training time is spent
        val = open_split(d.val)
    except UserError as error:
        if not recognised or labels:
            raise
        raise UserError(
            f"{str(error).removesuffix('.')}, or train without accuracies, with --config.data.train=all."
        ) from None
    note = ""
    if recognised:
        by, use = "by sub-folder " if d.source == "imagefolder" else "", "training and probes"
        use = use if labels else "probes only"
        note = (
            f"{train.num_classes:,} classes {by}in {place}; labels are used by {use}; training uses "
            f"{len(train):,} images, {d.val} {len(val):,}"
        )
        note += f", {d.test} {len(test):,}" if d.test != d.val else ""
        if d.test != config.data.test:
            note += f"; there is no {config.data.test} split, so evals scores {d.test}"
        if d.val != config.data.val:
            note += f"; there is no {config.data.val} split, so probes score {d.val}"
        if not labels and d.train != "all":
            note += " (train on all with --config.data.train=all, without accuracies)"
    sources = Sources(train, open_split(d.bank) if d.bank else train, val, config.evals.names, d, note)
    if bank:
        check_bank(d, sources.bank, val, test)
    used = [train] if labels else []
    used += [sources.val] if labels or bank else []
    used += [sources.bank] if bank and sources.bank not in used else []
    for source in used:
        _check_labels(source)
    return sources


def _without_labels(config: Config, d: Data, train: Source, why: str, advice: str) -> Sources:
    """Sources whose probe needs no labels; the note says what it measures and how to get accuracies."""
    names = tuple(name for name, evaluator in EVALUATORS.items() if not evaluator.needs_labels)
    val = evenly(train, UNLABELLED)
    what = "how well the student imitates the teacher" if config.method.needs_teacher else "effective rank"
    note = f"{why}, so probes measure {what}, on {len(val)} of the training images; for accuracy: {advice}"
    return Sources(train, None, val, names, d, note)


def _check_labels(source: Source) -> None:
    if (without := unlabelled(source)) is not None:
        missing = int((source.labels() < 0).sum())
        raise UserError(
            f"data.source: {missing} of {len(source)} images have no label, such as "
            f"{source.name(without)}: label them or leave them out; a method that needs no labels trains "
            "with --config.evals.names=top1."
        )
