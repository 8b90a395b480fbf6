"""MoCo v2: momentum contrast (He et al., arXiv 1911.05722; Chen et al., arXiv 2003.04297)."""

import dataclasses
from typing import ClassVar

import jax
import jax.numpy as jnp
import optax
from jax import lax

from seed_jax.data import rng as rng_lib
from seed_jax.errors import UserError
from seed_jax.losses import info_nce
from seed_jax.methods import queue
from seed_jax.methods.base import LossOut, Method, base_view, bound, unit
from seed_jax.models.heads import ProjectionHead
from seed_jax.models.network import Joined


@dataclasses.dataclass(frozen=True)
class MoCo(Method):
    """Two views of an image: the query must find its key among the keys of past batches.

    The key encoder is an exponential moving average of the query encoder. It sees its batch in shuffled
    order, so that with `train.bn_group` smaller than the batch a query and its key are normalised among
    different images and cannot recognise each other by their batch statistics (facebookresearch/moco,
    moco/builder.py, which shuffles across GPUs).

    Attributes:
      temperature: temperature of InfoNCE (0.2 in v2, 0.07 in v1).
      momentum: momentum of the key encoder's moving average.
      queue_size: size K of the queue, a multiple of the batch size.
      queue_start: 'empty' masks unfilled slots; 'noise' is the released code's Gaussian start.
      dim: width of the embedding.
      hidden: width of the head's hidden layer; 0 for the width of the pooled feature.
    """

    temperature: float = 0.2
    momentum: float = 0.999
    queue_size: int = 65_536
    queue_start: str = "empty"
    dim: int = 128
    hidden: int = 0

    smoke: ClassVar = {"queue_size": 64}

    def check(self, data, train):
        queue.check_batches(data)
        bound(self, "temperature", above=0)
        bound(self, "momentum", least=0, most=1)
        if self.dim <= 0 or self.hidden < 0:
            raise UserError(
                f"method.dim is {self.dim} and method.hidden is {self.hidden}: use a width above 0, and 0 or "
                "more for the hidden layer."
            )
        check_groups(data, train)

    def views(self, data):
        return (base_view(data, count=2),)

    def network(self, backbone, given):
        return Joined(backbone, {"head": ProjectionHead(hidden=self.hidden or None, dim=self.dim)})

    def init_aux(self, rng, given, variables):
        keys = queue.init(self.queue_size, given.batch_size, self.dim, start=self.queue_start, rng=rng)
        return {"ema": jax.tree.map(jnp.copy, variables), "queue": keys}

    def loss(self, nets, params, model_state, aux, batch, clock, rng):
        query_view, key_view = batch.views[0][:, 0], batch.views[0][:, 1]
        features, model_state = nets.student.apply(
            {"params": params, **model_state}, query_view, True, batch.keys
        )
        q = unit(features["embedding"])

        past = aux["queue"]
        k, ema = momentum_keys(
            nets.student, params, aux["ema"], key_view, batch.keys, rng, momentum=self.momentum
        )
        losses = info_nce(q, k, past.slots, queue.valid(past), temperature=self.temperature)
        aux = {"ema": ema, "queue": queue.enqueue(past, k, losses)}
        return losses.mean(), LossOut(model_state, aux, {"positive_cosine": (q * k).sum(axis=1)})


def check_groups(data, train) -> None:
    """Raise `UserError` if the statistics of a batch give a query's key away."""
    if not 0 < train.bn_group < data.batch_size:
        raise UserError(
            f"train.bn_group is {train.bn_group}: MoCo needs groups smaller than the batch, else a query "
            "recognises its key by their batch statistics; "
            f"use --config.train.bn_group={max(1, data.batch_size // 8)}."
        )


def momentum_keys(student, params, ema, view, keys, rng, *, momentum: float):
    """Embeddings of a view by the moving average of a network, which moves first; its batch is shuffled.

    Args:
      student: the network.
      params: its parameters, which the average follows.
      ema: variables of the average.
      view: float `[B, H, W, 3]`.
      keys: of the samples, `[B]`, as the queries have them.
      rng: key of the order.
      momentum: of the average.

    Returns:
      The embeddings, float32 `[B, D]` of length 1, without a gradient, and the new variables of the average.
    """
    average = optax.incremental_update(lax.stop_gradient(params), ema["params"], 1 - momentum)
    order = jax.random.permutation(rng, len(view))
    # Keys of its own: a dropout mask that query and key share would give the pair away.
    keys = rng_lib.fold(keys, 1)[order]
    features, state = student.apply({**ema, "params": average}, view[order], True, keys)
    embeddings = lax.stop_gradient(unit(features["embedding"]))[jnp.argsort(order)]
    return embeddings, {**state, "params": average}
