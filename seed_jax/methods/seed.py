"""SEED: self-supervised distillation for visual representation (Fang et al., ICLR 2021, arXiv 2101.04731)."""

import dataclasses
from typing import ClassVar

import jax
import jax.numpy as jnp

from seed_jax.data import rng as rng_lib
from seed_jax.data.views import ViewSpec
from seed_jax.errors import UserError, unknown
from seed_jax.losses import nce_loss, seed_loss
from seed_jax.methods import queue
from seed_jax.methods.base import LossOut, Method, base_view, unit
from seed_jax.models.heads import ProjectionHead
from seed_jax.models.network import Joined, for_views

STRATEGIES = ("seed", "binary")


@dataclasses.dataclass(frozen=True)
class Seed(Method):
    """The student imitates the teacher's similarities to a queue of past teacher embeddings.

    Both networks see the same view of an image. Only normalised teacher embeddings enter the queue, after
    the loss has used it (jacobswan1/SEED, seed/builder.py).

    With `patches`, small views are cut from each image too. Both networks embed the small views in a separate
    forward, and the loss compares them over a second queue, which stores the teacher's embedding of each
    image's first patch. The two losses, each a mean over its rows, add up (seed/small_patch_builder.py).

    The strategy 'binary' is the binary contrastive one of table 4. The released code has no other strategy of
    that table, so its form is ours: `losses.nce_loss` at the temperature `tau_student`. Further ones are the
    methods `simreg` (l2), `seed_moco`, `online_clustering` and `kmeans`.

    Attributes:
      strategy: 'seed', the paper's method, or 'binary', the binary contrastive loss of its table 4.
      tau_student: temperature of the student's distribution (tau^S, eq. 4).
      tau_teacher: temperature of the teacher's distribution (tau^T, eq. 3); 1e-4 is the released default.
      queue_size: size K of the queue, a multiple of the batch size.
      queue_start: 'empty' masks unfilled slots; 'noise' is the released code's Gaussian start.
      hidden: width of the student head's hidden layer; 0 for the width of the pooled feature, as in the
        paper.
      patches: small views per image; 0 for none, 6 in the released code.
      patch_size: side of a small view, pixels.
      patch_scale: range of a small view's share of the image area.
    """

    strategy: str = "seed"
    tau_student: float = 0.2
    tau_teacher: float = 0.01
    queue_size: int = 65_536
    queue_start: str = "empty"
    hidden: int = 0
    patches: int = 0
    patch_size: int = 96
    patch_scale: tuple[float, float] = (0.05, 0.14)

    needs_teacher: ClassVar = True
    smoke: ClassVar = {"queue_size": 64, "patches": 2, "patch_size": 16}

    def check(self, data, train):
        queue.check_batches(data)
        if self.strategy not in STRATEGIES:
            raise unknown("method.strategy", self.strategy, STRATEGIES)
        if min(self.tau_student, self.tau_teacher) <= 0:
            raise UserError(
                f"method.tau_student is {self.tau_student} and method.tau_teacher is {self.tau_teacher}: "
                "use values above 0."
            )
        if self.hidden < 0:
            raise UserError(f"method.hidden is {self.hidden}: use a width above 0, or 0 for the default.")
        if self.patches < 0 or self.patch_size <= 0:
            raise UserError(
                f"method.patches is {self.patches} and method.patch_size is {self.patch_size}: use 0 or "
                "more patches and a size above 0."
            )
        scale = self.patch_scale
        if len(scale) != 2 or not 0 < scale[0] <= scale[1] <= 1:
            raise UserError(
                f"method.patch_scale is {scale}: use a range within (0, 1], such as (0.05, 0.14)."
            )

    def views(self, data):
        patches = ViewSpec(
            self.patches, self.patch_size, self.patch_scale, flip=data.flip, photometric="swav_small"
        )
        return (base_view(data), patches) if self.patches else (base_view(data),)

    def network(self, backbone, given):
        dim = given.teacher["embedding"].shape[-1]
        return Joined(backbone, {"head": ProjectionHead(hidden=self.hidden or None, dim=dim)})

    def init_aux(self, rng, given, variables):
        dim = given.teacher["embedding"].shape[-1]
        keys = {"queue": rng, "small_queue": jax.random.fold_in(rng, 1)}
        return {
            name: queue.init(self.queue_size, given.batch_size, dim, start=self.queue_start, rng=keys[name])
            for name in (keys if self.patches else ["queue"])
        }

    def loss(self, nets, params, model_state, aux, batch, clock, rng):
        def compare(student, model_state, past, x, views, keys):
            z_t = unit(nets.teacher(x, views)["embedding"])
            features, model_state = student.apply({"params": params, **model_state}, x, True, keys)
            z_s = unit(features["embedding"])
            compared = z_s, z_t, past.slots, queue.valid(past)
            if self.strategy == "binary":
                losses = nce_loss(*compared, temperature=self.tau_student)
            else:
                losses = seed_loss(*compared, tau_student=self.tau_student, tau_teacher=self.tau_teacher)
            return losses, z_s, z_t, model_state

        x = batch.views[0][:, 0]
        losses, z_s, z_t, model_state = compare(nets.student, model_state, aux["queue"], x, (0,), batch.keys)
        metrics = {"teacher_cosine": (z_s * z_t).sum(axis=1)}
        queues = {"queue": queue.enqueue(aux["queue"], z_t, losses)}
        if not self.patches:
            return losses.mean(), LossOut(model_state, queues, metrics)

        # The patches of an image are adjacent rows, so they stay on the image's device. A patch's dropout is
        # keyed by the index of its view, as its pixels are.
        x, numbers = batch.views[1], range(1, 1 + self.patches)
        keys = jnp.stack([rng_lib.fold(batch.keys, v) for v in numbers], axis=1)
        student = for_views(nets.student, self.patches)
        rows = x.reshape(-1, *x.shape[2:])
        small, _, z_t, model_state = compare(
            student, model_state, aux["small_queue"], rows, numbers, keys.reshape(-1)
        )
        first = z_t.reshape(*x.shape[:2], -1)[:, 0]
        of_images = small.reshape(x.shape[:2]).sum(axis=1)
        queues["small_queue"] = queue.enqueue(aux["small_queue"], first, of_images)
        metrics["patch_loss"] = small
        return losses.mean() + small.mean(), LossOut(model_state, queues, metrics)
