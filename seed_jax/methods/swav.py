"""SwAV: swapped assignments to prototypes (Caron et al., NeurIPS 2020, arXiv 2006.09882)."""

import dataclasses
from typing import ClassVar

import jax
import jax.numpy as jnp
from jax import lax

from seed_jax.losses import sinkhorn, swav_loss
from seed_jax.methods import queue
from seed_jax.methods.base import (
    LossOut,
    Method,
    base_view,
    bound,
    check_local_size,
    check_local_views,
    local_view,
    unbalanced,
    unit,
    without,
)
from seed_jax.models.all_views import apply_views
from seed_jax.models.heads import ProjectionHead, Prototypes
from seed_jax.models.network import Joined

GLOBAL = 2  # views whose assignments the others predict: crops_for_assign of the released code


@dataclasses.dataclass(frozen=True)
class SwAV(Method):
    """From each view of an image, predict how its two global views are assigned to prototypes.

    Sinkhorn's algorithm balances the assignments over the batch, so that images cannot all be assigned alike
    (`losses.sinkhorn`). The number of prototypes may be above or below that of the rows that are balanced:
    the released runs have 3,000 prototypes for 4,096 rows and for 256. With few rows, embeddings of past
    batches join them (`queue_size`).

    Events come in the order of facebookresearch/swav, main_swav.py: prototypes are scaled to length 1, rows
    of the queue take part from `queue_from` on as soon as all of them are from epochs since then, and the
    embeddings of a step are queued after their assignment. We differ in one point: the head's norm takes the
    global and the local views apart, each with all views of its size.

    Attributes:
      prototypes: number of prototypes, K.
      dim: width of the embedding.
      hidden: width of the head's hidden layer; 0 for the width of the pooled feature.
      temperature: temperature of the predictions' softmax.
      epsilon: smoothness of the assignments; the released code's README lowers it to 0.03 when the loss stays
        at log(prototypes).
      iterations: iterations of Sinkhorn's algorithm.
      queue_size: embeddings of past batches, of each global view, that are assigned together with the batch:
        a multiple of the batch size; 0 for none.
      queue_from: first epoch, counted from 0, whose embeddings are used in this way.
      freeze_epochs: epochs at the start in which the prototypes are not trained.
      local_views: smaller views, whose assignments are not computed; 0 for none.
      local_size: side of a local view, pixels.
      local_scale: range of a local view's share of the image area.
    """

    prototypes: int = 3000
    dim: int = 128
    hidden: int = 2048
    temperature: float = 0.1
    epsilon: float = 0.05
    iterations: int = 3
    queue_size: int = 0
    queue_from: int = 15
    freeze_epochs: float = 1.0
    local_views: int = 6
    local_size: int = 96
    local_scale: tuple[float, float] = (0.05, 0.14)

    smoke: ClassVar = {
        "prototypes": 64,
        "hidden": 32,
        "queue_size": 32,
        "queue_from": 0,
        "local_views": 2,
        "local_size": 16,
    }

    def check(self, data, train):
        bound(self, "prototypes", least=2)
        bound(self, "dim", "iterations", least=1)
        bound(self, "hidden", "queue_size", "queue_from", "freeze_epochs", least=0)
        bound(self, "temperature", "epsilon", above=0)
        check_local_views(self)
        if self.queue_size:
            queue.check_batches(data)

    def whole_batch(self):
        return "it balances the assignments of a batch"

    def notice(self, metrics, given):
        return unbalanced(self, metrics, given)

    def views(self, data):
        wide = base_view(data, count=GLOBAL)
        return (wide, local_view(self, data, data.photometric)) if self.local_views else (wide,)

    def network(self, backbone, given):
        check_local_size(self, backbone, given.image_size)
        head = ProjectionHead(
            self.hidden or None, self.dim, batch_norm=True, bn_group=given.bn_group, dtype=given.dtype
        )
        return Joined(backbone, {"head": head, "prototypes": Prototypes(self.prototypes)})

    def init_aux(self, rng, given, variables):
        if not self.queue_size:
            return {}
        return {"queue": queue.init(self.queue_size, given.batch_size, GLOBAL * self.dim)}

    def project(self, params, clock):
        kernel = params["prototypes"]["kernel"]
        return {**params, "prototypes": {"kernel": unit(kernel.T).T}}

    def loss(self, nets, params, model_state, aux, batch, clock, rng):
        scores = []
        for number, views in enumerate(batch.views):
            variables = {"params": params, **model_state}
            features, model_state = apply_views(
                nets.student, variables, views, True, batch.keys, first=GLOBAL * number
            )
            scores.append(features["scores"].swapaxes(0, 1))
            if number == 0:
                embedding = lax.stop_gradient(unit(features["embedding"]))

        rows, valid = scores[0][:, None], jnp.ones((1, len(embedding)), bool)  # [GLOBAL, slots, B, K]
        if self.queue_size:
            rows, valid = self._with_past(rows, valid, aux["queue"], params["prototypes"]["kernel"], clock)
        balance = {"epsilon": self.epsilon, "iterations": self.iterations, "valid": valid}
        assigned = jnp.stack([sinkhorn(of_view, **balance) for of_view in rows])
        assignments = assigned[:, -1]
        losses = swav_loss(jnp.concatenate(scores), assignments, temperature=self.temperature)

        shares = jnp.where(valid[None, ..., None], assigned, 0).sum(axis=(1, 2)) / valid.sum()
        metrics = {
            "assignment_entropy": jax.scipy.special.entr(assignments).sum(axis=-1).mean(axis=0),
            "imbalance": jnp.abs(self.prototypes * shares - 1).max(),
        }
        if self.queue_size:
            both = embedding.reshape(len(embedding), -1)
            aux = {"queue": queue.enqueue(aux["queue"], both, losses)}
        return losses.mean(), LossOut(model_state, aux, metrics)

    def _with_past(self, rows, valid, past, kernel, clock):
        """`rows` `[GLOBAL, 1, B, K]` and `valid` `[1, B]` behind those of the queue, slot by slot.

        The rows of a slot stay on the devices of its images.
        """
        slots = len(past.slots)
        embeddings = past.slots.reshape(*past.slots.shape[:2], GLOBAL, self.dim)
        scores = jnp.einsum("sbvd,dk->vsbk", embeddings, kernel, precision="highest")
        used = clock.step >= self.queue_from * clock.steps_per_epoch + slots
        valid = jnp.concatenate([jnp.broadcast_to(used, (slots, valid.shape[1])), valid])
        return jnp.concatenate([scores, rows], axis=1), valid

    def served(self, variables, aux):
        return without(variables, ("prototypes",))

    def late_epochs(self):
        return self.freeze_epochs

    def late(self, path):
        return path[0] == "prototypes"
