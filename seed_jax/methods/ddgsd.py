"""DDGSD: two views of an image teach each other (Xu and Liu, "Data-distortion guided self-distillation for
deep neural networks", AAAI 2019).
"""

import dataclasses
from typing import ClassVar

import jax.numpy as jnp
import optax

from seed_jax import losses
from seed_jax.methods.base import LossOut, Method, base_view, bound, hits
from seed_jax.models.all_views import apply_views
from seed_jax.models.heads import Classifier
from seed_jax.models.network import Joined


@dataclasses.dataclass(frozen=True)
class DDGSD(Method):
    """CE + weight [KD(1, 2) + KD(2, 1)] + features |m_1 - m_2|^2, m a view's mean of the pooled features.

    Views 1 and 2 are drawn alike and go through the network in one batch. CE is the mean over both. In each
    KD the other view's logits are a constant target. m is the mean over the batch. A step costs as much as
    one of plain training with twice the images.

    The weights and the temperature are those of winycg/Self-KD-Lib, methods/ddsgd.py: we know of no code by
    the authors. We differ from it in two points. It halves CE. Its third term is the square of one number,
    the difference of the means over batch and channels; ours is a sum over channels.

    Attributes:
      weight: weight of the two KD terms.
      temperature: T of KD.
      features: weight of the third term; with 0 the loss is a mean over its images.
    """

    weight: float = 1.0
    temperature: float = 4.0
    features: float = 5e-4

    needs_labels: ClassVar = True

    def check(self, data, train):
        bound(self, "weight", "features", least=0)
        bound(self, "temperature", above=0)

    def whole_batch(self):
        return "method.features compares means over the batch" if self.features else ""

    def views(self, data):
        return (base_view(data, count=2),)

    def network(self, backbone, given):
        return Joined(backbone, {"classifier": Classifier(given.num_classes)})

    def loss(self, nets, params, model_state, aux, batch, clock, rng):
        variables = {"params": params, **model_state}
        features, model_state = apply_views(nets.student, variables, batch.views[0], True, batch.keys)
        logits, label = features["logits"], jnp.stack([batch.label, batch.label], axis=1)
        ce = optax.softmax_cross_entropy_with_integer_labels(logits, label).mean(axis=1)
        accuracy = hits(logits, label).mean(axis=1)
        first, second = logits[:, 0], logits[:, 1]
        kd = losses.kd_loss(first, second, temperature=self.temperature)
        kd += losses.kd_loss(second, first, temperature=self.temperature)
        means = features["pooled"].mean(axis=0)
        distance = jnp.square(means[0] - means[1]).sum()
        total = ce.mean() + self.weight * kd.mean() + self.features * distance
        metrics = {"ce": ce, "accuracy": accuracy, "kd": kd, "features": distance}
        return total, LossOut(model_state, aux, metrics)
