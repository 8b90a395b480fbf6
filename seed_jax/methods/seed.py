"""SEED: self-supervised distillation for visual representation (Fang et al., ICLR 2021, arXiv 2101.04731)."""

import dataclasses
from typing import ClassVar

import jax
import jax.numpy as jnp

from seed_jax import queue
from seed_jax import rng as rng_lib
from seed_jax.data.pipeline import ViewSpec
from seed_jax.errors import UserError
from seed_jax.losses import seed_loss
from seed_jax.methods.base import Info, LossOut, TeacherNeed, base_view, unit
from seed_jax.models.heads import ProjectionHead
from seed_jax.models.network import Joined, for_views


@dataclasses.dataclass(frozen=True)
class Seed:
    """The student imitates the teacher's similarities to a queue of past teacher embeddings.

    One view of an image goes to both networks; only normalised teacher embeddings are queued, after the
    loss has seen the queue (jacobswan1/SEED, seed/builder.py).

    With `patches` each image also gives that many small views, which go through both networks by themselves
    and are compared over a queue of their own, of the teacher's embeddings of each image's first patch. The
    two losses, each a mean over its rows, add up (seed/small_patch_builder.py).

    Attributes:
      tau_student: temperature of the student's distribution (tau^S, eq. 4).
      tau_teacher: temperature of the teacher's (tau^T, eq. 3); the released code's default is 1e-4.
      queue_size: K, a multiple of the batch size.
      queue_start: 'empty' masks unfilled slots; 'noise' is the released code's Gaussian start.
      hidden: width of the student head's hidden layer; 0 for the width of the pooled feature, as in the
        paper.
      patches: small views of an image; 0 for none, 6 in the released code.
      patch_size: their side, pixels.
      patch_scale: range of their share of the image area.
    """

    tau_student: float = 0.2
    tau_teacher: float = 0.01
    queue_size: int = 65_536
    queue_start: str = "empty"
    hidden: int = 0
    patches: int = 0
    patch_size: int = 96
    patch_scale: tuple[float, float] = (0.05, 0.14)

    teacher: ClassVar[TeacherNeed] = TeacherNeed.EMBEDDING
    needs_labels: ClassVar[bool] = False

    def check(self, data, train):
        if min(self.tau_student, self.tau_teacher) <= 0:
            raise UserError("method.tau_student and method.tau_teacher must be above 0.")

        if self.patches < 0 or self.patch_size <= 0:
            raise UserError("method.patches must not be below 0, and method.patch_size must be above 0.")
        scale = self.patch_scale
        if len(scale) != 2 or not 0 < scale[0] <= scale[1] <= 1:
            raise UserError("method.patch_scale must be a range within (0, 1], such as (0.05, 0.14).")

    def views(self, data):
        if not self.patches:
            return (base_view(data),)
        patches = ViewSpec(
            self.patches, self.patch_size, self.patch_scale, flip=data.flip, photometric="swav_small"
        )
        return base_view(data), patches

    def network(self, backbone, num_classes, teacher_dim):
        return Joined(backbone, {"head": ProjectionHead(hidden=self.hidden or None, dim=teacher_dim)})

    def init_aux(self, rng, info: Info):
        def empty(rng):
            return queue.init(
                self.queue_size, info.batch_size, info.teacher_dim, start=self.queue_start, rng=rng
            )

        if not self.patches:
            return empty(rng)
        return {"queue": empty(rng), "small_queue": empty(jax.random.fold_in(rng, 1))}

    def loss(self, nets, params, model_state, aux, batch, rng):
        def compare(student, model_state, past, x, keys):
            """Losses and embeddings of the rows of `x`, and the student's new model state."""
            z_t = unit(nets.teacher(x)["embedding"])
            features, model_state = student.apply({"params": params, **model_state}, x, True, keys)
            z_s = unit(features["embedding"])
            losses = seed_loss(
                z_s,
                z_t,
                past.slots,
                queue.valid(past),
                tau_student=self.tau_student,
                tau_teacher=self.tau_teacher,
            )
            return losses, z_s, z_t, model_state

        x = batch.views[0][:, 0]
        past = aux["queue"] if self.patches else aux
        losses, z_s, z_t, model_state = compare(nets.student, model_state, past, x, batch.keys)
        past = queue.enqueue(past, z_t)
        metrics = {"loss": losses, "teacher_cosine": (z_s * z_t).sum(axis=1)}
        if not self.patches:
            return losses.mean(), LossOut(model_state, past, metrics)

        # One image's patches lie together, so that rows stay on the device of their image; a patch's dropout
        # is keyed by its view number, as its pixels are.
        x = batch.views[1]
        keys = jnp.stack([rng_lib.fold(batch.keys, 1 + v) for v in range(self.patches)], axis=1)
        small, _, z_t, model_state = compare(
            for_views(nets.student, self.patches),
            model_state,
            aux["small_queue"],
            x.reshape(-1, *x.shape[2:]),
            keys.reshape(-1),
        )
        first = z_t.reshape(*x.shape[:2], -1)[:, 0]
        aux = {"queue": past, "small_queue": queue.enqueue(aux["small_queue"], first)}
        metrics |= {"loss": losses + small.reshape(x.shape[:2]).mean(axis=1), "patch_loss": small}
        return losses.mean() + small.mean(), LossOut(model_state, aux, metrics)

    def frozen(self, path):
        return False
