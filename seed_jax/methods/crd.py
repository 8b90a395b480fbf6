"""CRD inside response distillation: contrastive representation distillation (Tian et al., arXiv 1910.10699).

`KD` calls it for the loss "crd". It is the form with queues, `losses.crd_queue_loss`: InfoNCE over past
embeddings in place of the paper's classifier and its two memory banks of the size of the data
(`losses.crd_loss`). The paper's negatives are of other classes; a queue also has samples of the same class,
and, if it is longer than an epoch, past embeddings of the same image.
"""

import math

import flax.linen as nn
import jax
import jax.numpy as jnp

from seed_jax import losses
from seed_jax.methods import queue
from seed_jax.methods.base import unit

NAME = "crd"


class Maps(nn.Module):
    """The parameters of the two linear maps that CRD learns, on both networks' pooled features.

    A part of the student's network that adds nothing to its features: `loss` applies the maps.

    Attributes:
      teacher_width: of the teacher's pooled feature.
      dim: width of the embeddings.
    """

    teacher_width: int
    dim: int = 128

    @nn.compact
    def __call__(self, features, train: bool, keys=None):
        del train, keys
        for side, width in (("student", features["pooled"].shape[-1]), ("teacher", self.teacher_width)):
            bound = 1 / math.sqrt(width)  # PyTorch's initial values of a Linear
            for name, shape in (("kernel", (width, self.dim)), ("bias", (self.dim,))):
                self.param(f"{side}_{name}", jax.random.uniform, shape, jnp.float32, -bound, bound)
        return {}


def init(size: int, batch_size: int, dim: int) -> dict[str, queue.Queue]:
    """Empty queues of the embeddings of both networks."""
    return {side: queue.init(size, batch_size, dim) for side in ("student", "teacher")}


def loss(params, student, teacher, queues) -> tuple[jax.Array, dict[str, queue.Queue]]:
    """CRD of a batch, `[B]`, and the queues with its embeddings.

    Args:
      params: of `Maps`.
      student, teacher: features with `pooled`, `[B, D]`; the student's receives a gradient.
    """
    s = _embedded(params, "student", student["pooled"])
    t = _embedded(params, "teacher", jax.lax.stop_gradient(teacher["pooled"]))
    valid = queue.valid(queues["student"])
    values = losses.crd_queue_loss(s, t, queues["student"].slots, queues["teacher"].slots, valid)
    now = {"student": s, "teacher": t}
    return values, {
        side: queue.enqueue(past, jax.lax.stop_gradient(now[side]), values) for side, past in queues.items()
    }


def _embedded(params, side: str, pooled) -> jax.Array:
    return unit(pooled.astype(jnp.float32) @ params[f"{side}_kernel"] + params[f"{side}_bias"][None])
