"""SEED + MoCo v2, a strategy of SEED's table 4 (arXiv 2101.04731): distillation and contrast."""

import dataclasses
from typing import ClassVar

import jax
import jax.numpy as jnp

from seed_jax.losses import info_nce, seed_loss
from seed_jax.methods import queue
from seed_jax.methods.base import LossOut, Method, base_view, bound, unit
from seed_jax.methods.moco import check_groups, momentum_keys
from seed_jax.models.heads import ProjectionHead
from seed_jax.models.network import Joined


@dataclasses.dataclass(frozen=True)
class SeedMoCo(Method):
    """SEED's loss on one view plus MoCo's between that view and another one.

    Teacher and student see the first view. The student's moving average sees the second one and fills a queue
    of its own. The released code has no such strategy, so its form is ours: one embedding serves both losses,
    and they are added with `weight`.

    Attributes:
      tau_student: temperature of the student's distribution in SEED's loss.
      tau_teacher: temperature of the teacher's distribution in SEED's loss.
      temperature: temperature of InfoNCE.
      momentum: momentum of the student's moving average.
      weight: weight of InfoNCE; SEED's loss has weight 1.
      queue_size: entries of each queue, a multiple of the batch size.
      queue_start: 'empty' masks unfilled slots; 'noise' is the released codes' Gaussian start.
      hidden: width of the head's hidden layer; 0 for the width of the pooled feature.
    """

    tau_student: float = 0.2
    tau_teacher: float = 0.01
    temperature: float = 0.2
    momentum: float = 0.999
    weight: float = 1.0
    queue_size: int = 65_536
    queue_start: str = "empty"
    hidden: int = 0

    needs_teacher: ClassVar = True
    smoke: ClassVar = {"queue_size": 64}

    def check(self, data, train):
        queue.check_batches(data)
        bound(self, "tau_student", "tau_teacher", "temperature", above=0)
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
        queues = {
            name: queue.init(self.queue_size, given.batch_size, dim, start=self.queue_start, rng=key)
            for name, key in zip(("queue", "keys"), jax.random.split(rng), strict=True)
        }
        return {"ema": jax.tree.map(jnp.copy, variables), **queues}

    def loss(self, nets, params, model_state, aux, batch, clock, rng):
        x, other = batch.views[0][:, 0], batch.views[0][:, 1]
        z_t = unit(nets.teacher(x, (0,))["embedding"])
        features, model_state = nets.student.apply({"params": params, **model_state}, x, True, batch.keys)
        z_s = unit(features["embedding"])
        past, past_keys = aux["queue"], aux["keys"]
        taus = {"tau_student": self.tau_student, "tau_teacher": self.tau_teacher}
        distilled = seed_loss(z_s, z_t, past.slots, queue.valid(past), **taus)

        key, ema = momentum_keys(
            nets.student, params, aux["ema"], other, batch.keys, rng, momentum=self.momentum
        )
        negatives = past_keys.slots, queue.valid(past_keys)
        contrasted = info_nce(z_s, key, *negatives, temperature=self.temperature)
        losses = distilled + self.weight * contrasted

        aux = {
            "ema": ema,
            "queue": queue.enqueue(past, z_t, losses),
            "keys": queue.enqueue(past_keys, key, losses),
        }
        metrics = {"teacher_cosine": (z_s * z_t).sum(axis=1), "seed_loss": distilled, "moco_loss": contrasted}
        return losses.mean(), LossOut(model_state, aux, metrics)
