"""A network of two convolutions and configs around it, so that the trunk's tests compile in seconds.

Also a config file: `main.py --config=tests/tiny.py`, with variants `seed`, `patches` (SEED with six small
views), `moco`, `dino` and `swav` (two local views, prototypes that wait for two steps), `simclr`, `mocov3`,
`simsiam`, `simreg`, `compress`, `seed_moco`, `disco`, `online_clustering`, `kmeans`, `bingo` and
`supervised`.
"""

from typing import Any

import flax.linen as nn
import jax.numpy as jnp

from seed_jax import config, models
from seed_jax.methods import METHODS
from seed_jax.models import layers


class Tiny(nn.Module):
    """Two convolutions with batch norm, pooling, dropout: everything that a network can carry."""

    features: int = 8
    dropout: float = 0.1
    bn_group: int | None = None
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x, train: bool, keys=None):
        for i in (1, 2):
            x = layers.Conv(self.features, 3, 2, dtype=self.dtype, name=f"conv{i}")(x)
            x = nn.relu(layers.BatchNorm(self.bn_group, dtype=self.dtype, name=f"bn{i}")(x, train))
        x = layers.global_average(x)
        return {"pooled": layers.Dropout(self.dropout, name="dropout")(x, train, keys)}


class Staged(Tiny):
    """`Tiny` of so many convolutions that also returns what they compute, and logits if it has classes."""

    stages: int = 2
    num_classes: int | None = None

    @nn.compact
    def __call__(self, x, train, keys=None):
        features = {}
        for i in range(1, self.stages + 1):
            x = layers.Conv(self.features, 3, 2, dtype=self.dtype, name=f"conv{i}")(x)
            x = nn.relu(layers.BatchNorm(self.bn_group, dtype=self.dtype, name=f"bn{i}")(x, train))
            features[f"stage{i}"] = x
        features["pooled"] = layers.global_average(x)
        if self.num_classes is not None:
            linear = layers.torch_linear(self.num_classes, self.features, "fc")
            features["logits"] = linear(features["pooled"])
        return features


def get_config(variant: str = "seed"):
    """Six steps at batch 16, a checkpoint each third step, a line of metrics each step, no probe."""
    models.MODELS["tiny"] = Tiny
    method = "seed" if variant == "patches" else variant
    c = config.default(method)
    c.data.source, c.data.batch_size, c.data.image_size = "digits", 16, 16
    c.data.photometric, c.data.flip = "digits", 0.0
    c.student.model = c.teacher.model = "tiny"
    if METHODS[method].needs_teacher:
        c.teacher.weights, c.teacher.dim = "random", 8
    if variant == "patches":
        c.method.patches, c.method.patch_size, c.method.patch_scale = 6, 16, (0.3, 1.0)
    if method == "dino":
        c.method.update(prototypes=16, hidden=8, bottleneck=4, local_views=2, local_size=8)
        c.method.photometric_second = c.method.photometric_local = "digits"
        c.method.freeze_epochs = 2 / 78
        c.optim.clip_norm = 3.0  # the fresh head's weights are small, and its gradient therefore large
    if method in ("simclr", "swav", "mocov3", "simsiam", "simreg"):
        c.optim.clip_norm = 1.0  # deep heads with norms amplify what 1 and 8 devices round differently
    if method == "simclr":
        c.method.update(dim=4, layers=2, temperature=0.5)
    if method == "swav":
        c.method.update(prototypes=16, hidden=8, dim=4, local_views=2, local_size=8)
        c.method.update(queue_size=32, queue_from=0, freeze_epochs=2 / 78)
    if method == "mocov3":
        c.method.update(dim=4, hidden=8, photometric_second="digits")
    if method == "simsiam":
        c.method.update(dim=8, bottleneck=4)
    if method == "online_clustering":
        c.method.update(prototypes=16, queue_size=32)
    if method == "kmeans":
        c.method.clusters = 12
    if method == "bingo":
        c.method.update(hidden=8, neighbours=3, intra_epochs=2 / 78)
    if method in ("seed", "moco", "compress", "seed_moco", "disco", "bingo"):
        c.method.queue_size = 64
    if method == "disco":
        c.method.hidden, c.method.weight = 8, 1.0
    c.optim.lr, c.optim.lr_batch = 0.1, 0
    c.train.steps, c.train.checkpoint_epochs, c.train.bn_group = 6, 3 / 78, 8
    c.evals.names = ("top1",)
    c.log.every_steps, c.log.tensorboard = 1, False
    return c
