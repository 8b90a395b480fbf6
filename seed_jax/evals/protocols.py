"""The protocols of `python -m seed_jax.evals --protocol`: what each reads, checks and reports.

A protocol is a function from a `Subject` to scores, and a line in `PROTOCOLS`. What it computes is a pure
function of features and labels in a file of its own. Everything that the data or the network may lack is
checked before anything is compiled.
"""

import re
from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from seed_jax.data.sources import take_subset
from seed_jax.errors import UserError
from seed_jax.evals import accuracy, few_shot, hypersphere, knn, linear, logistic, neighbours, retrieval
from seed_jax.evals.accuracy import Score
from seed_jax.evals.features import check
from seed_jax.evals.images import has_own_test
from seed_jax.evals.subject import Subject
from seed_jax.evals.top1 import correct

TEMPERATURE = 0.07  # of kNN's weighted vote
COMPARED = 4096  # images of which all pairs are compared
PAIRS = 2048  # images with two views


class Options(NamedTuple):
    """What protocols share.

    Attributes:
      k: neighbours that vote in kNN.
      labels: of `semi`: shares of the labels of each class, or files with the names of labelled images.
      seed: of what protocols draw, and of the resamples.
      teacher: of `overlap`, on the same images; None without one.
    """

    k: int = 10
    labels: tuple[str, ...] = ("1%", "10%")
    seed: int = 0
    teacher: Subject | None = None


class Protocol(NamedTuple):
    """A line of `PROTOCOLS`.

    Attributes:
      about: what it measures, for `--help`.
      measure: `(subject, options) -> scores by name`.
      check: `(subject, options)` raises `UserError` for what is lacking.
    """

    about: str
    measure: Callable[[Subject, Options], dict[str, Score]]
    check: Callable[[Subject, Options], None]


def _classifier(name, logits, labels, options) -> dict[str, Score]:
    right = correct(logits, labels)
    probabilities = accuracy.softmax(logits)
    return {
        name: accuracy.mean(right, options.seed),
        f"{name}_per_class": accuracy.mean_per_class(right, labels, options.seed),
        f"{name}_ece": accuracy.plain(
            accuracy.expected_calibration_error(probabilities, labels), len(labels)
        ),
    }


def _linear(subject, options):
    fitted = linear.fit(*_flat(subject.chosen_on()), num_classes=subject.num_classes, seed=options.seed)
    x, labels = check(*subject.get("test"), "test")
    return _classifier("linear", fitted.logits(x), labels, options)


def _own(subject, options):
    return _classifier("classifier", *check(*subject.get("test", "logits"), "test"), options)


def _own_check(subject, options):
    subject.check_labels("test")
    if not subject.classified:
        raise UserError(f"{subject.name} has no classifier of its own: use linear, which trains one.")
    if subject.classified != subject.num_classes:
        raise UserError(
            f"{subject.name} classifies {subject.classified} classes, but {subject.images.name} has "
            f"{subject.num_classes}: use linear, which trains a classifier of these."
        )
    own, its = subject.loaded.class_names, tuple(subject.source("test").class_names)
    if differ := [n for n, names in enumerate(zip(own, its, strict=False)) if names[0] != names[1]]:
        n = differ[0]
        raise UserError(
            f"{subject.name} was trained on other classes than {subject.images.name} has, class {n} is "
            f"'{own[n]}' there and '{its[n]}' here: use linear, which trains a classifier of these."
        )


def _knn(subject, options):
    bank, queries = subject.get("bank"), subject.get("test")
    votes = {"knn": None, "knn_weighted": TEMPERATURE}
    return {
        name: accuracy.mean(
            knn.correct(*bank, *queries, mesh=subject.mesh, k=options.k, temperature=temperature),
            options.seed,
        )
        for name, temperature in votes.items()
    }


def _knn_check(subject, options):
    subject.check_labels("bank", "test")
    images = len(subject.source("bank"))
    if options.k > images:
        raise UserError(f"--k is {options.k}, but there are {images} images to search: use a smaller one.")


def _few_shot(subject, options):
    x, labels = subject.get("test")
    scores = {}
    for shots in few_shot.SHOTS:
        found = few_shot.episodes(x, labels, shots=shots, seed=options.seed)
        scores[f"{few_shot.WAYS}way_{shots}shot"] = accuracy.mean(found, options.seed)
    for count in few_shot.PER_CLASS:
        found = few_shot.per_class(*subject.get("bank"), x, labels, count=count, seed=options.seed)
        scores[f"{count}_per_class"] = accuracy.mean(found, options.seed)
    return scores


def _few_shot_check(subject, options):
    subject.check_labels("bank", "test")
    few_shot.check_bank(subject.source("bank").labels(), max(few_shot.PER_CLASS))
    few_shot.check_tasks(subject.source("test").labels(), max(few_shot.SHOTS))


def _retrieval(subject, options):
    found = retrieval.recalled(*subject.get("test"), mesh=subject.mesh)
    return {f"recall@{k}": accuracy.mean(right, options.seed) for k, right in found.items()}


def _retrieval_check(subject, options):
    subject.check_labels("test")
    retrieval.check_count(len(subject.source("test")))


def _semi(subject, options):
    queries = subject.get("test")
    scores = {}
    for spec in options.labels:
        labelled = take_subset(subject.source("bank"), spec, options.seed).ids()
        examples = _flat(subject.chosen_on(labelled))
        fitted = linear.fit(*examples, num_classes=subject.num_classes, seed=options.seed)
        scores[f"linear_{spec}"] = accuracy.mean(fitted.correct(*queries), options.seed)
    return scores


def _semi_check(subject, options):
    _learned(subject, options)
    source = subject.source("bank")
    for spec in options.labels:
        try:
            labelled = take_subset(source, spec, options.seed).ids()
        except UserError as error:
            raise UserError(str(error).replace("data.subset", "--labels")) from error
        subject.check_choice(labelled, spec)
        if share := re.match(r"[\d.]+(?= ?%)", spec):
            classes, sizes = np.unique(source.labels(), return_counts=True)
            if sizes.min() * float(share[0]) / 100 < 0.5:
                raise UserError(
                    f"--labels: {spec} of the {sizes.min()} images of class {classes[sizes.argmin()]} rounds "
                    "to none: use a larger share, or a file with the names of the labelled images."
                )


def _transfer(subject, options):
    known = subject.images.transfer

    per_class = known is not None and known.per_class

    def metric(right, labels):
        if not per_class:
            return right.mean()
        return np.mean([right[labels == label].mean() for label in np.unique(labels)])

    learned, chosen_on = subject.chosen_on()
    fitted = logistic.fit(learned, chosen_on, num_classes=subject.num_classes, metric=metric)
    x, labels = check(*subject.get("test"), "test")
    right = correct(fitted.logits(x), labels)
    scores = {
        "transfer": accuracy.mean(right, options.seed),
        "transfer_per_class": accuracy.mean_per_class(right, labels, options.seed),
    }
    if known:  # it has one metric
        return {"transfer": scores["transfer_per_class" if per_class else "transfer"]}
    return scores


def _transfer_check(subject, options):
    _learned(subject, options)
    known, images = subject.images.transfer, subject.images
    if known and known.classes != subject.num_classes:
        raise UserError(
            f"{known.title} has {known.classes} classes, but {images.name} has {subject.num_classes}: name "
            "the folder alone if it is another data set."
        )
    if known and not has_own_test(images.data):
        raise UserError(
            f"{images.name} has no test split of its own, and {known.title} has one that papers score: put "
            "its images into the folders train and test."
        )


def _uniformity(subject, options):
    first, second = (_finite(x) for x in subject.pairs(PAIRS))
    x = _few(subject, COMPARED)
    return {
        "alignment": accuracy.plain(hypersphere.alignment(first, second), len(first)),
        "uniformity": accuracy.plain(hypersphere.uniformity(x), len(x)),
    }


def _rank(subject, options):
    x = _few(subject, COMPARED)
    return {"effective_rank": accuracy.plain(neighbours.effective_rank(x), len(x))}


def _overlap(subject, options):
    own, its = _few(subject, COMPARED), _few(options.teacher, COMPARED)
    return {"overlap": accuracy.mean(neighbours.shared(own, its, neighbours.K), options.seed)}


def _overlap_check(subject, options):
    if options.teacher is None:
        raise UserError("overlap compares with a teacher: name its weights or run with --teacher.")
    _some(subject, options)


def _some(subject, options):
    """There are as many images as the numbers without labels need."""
    images = len(subject.source("test"))
    if images < neighbours.K + 2:
        raise UserError(
            f"{subject.images.name} has {images} images to score: use at least {neighbours.K + 2}."
        )


def _flat(pairs):
    return [x for pair in pairs for x in pair]


def _finite(x):
    return check(x, np.zeros(len(x)), "test")[0]


def _few(subject, count):
    x, _ = subject.get("test")
    return _finite(x[np.linspace(0, len(x) - 1, min(count, len(x))).astype(int)])


def _learned(subject, options):
    subject.check_labels("bank", "val", "test")


PROTOCOLS = {
    "knn": Protocol(
        "kNN accuracy: majority vote, and votes weighed by exp(similarity / 0.07)", _knn, _knn_check
    ),
    "linear": Protocol(
        "a linear probe on features: top-1, mean per class, calibration error (ECE)", _linear, _learned
    ),
    "classifier": Protocol(
        "the network's own classifier: top-1, mean per class, calibration error", _own, _own_check
    ),
    "semi": Protocol("a linear probe with few labels: 1 % and 10 %, or --labels", _semi, _semi_check),
    "few_shot": Protocol(
        "nearest class mean: 5 classes with 1 and 5 images (600 tasks); all classes with 1, 5 and 10",
        _few_shot,
        _few_shot_check,
    ),
    "retrieval": Protocol("recall at 1, 5 and 10 within the test images", _retrieval, _retrieval_check),
    "transfer": Protocol(
        "softmax regression (L-BFGS) by each data set's own metric", _transfer, _transfer_check
    ),
    "uniformity": Protocol("alignment and uniformity, without labels", _uniformity, _some),
    "rank": Protocol("effective rank of the features, without labels", _rank, _some),
    "overlap": Protocol(
        "nearest neighbours shared with those of --teacher, without labels", _overlap, _overlap_check
    ),
}
