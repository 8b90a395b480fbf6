"""CS-KD: images of one class teach each other (Yun et al., CVPR 2020, arXiv 2003.13964)."""

import dataclasses
from typing import ClassVar

import jax
import jax.numpy as jnp
import optax

from seed_jax import losses
from seed_jax.errors import UserError
from seed_jax.methods.base import LossOut, Method, bound, hits
from seed_jax.models.heads import Classifier
from seed_jax.models.network import Joined


@dataclasses.dataclass(frozen=True)
class CSKD(Method):
    """CE + weight * `kd_loss` of an image's logits against those of another image of its class, its partner.

    The gradient stops at the partner, which is drawn in each step from the others of the class in the batch.
    An image alone in its class has the cross entropy only, and the KD term is a mean over the images that
    have a partner. Of 128 images of 100 classes, 72 % have one.

    The released code (alinlab/cs-kd, train.py and datasets.py) draws the partner from the whole class,
    perhaps the image itself, and computes it in a second forward pass, also in train mode. So it sees twice
    as many images per step. We need one pass, but with many classes few images have a partner.

    Attributes:
      weight: lambda: 1 for CIFAR-100 in the released code, 3 for fine-grained data.
      temperature: T, 4 in the released code.
    """

    weight: float = 1.0
    temperature: float = 4.0

    needs_labels: ClassVar = True

    def check(self, data, train):
        bound(self, "weight", least=0)
        bound(self, "temperature", above=0)
        if data.batch_size < 2:
            raise UserError(
                "method.name is 'cs_kd', which pairs images of a batch, and data.batch_size is "
                f"{data.batch_size}: use --config.data.batch_size=2 or more."
            )

    def whole_batch(self):
        return "it pairs the images of a class"

    def network(self, backbone, given):
        return Joined(backbone, {"classifier": Classifier(given.num_classes)})

    def loss(self, nets, params, model_state, aux, batch, clock, rng):
        x = batch.views[0][:, 0]
        features, model_state = nets.student.apply({"params": params, **model_state}, x, True, batch.keys)
        logits = features["logits"]
        ce = optax.softmax_cross_entropy_with_integer_labels(logits, batch.label)
        partner, paired = partners(rng, batch.label)
        kd = losses.kd_loss(logits, logits[partner], temperature=self.temperature)
        kd = jnp.where(paired, kd, 0).sum() / jnp.maximum(paired.sum(), 1)
        accuracy = hits(logits, batch.label)
        metrics = {"ce": ce, "accuracy": accuracy, "kd": kd, "paired": paired.astype(jnp.float32)}
        return ce.mean() + self.weight * kd, LossOut(model_state, aux, metrics)


def partners(rng: jax.Array, label: jax.Array) -> tuple[jax.Array, jax.Array]:
    """For each sample another one of its class, each as likely as the others.

    Args:
      rng: a PRNG key.
      label: int `[B]`.

    Returns:
      int32 `[B]`, indices, of no meaning where there is none; bool `[B]`, whether there is one.
    """
    same = (label[:, None] == label[None]) & ~jnp.eye(len(label), dtype=bool)
    drawn = jnp.where(same, jax.random.uniform(rng, same.shape), -1.0)
    return drawn.argmax(axis=1).astype(jnp.int32), same.any(axis=1)
