"""Supervised training: upper bounds, fine-tuning, and the linear probe."""

import dataclasses
from typing import ClassVar

import jax
import optax

from seed_jax import losses
from seed_jax.errors import UserError
from seed_jax.methods import mixed
from seed_jax.methods.base import LossOut, Method, bound, hits
from seed_jax.models.heads import Classifier, folded
from seed_jax.models.network import Joined

CLASSIFIER = "classifier"


@dataclasses.dataclass(frozen=True)
class Supervised(Method):
    """Cross entropy on the labels, or on the softer targets of two teacher-free baselines.

    Attributes:
      freeze: '' trains everything. 'backbone' is the linear probe of MoCo and SEED: only the new classifier
        is trained, and the backbone stays in eval mode, without dropout and with its running statistics.
      smoothing: share of each target that is spread over all classes evenly, its own included: label
        smoothing (Szegedy et al., arXiv 1512.00567, section 7; 0.1 there).
      virtual_teacher: weight of `virtual_teacher_loss`; the cross entropy has 1 minus this: Tf-KD_reg
        (Yuan et al., arXiv 1909.11723; 0.1 for ResNet-18 on CIFAR-100 in the released code).
      mix: 'mixup' or 'cutmix' mixes the images of a batch and their labels, 'either' draws one of the two for
        each batch, as in fine-tuning recipes (`methods/mixed.py`); '' does not.
      classifier_std: the classifier's weights start as N(0, classifier_std^2) and its biases as 0; 2e-5 in
        the fine-tunings of MAE, BEiT and Feature-Distillation. 0 is PyTorch's Linear, or 0.01 with `freeze`
        (jacobswan1/SEED, main_lincls.py).
      batch_norm: normalise what the classifier reads over the batch (`models.heads.Classifier`), as MAE's
        linear probe does. What is served is the plain classifier that computes the same.
    """

    freeze: str = ""
    smoothing: float = 0.0
    virtual_teacher: float = 0.0
    mix: str = ""
    classifier_std: float = 0.0
    batch_norm: bool = False

    needs_labels: ClassVar = True

    def __post_init__(self):
        if self.freeze not in ("", "backbone"):
            raise UserError(f"method.freeze is '{self.freeze}': use 'backbone' or an empty string.")
        bound(self, "smoothing", "virtual_teacher", least=0, most=1)
        bound(self, "classifier_std", least=0)

    def check(self, data, train):
        mixed.check(self.mix, data)

    def whole_batch(self):
        return mixed.reason(self.mix)

    def network(self, backbone, given):
        classifier = Classifier(
            given.num_classes,
            std=self.classifier_std or (0.01 if self.freeze else None),
            batch_norm=self.batch_norm,
            bn_group=given.bn_group,
        )
        return Joined(backbone, {CLASSIFIER: classifier}, backbone_train=self.freeze != "backbone")

    def served(self, variables, aux):
        if not self.batch_norm:
            return variables
        stats = variables["batch_stats"]
        plain = folded(variables["params"][CLASSIFIER], stats[CLASSIFIER])
        kept = {name: tree for name, tree in stats.items() if name != CLASSIFIER}
        rest = {name: tree for name, tree in variables.items() if name != "batch_stats"}
        rest["params"] = {**variables["params"], CLASSIFIER: plain}
        return rest | ({"batch_stats": kept} if kept else {})

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
