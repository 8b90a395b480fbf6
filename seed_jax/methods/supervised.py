"""Supervised training: upper bounds, fine-tuning, and the linear probe."""

import dataclasses
from typing import ClassVar

import jax.numpy as jnp
import optax

from seed_jax.errors import UserError
from seed_jax.methods import mixed
from seed_jax.methods.base import LossOut, Method
from seed_jax.models.heads import Classifier
from seed_jax.models.network import Joined


@dataclasses.dataclass(frozen=True)
class Supervised(Method):
    """Cross entropy on the labels.

    Attributes:
      freeze: '' trains everything. 'backbone' is the linear probe of MoCo and SEED: only the new classifier
        is trained, and the backbone stays in eval mode, without dropout and with its running statistics
        (jacobswan1/SEED, main_lincls.py).
      mix: 'mixup' or 'cutmix' mixes the images of a batch and their labels (`methods/mixed.py`); '' does not.
    """

    freeze: str = ""
    mix: str = ""

    needs_labels: ClassVar = True

    def __post_init__(self):
        if self.freeze not in ("", "backbone"):
            raise UserError(f"method.freeze is '{self.freeze}': use 'backbone' or an empty string.")

    def check(self, data, train):
        mixed.check(self.mix, data)

    def whole_batch(self):
        return mixed.reason(self.mix)

    def network(self, backbone, given):
        parts = {"classifier": Classifier(given.num_classes)}
        return Joined(backbone, parts, backbone_train=self.freeze != "backbone")

    def loss(self, nets, params, model_state, aux, batch, clock, rng):
        x, over_labels = mixed.mix(self.mix, batch.views[0][:, 0], batch.label, rng)
        features, model_state = nets.student.apply({"params": params, **model_state}, x, True, batch.keys)
        logits = features["logits"]
        ce = over_labels(lambda y: optax.softmax_cross_entropy_with_integer_labels(logits, y))
        accuracy = over_labels(lambda y: (logits.argmax(axis=1) == y).astype(jnp.float32))
        return ce.mean(), LossOut(model_state, aux, {"accuracy": accuracy})

    def frozen(self, path):
        return path[0] == self.freeze
