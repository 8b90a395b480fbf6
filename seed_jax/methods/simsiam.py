"""SimSiam: two views, a predictor and a stopped gradient (Chen and He, CVPR 2021, arXiv 2011.10566)."""

import dataclasses
from typing import ClassVar

import jax.numpy as jnp
from jax import lax

from seed_jax.data import rng as rng_lib
from seed_jax.methods.base import LossOut, Method, base_view, bound, unit, without
from seed_jax.models.heads import ProjectionHead
from seed_jax.models.network import Joined


@dataclasses.dataclass(frozen=True)
class SimSiam(Method):
    """Minus the cosine of the prediction of one view and the embedding of the other, both ways (algorithm 1).

    No gradient flows through the embedding that is predicted. There are no negatives and no moving average;
    the metric `embedding_std` is 1 / sqrt(dim) for embeddings that fill the sphere and 0 for collapsed ones.
    Every forward has one view, and statistics of its own; use it with `train.bn_group=0`, as the released
    code does (facebookresearch/simsiam). What is probed and exported is the network without the predictor.

    The last norm of the head has no scale and shift: they stay 1 and 0. We differ in two points: the rate of
    the predictor follows the schedule, as without `--fix-pred-lr` there, and its first Linear has a bias,
    which the norm after it removes.

    Attributes:
      dim: width of the embedding.
      hidden: width of the head's hidden layers; 0 for the width of the pooled feature.
      bottleneck: width of the predictor's hidden layer.
    """

    dim: int = 2048
    hidden: int = 0
    bottleneck: int = 512

    smoke: ClassVar = {"dim": 32, "bottleneck": 8}

    def check(self, data, train):
        bound(self, "dim", "bottleneck", least=1)
        bound(self, "hidden", least=0)

    def views(self, data):
        return (base_view(data, count=2),)

    def network(self, backbone, given):
        same = {"batch_norm": True, "bn_group": given.bn_group, "dtype": given.dtype}
        head = ProjectionHead(self.hidden or None, self.dim, 3, bias=False, last_norm=True, **same)
        predictor = ProjectionHead(self.bottleneck, self.dim, of="embedding", out="prediction", **same)
        return Joined(backbone, {"head": head, "predictor": predictor})

    def loss(self, nets, params, model_state, aux, batch, clock, rng):
        predictions, embeddings = [], []
        for v in range(2):
            x, keys = batch.views[0][:, v], rng_lib.fold(batch.keys, v)
            features, model_state = nets.student.apply({"params": params, **model_state}, x, True, keys)
            predictions.append(unit(features["prediction"]))
            embeddings.append(lax.stop_gradient(unit(features["embedding"])))
        losses = -sum((p * z).sum(axis=1) for p, z in zip(predictions, reversed(embeddings), strict=True)) / 2
        spread = jnp.stack(embeddings).std(axis=1).mean()
        return losses.mean(), LossOut(model_state, aux, {"embedding_std": spread})

    def served(self, variables, aux):
        return without(variables, ("predictor",))

    def frozen(self, path):
        return path[:2] == ("head", "bn3")
