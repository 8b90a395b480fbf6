"""DisCo: MoCo v2 with a teacher's embedding as a further target (Gao et al., ECCV 2022, arXiv 2104.09124)."""

import dataclasses
from typing import ClassVar

import jax
import jax.numpy as jnp

from seed_jax.data import rng as rng_lib
from seed_jax.losses import info_nce
from seed_jax.methods import queue
from seed_jax.methods.base import LossOut, Method, base_view, bound, unit
from seed_jax.methods.moco import check_groups, momentum_keys
from seed_jax.models.heads import ProjectionHead
from seed_jax.models.network import Joined


@dataclasses.dataclass(frozen=True)
class DisCo(Method):
    """MoCo's loss between two views, plus the squared distance of student and teacher on each view.

    All embeddings have length 1. Of each image, with query q, key k of the student's moving average and the
    teacher's embeddings t and t' of the two views, and with q' the student's of the second view, the loss is
    InfoNCE(q, k) + weight * (|q - t|^2 + |q' - t'|^2). Only keys enter the queue (Yuting-Gao/DisCo-pytorch,
    DisCo/moco/builder_kq_mse_largeembedding_2048.py and DisCo/main.py).

    That code adds squared distances summed over the images of a GPU to the mean of InfoNCE over the same
    images. So its weight of a distance is the number of images per GPU: 32 for a batch of 256 on 8 GPUs. Ours
    does not depend on the number of devices. That code also leaves the teacher in train mode, so its
    BatchNorms use and update batch statistics; our teacher is frozen in eval mode.

    Attributes:
      temperature: temperature of InfoNCE.
      momentum: momentum of the student's moving average.
      weight: weight of the squared distances; InfoNCE has weight 1. At 1.0 both are means over the batch.
      queue_size: size K of the queue, a multiple of the batch size.
      queue_start: 'empty' masks unfilled slots; 'noise' is the released code's Gaussian start.
      hidden: width of the head's hidden layer; 0 for the width of the pooled feature.
    """

    temperature: float = 0.2
    momentum: float = 0.999
    weight: float = 32.0
    queue_size: int = 65_536
    queue_start: str = "empty"
    hidden: int = 2048

    needs_teacher: ClassVar = True
    smoke: ClassVar = {"queue_size": 64, "hidden": 32}

    def check(self, data, train):
        queue.check_batches(data)
        bound(self, "temperature", above=0)
        bound(self, "momentum", least=0, most=1)
        bound(self, "weight", "hidden", least=0)
        check_groups(data, train)

    def views(self, data):
        return (base_view(data, count=2),)

    def network(self, backbone, given):
        dim = given.teacher["embedding"].shape[-1]
        return Joined(backbone, {"head": ProjectionHead(hidden=self.hidden or None, dim=dim)})

    def init_aux(self, rng, given, variables):
        dim = given.teacher["embedding"].shape[-1]
        keys = queue.init(self.queue_size, given.batch_size, dim, start=self.queue_start, rng=rng)
        return {"ema": jax.tree.map(jnp.copy, variables), "queue": keys}

    def loss(self, nets, params, model_state, aux, batch, clock, rng):
        distances, queries = [], []
        for v in range(2):
            # 1 keys the dropout of `momentum_keys`.
            x, keys = batch.views[0][:, v], rng_lib.fold(batch.keys, 2) if v else batch.keys
            features, model_state = nets.student.apply({"params": params, **model_state}, x, True, keys)
            queries.append(unit(features["embedding"]))
            target = unit(nets.teacher(x, (v,))["embedding"])
            distances.append(jnp.square(queries[v] - target).sum(axis=1))

        past, second = aux["queue"], batch.views[0][:, 1]
        key, ema = momentum_keys(
            nets.student, params, aux["ema"], second, batch.keys, rng, momentum=self.momentum
        )
        contrasted = info_nce(queries[0], key, past.slots, queue.valid(past), temperature=self.temperature)
        distilled = sum(distances)
        losses = contrasted + self.weight * distilled
        aux = {"ema": ema, "queue": queue.enqueue(past, key, losses)}
        metrics = {
            "teacher_cosine": 1 - distances[0] / 2,
            "moco_loss": contrasted,
            "distance": distilled,
        }
        return losses.mean(), LossOut(model_state, aux, metrics)
