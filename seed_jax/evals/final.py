"""The evaluation that is reported: a run's frozen backbone, probed once on the test split."""

import os

import jax

from seed_jax import config as config_lib
from seed_jax import parallel, workdir
from seed_jax.config import Config
from seed_jax.data.pipeline import eval_batches
from seed_jax.data.sources import open_source
from seed_jax.errors import UserError
from seed_jax.evals import linear
from seed_jax.evals.features import Extractor
from seed_jax.evals.knn import knn
from seed_jax.models.network import Network


def evaluate(directory: str | os.PathLike) -> dict[str, float]:
    """`probe` of the newest checkpoint of a run."""
    network, variables, _ = workdir.load_run(directory)
    return probe(network, variables, config_lib.resolve(workdir.read_config(directory)))


def probe(network: Network, variables, config: Config) -> dict[str, float]:
    """kNN and linear accuracy, percent, of frozen features on `data.test`, and the backbone's parameters.

    The kNN searches `data.bank` (or `data.train`) with `evals.k` neighbours; the linear probe is trained on
    the same split's cached features and chooses its learning rate on `data.val`. Nothing is chosen on the
    test split.

    Raises:
      UserError: the data has no labels.
    """
    d, e = config.data, config.evals
    mesh = parallel.make_mesh()
    extract = Extractor(network, mesh, keys=(e.feature,))
    splits = {}
    for name, split in (("bank", d.bank or d.train), ("val", d.val), ("test", d.test)):
        source = open_source(d.source, split, dir=d.dir or None)
        if not source.num_classes:
            raise UserError(f"data.source ({d.source}) has no labels, so there is nothing to probe with.")
        features, labels, _ = extract(variables, eval_batches(source, d.image_size, e.batch_size))
        splits[name] = features[e.feature], labels
    k = min(e.k, len(splits["bank"][1]))
    fitted = linear.fit(*splits["bank"], *splits["val"], num_classes=source.num_classes)
    return {
        "parameters": sum(x.size for x in jax.tree.leaves(variables["params"]["backbone"])),
        "knn": 100 * knn(*splits["bank"], *splits["test"], mesh=mesh, k=(k,))[k],
        "linear": 100 * fitted.accuracy(*splits["test"]),
    }
