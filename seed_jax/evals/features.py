"""Extract the features of a whole split with a frozen network, each example exactly once."""

from collections.abc import Collection, Iterable, Mapping

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental import multihost_utils
from tqdm import tqdm

from seed_jax import parallel
from seed_jax.data.pipeline import local_rows
from seed_jax.errors import UserError


class Extractor:
    """Runs one network in eval mode on batches that are sharded over the mesh.

    Create one per network and keep it: its jitted forward is compiled once per batch shape.

    Args:
      network: has `apply(variables, x, train=False) -> (features, model_state)`, with `x` float32
        `[B, H, W, 3]` in [0, 1].
      mesh: from `parallel.make_mesh`.
      keys: the entries of the features to compute.
    """

    def __init__(self, network, mesh: jax.sharding.Mesh, keys: tuple[str, ...] = ("pooled",)):
        self.mesh = mesh
        self.keys = tuple(keys)

        def forward(variables, images):
            x = images / jnp.float32(255) if images.dtype == jnp.uint8 else images
            features, _ = network.apply(variables, x, train=False)
            missing = [key for key in self.keys if key not in features]
            if missing:
                raise UserError(
                    f"The network has no feature {missing[0]!r}: use one of {', '.join(sorted(features))}."
                )
            return {key: features[key].astype(jnp.float32) for key in self.keys}

        self._forward = jax.jit(forward, out_shardings=parallel.batch_sharding(mesh))

    def __call__(
        self,
        variables: Mapping,
        batches: Iterable[Mapping[str, np.ndarray]],
        keys: Collection[str] | None = None,
    ) -> tuple[dict[str, np.ndarray], np.ndarray, np.ndarray]:
        """Features, labels and ids of the examples whose `mask` is true.

        With several processes, each process passes its own rows, in equally many batches of one size. Each
        process gets the rows of all processes, in the order of the processes.

        Args:
          variables: of the network; host arrays, or arrays on the mesh, which stay divided as they are.
          batches: dicts of `image`, uint8 `[B, H, W, 3]` or float32 as the network takes it, `label` int
            `[B]`, `id` int `[B, ...]` and `mask` bool `[B]`.
          keys: the entries to return, of those in the constructor; None returns all of them.

        Returns:
          Features, labels and ids in batch order: a dict of float32 `[N, ...]`, int `[N]`, int `[N, ...]`.

        Raises:
          UserError: there are no batches, or the network lacks one of the constructor's `keys`.
        """
        variables = jax.device_put(variables, jax.tree.map(self._place, variables))
        keys = self.keys if keys is None else keys
        rows, pending = [], None
        for batch in batches:
            running = self._dispatch(variables, batch)
            if pending is not None:
                rows.append(_fetch(*pending, keys))
            pending = running
        if pending is None:
            raise UserError("The split has no images, so there is nothing to evaluate: choose another split.")
        rows.append(_fetch(*pending, keys))
        table = jax.tree.map(lambda *batches: _all_processes(np.concatenate(batches)), *rows)
        del rows  # else three copies of the features would be in memory at once
        table = jax.tree.map(lambda column: column[table["mask"]], table)
        return table["features"], table["label"], table["id"]

    def whole(
        self,
        variables: Mapping,
        batches: Iterable[Mapping],
        images: int,
        batch_size: int,
        title: str,
        keys: Collection[str] | None = None,
    ) -> tuple[dict[str, np.ndarray], np.ndarray, np.ndarray, np.ndarray]:
        """Extract a whole source in its order, with a progress bar called `title`.

        Args:
          variables: of the network.
          batches: of this process, as `pipeline.eval_batches` yields them, with `id` uint32 `[B, 2]`.
          images: length of the source.
          batch_size: over all processes.
          keys: as for calling it.

        Returns:
          As calling it, and int `[N]`: the place of each row in the source. Rows that are masked out are
          left out.
        """
        shown = None if jax.process_index() == 0 else True
        bar = tqdm(batches, title, -(-images // batch_size), unit="batch", disable=shown)
        features, labels, ids = self(variables, _numbered(bar, batch_size), keys)
        order = np.argsort(ids[:, 0])
        features = {name: rows[order] for name, rows in features.items()}
        return features, labels[order], ids[order, 1:].astype(np.uint32), ids[order, 0]

    def _place(self, x):
        everywhere = parallel.replicated(self.mesh)
        there = isinstance(x, jax.Array) and x.sharding.device_set == everywhere.device_set
        return x.sharding if there else everywhere

    def _dispatch(self, variables, batch):
        # The devices may not divide the batch; `_fetch` removes the added rows.
        size = len(batch["mask"])
        padding = -size % self.mesh.local_mesh.size
        image = np.pad(batch["image"], ((0, padding), (0, 0), (0, 0), (0, 0)))
        return self._forward(variables, parallel.to_devices(self.mesh, image)), batch


def _numbered(batches, batch_size):
    """The batches of this process with each row's place in the source put before its id, int64 `[B, 3]`.

    The rows of several processes are gathered process by process; the places restore their order.
    """
    rows = local_rows(batch_size)
    for n, batch in enumerate(batches):
        places = np.arange(n * batch_size, (n + 1) * batch_size)[rows]
        yield {**batch, "id": np.column_stack([places, batch["id"]]).astype(np.int64)}


def _fetch(features, batch, keys) -> dict:
    """This process's rows of a batch as host arrays, with the entries `keys` of the features."""
    size = len(batch["mask"])
    columns = {name: np.asarray(batch[name]) for name in ("label", "id", "mask")}
    return {"features": {key: _local_rows(features[key])[:size] for key in keys}, **columns}


def _local_rows(x: jax.Array) -> np.ndarray:
    shards = sorted(x.addressable_shards, key=lambda shard: shard.index[0].start or 0)
    return np.concatenate([np.asarray(shard.data) for shard in shards])


def _all_processes(x: np.ndarray) -> np.ndarray:
    """The rows of all processes.

    The arrays travel as bytes, because JAX would truncate 64-bit integers to 32 bits on a device.
    """
    if jax.process_count() == 1:
        return x
    raw = np.ascontiguousarray(x).view(np.uint8).reshape(len(x), -1)
    gathered = np.ascontiguousarray(multihost_utils.process_allgather(raw))
    return gathered.reshape(-1).view(x.dtype).reshape(-1, *x.shape[1:])


def check(features: np.ndarray, labels: np.ndarray, name: str) -> tuple[np.ndarray, np.ndarray]:
    """Convert `features` to float32 `[N, D]` and `labels` to int32 `[N]`, and check them.

    >>> features, labels = check([[1, 2], [3, 4]], [0, 1], "bank")
    >>> features.dtype, features.shape, labels.dtype
    (dtype('float32'), (2, 2), dtype('int32'))
    >>> check([[1, 2], [3, 4]], [0, -1], "bank")
    Traceback (most recent call last):
        ...
    seed_jax.errors.UserError: The bank set has examples without a label: evaluate on a labelled split.

    Args:
      name: what messages call these examples, e.g. 'bank'.

    Raises:
      UserError: there are no examples, a label is missing (below 0), or a feature is not finite.
      ValueError: the shapes are not `[N, D]` and `[N]`.
    """
    features, labels = np.asarray(features, np.float32), np.asarray(labels, np.int32)
    if features.ndim != 2 or labels.shape != features.shape[:1]:
        raise ValueError(
            f"{name}: features {features.shape} and labels {labels.shape} are not [N, D] and [N]."
        )
    if not len(features):
        raise UserError(f"The {name} set is empty, so there is nothing to evaluate: choose another split.")
    if labels.min() < 0:
        raise UserError(f"The {name} set has examples without a label: evaluate on a labelled split.")
    if not np.isfinite(features).all():
        raise UserError(
            f"The features of the {name} set are not finite because the network has diverged: train it again "
            "with a lower learning rate."
        )
    return features, labels


def unit(x: np.ndarray) -> np.ndarray:
    """Rows `[N, D]` scaled to length 1, float64; a row of 0 stays 0."""
    x = np.asarray(x, np.float64)
    return x / np.maximum(np.linalg.norm(x, axis=1, keepdims=True), 1e-12)
