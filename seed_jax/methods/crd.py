"""CRD inside response distillation: contrastive representation distillation (Tian et al., arXiv 1910.10699).

`KD` calls it for the loss "crd". The negatives are queues of past embeddings, in place of the paper's two
memory banks of the size of the data (`losses.crd_loss` is the paper's own).
"""

import flax.linen as nn
import jax
import jax.numpy as jnp

from seed_jax import losses
from seed_jax.methods import queue
from seed_jax.methods.base import unit
from seed_jax.models import layers

NAME = "crd"


class Embed(nn.Module):
    """The two linear maps that CRD learns, of the student's pooled feature and of the teacher's.

    The student's forward pass has no feature of the teacher, so it adds nothing: `loss` calls the maps.

    Attributes:
      teacher_width: of the teacher's pooled feature.
      dim: width of the embeddings.
    """

    teacher_width: int
    dim: int = 128

    @nn.compact
    def __call__(self, features, train: bool, keys=None):
        del train, keys
        teacher = features.get("teacher")
        if teacher is None and not self.is_initializing():
            return {}
        if teacher is None:
            teacher = jnp.zeros((len(features["pooled"]), self.teacher_width))
        student = features["pooled"].astype(jnp.float32)
        embedded = {
            "student": layers.torch_linear(self.dim, student.shape[-1], "student")(student),
            "teacher": layers.torch_linear(self.dim, self.teacher_width, "teacher")(teacher),
        }
        return {} if self.is_initializing() else embedded


def part(given, dim: int) -> Embed:
    """The maps, for the student's network."""
    return Embed(given.teacher["pooled"].shape[-1], dim)


def init(size: int, batch_size: int, dim: int) -> dict[str, queue.Queue]:
    """Empty queues of the embeddings of both networks."""
    return {side: queue.init(size, batch_size, dim) for side in ("student", "teacher")}


def loss(params, embed: Embed, student, teacher, queues) -> tuple[jax.Array, dict[str, queue.Queue]]:
    """CRD of a batch, `[B]`, and the queues with its embeddings.

    Args:
      params: of `embed`.
      student, teacher: features with `pooled`, `[B, D]`; the student's receives a gradient.
    """
    pooled = {"pooled": student["pooled"], "teacher": jax.lax.stop_gradient(teacher["pooled"])}
    embedded = embed.apply({"params": params}, pooled, True)
    s, t = unit(embedded["student"]), unit(embedded["teacher"])
    valid = queue.valid(queues["student"])
    values = losses.crd_queue_loss(s, t, queues["student"].slots, queues["teacher"].slots, valid)
    now = {"student": s, "teacher": t}
    return values, {
        side: queue.enqueue(past, jax.lax.stop_gradient(now[side]), values) for side, past in queues.items()
    }
