"""Be your own teacher: a network with an exit after each stage, whose deepest classifier teaches the others.

Zhang et al., ICCV 2019, arXiv 1905.08094; the journal version is "Self-Distillation: Towards Efficient and
Compact Neural Networks", TPAMI 2021. Neither publishes alpha, lambda or the temperature: the values here are
those of two codes, luanyunteng/pytorch-be-your-own-teacher and, of the authors,
ArchipLab-LinfengZhang/pytorch-self-distillation-final.
"""

import dataclasses
import re
from typing import ClassVar

import jax
import jax.numpy as jnp
import optax
from jax import lax

from seed_jax import losses
from seed_jax.errors import UserError, unknown
from seed_jax.losses.root import root
from seed_jax.methods import mixed
from seed_jax.methods.base import LossOut, Method, bound, feature_shapes, hits, without
from seed_jax.models.exits import FORMS, LOGITS, Ensemble, Exit, classifiers
from seed_jax.models.heads import Classifier, ProjectionHead
from seed_jax.models.network import Joined


@dataclasses.dataclass(frozen=True)
class BYOT(Method):
    """CE of the deepest + sum over exits i of (1 - alpha) CE_i + alpha KL_i + lambda D(F_i, F_deepest).

    The deepest classifier is the target of every exit, and a constant; its own CE is not scaled (the paper's
    alpha = lambda = 0 for it; the ICCV code scales it by 1 - alpha too). KL is at temperature T; both codes
    use a cross entropy with soft targets instead, which has the same gradient. F is the average of a map, as
    in both codes; the paper compares the maps. Targets are what the training pass computes: a backbone
    that drops units or blocks before `pooled` has them dropped in its targets too.

    `form` chooses the exits (`models.exits.Exit`) and two losses:
    - 'iccv': KL_i times T^2, and D the sum over batch and features of (F_i - F)^2 where one of them is
      positive: the code's sum, which is why lambda is so small.
    - 'journal': KL_i without T^2, and D the length, not squared, of the difference over the whole batch
      between a Linear of F_i and F. The Linear is dropped after training. The code leaves out the exit before
      the deepest (its comment says the shallowest); we leave out none. It publishes alpha 0.3 and lambda
      0.03.

    Deep supervision, the baseline, is alpha 0 and lambda 0.

    Attributes:
      alpha: the paper's alpha, from 0 to 1: how much an exit's KL replaces its cross entropy.
      feature: the paper's lambda, weight of the features' distance; beta in the ICCV code.
      temperature: T of the KL.
      form: 'iccv' or 'journal'.
      mix: 'mixup', 'cutmix' or 'either' mixes the images of a batch and their labels (`methods/mixed.py`), as
        neither code does; '' does not.
    """

    alpha: float = 0.1
    feature: float = 1e-6
    temperature: float = 3.0
    form: str = "iccv"
    mix: str = ""

    needs_labels: ClassVar = True

    def check(self, data, train):
        bound(self, "alpha", least=0, most=1)
        bound(self, "feature", least=0)
        bound(self, "temperature", above=0)
        if self.form not in FORMS:
            raise unknown("method.form", self.form, FORMS)
        mixed.check(self.mix, data)

    def whole_batch(self):
        if self.mix or not self.feature:
            return mixed.reason(self.mix)
        of = "a sum over the batch" if self.form == "iccv" else "one length of the whole batch"
        return f"method.feature weights {of}"

    def network(self, backbone, given):
        shapes = feature_shapes(backbone, given.image_size)
        stages = sum(re.fullmatch(r"stage\d+", name) is not None for name in shapes)
        maps = [shapes[f"stage{number}"].shape for number in range(1, stages + 1)]
        if stages < 2 or any(len(shape) != 4 for shape in maps):
            raise UserError(
                "byot needs a backbone with maps of two stages or more, to which it joins exits: use another "
                "student.model, such as 'resnet18'."
            )
        strides = tuple(max(1, before[1] // after[1]) for before, after in zip(maps, maps[1:], strict=False))
        width = shapes["pooled"].shape[-1]
        common = {"bn_group": given.bn_group, "dtype": given.dtype}
        parts, adapted = {}, {}
        for number in range(1, stages):
            name = f"exit{number}"
            parts[name] = Exit(number, strides[number - 1 :], width, given.num_classes, self.form, **common)
            adapted[f"adapt{number}"] = ProjectionHead(
                dim=width, layers=1, of=f"{name}_pooled", out=f"{name}_adapted", dtype=given.dtype
            )
        if self.form == "journal" and self.feature:
            parts |= adapted
        parts |= {"classifier": Classifier(given.num_classes), "ensemble": Ensemble()}
        return Joined(backbone, parts)

    def served(self, variables, aux):
        return without(variables, [name for name in variables["params"] if name.startswith("adapt")])

    def loss(self, nets, params, model_state, aux, batch, clock, rng):
        x, over_labels = mixed.mix(self.mix, batch.views[0][:, 0], batch.label, rng)
        features, model_state = nets.student.apply({"params": params, **model_state}, x, True, batch.keys)
        *shallow, deepest = classifiers(features)
        ce = _cross_entropy(features[deepest], over_labels)
        accuracy = over_labels(lambda y: hits(features[LOGITS], y))
        total, metrics = ce.mean(), {"ce": ce, "accuracy": accuracy}
        weights = {"ce": 1 - self.alpha, "kl": self.alpha, "feature": self.feature}
        for entry in shallow:
            name = entry.removesuffix("_logits")
            terms = self._terms(features, name, over_labels)
            metrics |= {f"{name}_{term}": value for term, value in terms.items()}
            total += sum(weights[term] * value.mean() for term, value in terms.items())
        return total, LossOut(model_state, aux, metrics)

    def _terms(self, features, name, over_labels) -> dict[str, jax.Array]:
        """The losses of an exit that have a weight, before it."""
        logits, terms = features[f"{name}_logits"], {}
        if self.alpha < 1:
            terms["ce"] = _cross_entropy(logits, over_labels)
        if self.alpha:
            kl = losses.kd_loss(logits, features[LOGITS], temperature=self.temperature)
            terms["kl"] = kl if self.form == "iccv" else kl / self.temperature**2
        target = lax.stop_gradient(features["pooled"].astype(jnp.float32))
        if self.feature and self.form == "iccv":
            terms["feature"] = _positive_squares(features[f"{name}_pooled"], target)
        elif self.feature:
            terms["feature"] = root(jnp.square(features[f"{name}_adapted"] - target).sum())
        return terms


def _cross_entropy(logits, over_labels):
    return over_labels(lambda y: optax.softmax_cross_entropy_with_integer_labels(logits, y))


def _positive_squares(f, target):
    """Sum of (f - target)^2 where f or target is positive."""
    return jnp.where((f <= 0) & (target <= 0), 0, jnp.square(f - target)).sum()  # NaN stays NaN
