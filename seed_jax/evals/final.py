"""The evaluation that is reported: a run's frozen backbone, probed once on the test split."""

import os

import jax

from seed_jax import config as config_lib
from seed_jax import parallel, workdir
from seed_jax.data.pipeline import eval_batches
from seed_jax.data.sources import open_source
from seed_jax.errors import UserError
from seed_jax.evals import linear
from seed_jax.evals.features import Extractor
from seed_jax.evals.knn import knn


def evaluate(directory: str | os.PathLike) -> dict[str, float]:
    """kNN and linear accuracy, percent, of the newest checkpoint of a run on its `data.test` split.

    The kNN searches `data.bank` (or `data.train`) with `evals.k` neighbours; the linear probe is trained on
    the same split's cached features and chooses its learning rate on `data.val`. Nothing is chosen on the
    test split.

    Raises:
      UserError: the folder is not the workdir of a run, or the data has no labels.
    """
    config = config_lib.resolve(workdir.read_config(directory))
    network, variables, _ = workdir.load_run(directory)
    d, e = config.data, config.evals
    mesh = parallel.make_mesh()
    extract = Extractor(network, mesh, keys=(e.feature,))
    splits = {}
    for name, split in (("bank", d.bank or d.train), ("val", d.val), ("test", d.test)):
        source = open_source(d.source, split, dir=d.dir or None)
        if not source.num_classes:
            raise UserError(
                f"data.source ({d.source}) has no labels, so there is nothing to evaluate {directory} on."
            )
        features, labels, _ = extract(variables, eval_batches(source, d.image_size, e.batch_size))
        splits[name] = features[e.feature], labels
    k = min(e.k, len(splits["bank"][1]))
    probe = linear.fit(*splits["bank"], *splits["val"], num_classes=source.num_classes)
    return {
        "parameters": sum(x.size for x in jax.tree.leaves(variables["params"]["backbone"])),
        "knn": 100 * knn(*splits["bank"], *splits["test"], mesh=mesh, k=(k,))[k],
        "linear": 100 * probe.accuracy(*splits["test"]),
    }
