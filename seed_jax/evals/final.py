"""The evaluation that is reported: a run's frozen network, probed once on the test split."""

import dataclasses
import os

import jax
import numpy as np

from seed_jax import parallel
from seed_jax.config import Config, check_splits
from seed_jax.data.pipeline import eval_batches
from seed_jax.data.sources import open_source
from seed_jax.errors import UserError
from seed_jax.evals import linear
from seed_jax.evals.features import Extractor
from seed_jax.evals.knn import knn
from seed_jax.evals.online import evenly, feature_names
from seed_jax.models.network import Network
from seed_jax.train import workdir

SPLITS = ("test", "val")  # what can be reported


def evaluate(
    directory: str | os.PathLike, *, best: bool = False, dir: str = "", split: str = "test"
) -> dict[str, float]:
    """`probe` of a run at its newest checkpoint, or the best on the validation split.

    `dir` is where the run's data lies now, if it has moved.

    Raises:
      UserError: the data is not there, or not what the run was trained on.
    """
    run = workdir.load_run(directory, best=best)
    d = dataclasses.replace(run.config.data, dir=dir or run.config.data.dir)
    config = dataclasses.replace(run.config, data=d)
    try:
        train = open_source(d.source, d.train, dir=d.dir or None, subset=d.subset, seed=config.train.seed)
    except UserError as error:
        raise UserError(f"{error} If the data has moved, say where with --dir.") from None
    then, now = run.manifest["data"].get("fingerprint"), train.fingerprint()
    if then not in (None, now):
        raise UserError(
            f"{directory} was trained on other data than {d.dir or d.source} holds (fingerprint {then}, not "
            f"{now}): say with --dir where the images of the run are."
        )
    return probe(run.network, run.variables, config, split)


def probe(network: Network, variables, config: Config, split: str = "test") -> dict[str, float]:
    """Accuracies in percent on `data.test`: kNN and linear probe of frozen features, top-1 of a classifier.

    The kNN searches `data.bank` (or `data.train`), `evals.bank_size` of it, with `evals.k` neighbours; the
    linear probe is trained on the same cached features and chooses its learning rate on `data.val`. Nothing
    is chosen on the test split; with `split='val'` the accuracies are those on `data.val`, the linear probe's
    learning rate too. `parameters` counts those of the backbone.

    Raises:
      UserError: the data has no labels, or its test images are in the bank.
    """
    d, e = config.data, config.evals
    mesh = parallel.make_mesh()
    splits = {}
    reported = {"test": d.test, "val": d.val}[split]
    for name, part in (("bank", d.bank or d.train), ("val", d.val), ("test", reported)):
        subset = d.subset if part == d.train else ""
        source = open_source(d.source, part, dir=d.dir or None, subset=subset, seed=config.train.seed)
        if not source.num_classes:
            raise UserError(f"data.source ({d.source}) has no labels, so there is nothing to probe with.")
        splits[name] = evenly(source, e.bank_size) if name == "bank" else source
    check_splits(d)
    names = feature_names(network, variables, d.image_size, source.num_classes)
    extract = Extractor(network, mesh, keys=tuple(k for k in (e.feature, "logits") if k in names))
    for name, source in splits.items():
        features, labels, _ = extract(variables, eval_batches(source, d.image_size, e.batch_size))
        splits[name] = features[e.feature], labels
        logits = features.get("logits")
    k = min(e.k, len(splits["bank"][1]))
    fitted = linear.fit(*splits["bank"], *splits["val"], num_classes=source.num_classes)
    scores = {
        "parameters": sum(x.size for x in jax.tree.leaves(variables["params"]["backbone"])),
        "knn": 100 * knn(*splits["bank"], *splits["test"], mesh=mesh, k=(k,))[k],
        "linear": 100 * fitted.accuracy(*splits["test"]),
    }
    if logits is not None:
        scores["top1"] = 100 * float(np.mean(logits.argmax(axis=1) == splits["test"][1]))
    return scores
