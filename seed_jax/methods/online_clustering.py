"""Online clustering, a strategy of SEED's table 4 (arXiv 2101.04731), in SwAV's form (arXiv 2006.09882)."""

import dataclasses
from typing import ClassVar

import jax
import jax.numpy as jnp
from jax import lax

from seed_jax.losses import sinkhorn, swav_loss
from seed_jax.methods import queue
from seed_jax.methods.base import LossOut, Method, bound, unbalanced, unit, without
from seed_jax.models.heads import ProjectionHead, Prototypes
from seed_jax.models.network import Joined


@dataclasses.dataclass(frozen=True)
class OnlineClustering(Method):
    """The student predicts how the teacher's embedding of the same view is assigned to prototypes.

    Prototypes are vectors of length 1 in the teacher's embedding space, learned with the student: only its
    predictions have a gradient. Sinkhorn's algorithm balances the assignments over the batch and past teacher
    embeddings (`losses.sinkhorn`). The released code has no such strategy, so its form is ours, with SwAV's
    values.

    Attributes:
      prototypes: number of clusters.
      temperature: temperature of the student's softmax over prototypes.
      epsilon: smoothness of the assignments.
      iterations: iterations of Sinkhorn's algorithm.
      queue_size: past teacher embeddings that are assigned together with the batch, a multiple of the batch
        size; 0 for none.
      hidden: width of the head's hidden layer; 0 for the width of the pooled feature.
    """

    prototypes: int = 3000
    temperature: float = 0.1
    epsilon: float = 0.05
    iterations: int = 3
    queue_size: int = 3840
    hidden: int = 0

    needs_teacher: ClassVar = True
    smoke: ClassVar = {"prototypes": 64, "queue_size": 64}

    def check(self, data, train):
        bound(self, "prototypes", least=2)
        bound(self, "iterations", least=1)
        bound(self, "hidden", "queue_size", least=0)
        bound(self, "temperature", "epsilon", above=0)
        if self.queue_size:
            queue.check_batches(data)

    def whole_batch(self):
        return "it balances the assignments of a batch"

    def notice(self, metrics, given):
        return unbalanced(self, metrics, given)

    def network(self, backbone, given):
        dim = given.teacher["embedding"].shape[-1]
        head = ProjectionHead(hidden=self.hidden or None, dim=dim)
        return Joined(backbone, {"head": head, "prototypes": Prototypes(self.prototypes)})

    def init_aux(self, rng, given, variables):
        dim = given.teacher["embedding"].shape[-1]
        return {"queue": queue.init(self.queue_size, given.batch_size, dim)} if self.queue_size else {}

    def project(self, params, clock):
        kernel = params["prototypes"]["kernel"]
        return {**params, "prototypes": {"kernel": unit(kernel.T).T}}

    def loss(self, nets, params, model_state, aux, batch, clock, rng):
        x = batch.views[0][:, 0]
        z_t = unit(nets.teacher(x, (0,))["embedding"])
        features, model_state = nets.student.apply({"params": params, **model_state}, x, True, batch.keys)

        rows, valid = z_t[None], jnp.ones((1, len(z_t)), bool)  # [slots, B, D], as the queue
        if self.queue_size:
            past = aux["queue"]
            filled = jnp.broadcast_to(queue.valid(past)[:, None], past.slots.shape[:2])
            rows, valid = jnp.concatenate([past.slots, rows]), jnp.concatenate([filled, valid])
        kernel = lax.stop_gradient(params["prototypes"]["kernel"])
        scores = jnp.einsum("sbd,dk->sbk", rows, kernel, precision="highest")
        assigned = sinkhorn(scores, epsilon=self.epsilon, iterations=self.iterations, valid=valid)
        # The teacher's is the first of two views, the only one that is assigned; so the other is predicted.
        both = jnp.stack([scores[-1], features["scores"]])
        losses = swav_loss(both, assigned[-1:], temperature=self.temperature)

        shares = jnp.where(valid[..., None], assigned, 0).sum(axis=(0, 1)) / valid.sum()
        metrics = {
            "teacher_cosine": (unit(features["embedding"]) * z_t).sum(axis=1),
            "assignment_entropy": jax.scipy.special.entr(assigned[-1]).sum(axis=1),
            "imbalance": jnp.abs(self.prototypes * shares - 1).max(),
        }
        if self.queue_size:
            aux = {"queue": queue.enqueue(past, z_t, losses)}
        return losses.mean(), LossOut(model_state, aux, metrics)

    def served(self, variables, aux):
        return without(variables, ("prototypes",))
