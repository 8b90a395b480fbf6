"""SEED: self-supervised distillation for visual representation (Fang et al., ICLR 2021, arXiv 2101.04731)."""

import dataclasses
from typing import ClassVar

from seed_jax import queue
from seed_jax.errors import UserError
from seed_jax.losses import seed_loss
from seed_jax.methods.base import Info, LossOut, TeacherNeed, base_view, unit
from seed_jax.models.heads import ProjectionHead
from seed_jax.models.network import Joined


@dataclasses.dataclass(frozen=True)
class Seed:
    """The student imitates the teacher's similarities to a queue of past teacher embeddings.

    One view of an image goes to both networks; only normalised teacher embeddings are queued, after the
    loss has seen the queue (jacobswan1/SEED, seed/builder.py).

    Attributes:
      tau_student: temperature of the student's distribution (tau^S, eq. 4).
      tau_teacher: temperature of the teacher's (tau^T, eq. 3); the released code's default is 1e-4.
      queue_size: K, a multiple of the batch size.
      queue_start: 'empty' masks unfilled slots; 'noise' is the released code's Gaussian start.
      hidden: width of the student head's hidden layer; 0 for the width of the pooled feature, as in the
        paper.
    """

    tau_student: float = 0.2
    tau_teacher: float = 0.01
    queue_size: int = 65_536
    queue_start: str = "empty"
    hidden: int = 0

    teacher: ClassVar[TeacherNeed] = TeacherNeed.EMBEDDING

    def check(self, data, train):
        if min(self.tau_student, self.tau_teacher) <= 0:
            raise UserError("method.tau_student and method.tau_teacher must be above 0.")

    def views(self, data):
        return (base_view(data),)

    def network(self, backbone, num_classes, teacher_dim):
        return Joined(backbone, {"head": ProjectionHead(hidden=self.hidden or None, dim=teacher_dim)})

    def init_aux(self, rng, info: Info):
        return queue.init(self.queue_size, info.batch_size, info.teacher_dim, start=self.queue_start, rng=rng)

    def loss(self, nets, params, model_state, aux, batch, rng):
        x = batch.views[0][:, 0]
        z_t = unit(nets.teacher(x)["embedding"])
        features, model_state = nets.student.apply({"params": params, **model_state}, x, True, batch.keys)
        z_s = unit(features["embedding"])
        losses = seed_loss(
            z_s, z_t, aux.slots, queue.valid(aux), tau_student=self.tau_student, tau_teacher=self.tau_teacher
        )
        metrics = {"loss": losses, "teacher_cosine": (z_s * z_t).sum(axis=1)}
        return losses.mean(), LossOut(model_state, queue.enqueue(aux, z_t), metrics)

    def frozen(self, path):
        return False
