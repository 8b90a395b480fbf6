"""CompRess: self-supervised learning by compressing representations (NeurIPS 2020, arXiv 2010.14713)."""

import dataclasses
from typing import ClassVar

import jax
import jax.numpy as jnp
import optax
from jax import lax

from seed_jax.errors import UserError
from seed_jax.losses import compress_loss
from seed_jax.methods import queue
from seed_jax.methods.base import LossOut, Method, bound, unit, without
from seed_jax.models.heads import ProjectionHead
from seed_jax.models.network import Joined, without_dropout


@dataclasses.dataclass(frozen=True)
class CompRess(Method):
    """The student imitates the teacher's similarities between an image and past images, the anchors.

    It differs from SEED in the features, which are `pooled` ones without heads; in the anchors, to which the
    image itself does not belong; and in the temperature, which is the same for both networks. With two queues
    (2q), the student compares with its own features of the anchors, those of a moving average of it, so its
    feature may have any width. With one queue (1q), it compares with the teacher's, by a Linear to their
    width, which is dropped after training.

    Both networks and the average see the same view. Events come in the order of UMBCvision/CompRess,
    train_student.py and train_student_one_queue.py: the loss uses the queues, then the image enters them; the
    average follows the update. `momentum=0` is train_student_without_momentum.py. We differ in the start: the
    released queues hold uniform noise, while ours are empty, or hold noise of length 1.

    Attributes:
      queues: number of queues, 2 or 1.
      temperature: temperature of both distributions.
      momentum: momentum of the student's moving average, with two queues.
      queue_size: number of anchors, a multiple of the batch size.
      queue_start: 'empty' masks unfilled slots; 'noise' is Gaussian noise.
    """

    queues: int = 2
    temperature: float = 0.04
    momentum: float = 0.999
    queue_size: int = 128_000
    queue_start: str = "empty"

    needs_teacher: ClassVar = True
    smoke: ClassVar = {"queue_size": 64}

    def check(self, data, train):
        queue.check_batches(data)
        if self.queues not in (1, 2):
            raise UserError(f"method.queues is {self.queues}: use 1 or 2.")
        bound(self, "temperature", above=0)
        bound(self, "momentum", least=0, most=1)

    def network(self, backbone, given):
        if self.queues == 2:
            return Joined(backbone, {})
        dim = given.teacher["pooled"].shape[-1]
        predictor = ProjectionHead(dim=dim, layers=1, out="prediction", dtype=given.dtype)
        return Joined(backbone, {"predictor": predictor})

    def init_aux(self, rng, given, variables):
        widths = [given.teacher["pooled"].shape[-1]]
        if self.queues == 2:
            widths.append(given.student()["pooled"].shape[-1])
        keys = jax.random.split(rng, len(widths))
        halves = [
            queue.init(self.queue_size, given.batch_size, width, start=self.queue_start, rng=key)
            for width, key in zip(widths, keys, strict=True)
        ]
        anchors = halves[0].replace(slots=jnp.concatenate([half.slots for half in halves], axis=2))
        ema = {"ema": jax.tree.map(jnp.copy, variables)} if self.queues == 2 else {}
        return ema | {"queue": anchors}

    def loss(self, nets, params, model_state, aux, batch, clock, rng):
        x, past = batch.views[0][:, 0], aux["queue"]
        teacher = unit(nets.teacher(x, (0,))["pooled"])
        features, model_state = nets.student.apply({"params": params, **model_state}, x, True, batch.keys)
        student = unit(features["pooled" if self.queues == 2 else "prediction"])
        losses = compress_loss(student, teacher, past.slots, queue.valid(past), temperature=self.temperature)
        if self.queues == 1:
            metrics = {"teacher_cosine": (student * teacher).sum(axis=1)}
            return losses.mean(), LossOut(
                model_state, {"queue": queue.enqueue(past, teacher, losses)}, metrics
            )

        # The released average moves after the update; before the next forward it is the same.
        average = optax.incremental_update(lax.stop_gradient(params), aux["ema"]["params"], 1 - self.momentum)
        ema = {**aux["ema"], "params": average}
        features, ema_state = without_dropout(nets.student).apply(ema, x, True, batch.keys)
        key = lax.stop_gradient(unit(features["pooled"]))
        anchors = queue.enqueue(past, jnp.concatenate([teacher, key], axis=1), losses)
        metrics = {"key_cosine": (student * key).sum(axis=1)}
        aux = {"ema": {"params": average, **ema_state}, "queue": anchors}
        return losses.mean(), LossOut(model_state, aux, metrics)

    def served(self, variables, aux):
        return without(variables, ("predictor",))
