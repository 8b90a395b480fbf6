"""Supervised training: upper bounds, fine-tuning, and the linear probe."""

import dataclasses
from typing import ClassVar

import jax
import optax

from seed_jax import losses
from seed_jax.errors import UserError
from seed_jax.methods import mixed
from seed_jax.methods.base import LossOut, Method, bound, hits
from seed_jax.models.heads import Classifier
from seed_jax.models.network import Joined


@dataclasses.dataclass(frozen=True)
class Supervised(Method):
    """Cross entropy on the labels, or on the softer targets of two teacher-free baselines.

    Attributes:
      freeze: '' trains everything. 'backbone' is the linear probe of MoCo and SEED: only the new classifier
        is trained, and the backbone stays in eval mode, without dropout and with its running statistics. The
        classifier starts as N(0, 0.01) (jacobswan1/SEED, main_lincls.py).
      smoothing: share of each target that is spread over all classes evenly, its own included: label
        smoothing (Szegedy et al., arXiv 1512.00567, section 7; 0.1 there).
      virtual_teacher: weight of `virtual_teacher_loss`, with 1 minus it for the cross entropy: Tf-KD_reg
        (Yuan et al., arXiv 1909.11723; 0.1 for ResNet-18 on CIFAR-100 in the released code).
      mix: 'mixup' or 'cutmix' mixes the images of a batch and their labels (`methods/mixed.py`); '' does not.
    """

    freeze: str = ""
    smoothing: float = 0.0
    virtual_teacher: float = 0.0
    mix: str = ""

    needs_labels: ClassVar = True

    def __post_init__(self):
        if self.freeze not in ("", "backbone"):
            raise UserError(f"method.freeze is '{self.freeze}': use 'backbone' or an empty string.")
        bound(self, "smoothing", "virtual_teacher", least=0, most=1)

    def check(self, data, train):
        mixed.check(self.mix, data)

    def whole_batch(self):
        return mixed.reason(self.mix)

    def network(self, backbone, given):
        parts = {"classifier": Classifier(given.num_classes, narrow=bool(self.freeze))}
        return Joined(backbone, parts, backbone_train=self.freeze != "backbone")

    def loss(self, nets, params, model_state, aux, batch, clock, rng):
        x, over_labels = mixed.mix(self.mix, batch.views[0][:, 0], batch.label, rng)
        features, model_state = nets.student.apply({"params": params, **model_state}, x, True, batch.keys)
        logits = features["logits"]
        loss = over_labels(lambda y: optax.softmax_cross_entropy_with_integer_labels(logits, y))
        if self.smoothing:
            uniform = jax.nn.logsumexp(logits, axis=1) - logits.mean(axis=1)  # its cross entropy
            loss = (1 - self.smoothing) * loss + self.smoothing * uniform
        if self.virtual_teacher:
            taught = over_labels(lambda y: losses.virtual_teacher_loss(logits, y))
            loss = (1 - self.virtual_teacher) * loss + self.virtual_teacher * taught
        accuracy = over_labels(lambda y: hits(logits, y))
        return loss.mean(), LossOut(model_state, aux, {"accuracy": accuracy})

    def frozen(self, path):
        return path[0] == self.freeze
