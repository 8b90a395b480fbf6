"""Self-supervised label augmentation (Lee et al., ICML 2020, arXiv 1910.05872).

One classifier tells the class of an image and which view of it this is. Source of the code's choices:
hankook/SLA, trainers.py.
"""

import dataclasses
from typing import ClassVar

import jax
import jax.numpy as jnp
import optax

from seed_jax import losses
from seed_jax.data import transforms
from seed_jax.errors import UserError
from seed_jax.methods import mixed
from seed_jax.methods.base import LossOut, Method, bound, hits, without
from seed_jax.models.all_views import AllViews, SingleInference, apply_views
from seed_jax.models.heads import Classifier
from seed_jax.models.network import Joined

JOINT = "joint"


@dataclasses.dataclass(frozen=True)
class SLA(Method):
    """Cross entropy on joint labels, y M + j for view j of M, averaged over the views of an image.

    The network answers an image in two ways: `logits` from the image alone (SI in the paper), scored as
    `top1`, and `aggregated_logits` from all its views (AG), scored as `aggregated_top1`. With `distil` (SD)
    a second classifier sees the image alone, learns the label and the aggregated answer, and is served
    without the first: the plain network.

    For large data the released code has an option that multiplies the loss by M; we do not have it.

    Attributes:
      rotations: rotations of an image: 4, 2 (0 and 180 degrees) or 1.
      colours: permutations of the colours, 6, 3 or 1. On grey images they all look the same.
      distil: SLA-SD: L_SLA + CE + T^2 KL(aggregated || second classifier).
      temperature: T of `distil`; 1 in the paper and in the code.
      mix: 'mixup', 'cutmix' or 'either' mixes the images of a batch before the views are made, and their
        labels (`methods/mixed.py`); '' does not, as in the paper.
    """

    rotations: int = 4
    colours: int = 1
    distil: bool = False
    temperature: float = 1.0
    mix: str = ""

    needs_labels: ClassVar = True

    def check(self, data, train):
        transforms.check(self.rotations, self.colours)
        if self.rotations * self.colours == 1:
            raise UserError(
                "method.rotations and method.colours are 1, and one view has nothing to tell: use "
                "--config.method.rotations=4."
            )
        bound(self, "temperature", above=0)
        mixed.check(self.mix, data)

    def whole_batch(self):
        return mixed.reason(self.mix)

    def network(self, backbone, given):
        views = self.rotations * self.colours
        joint = {JOINT: Classifier(given.num_classes * views, out="joint_logits")}
        if self.distil:
            return Joined(backbone, joint | {"classifier": Classifier(given.num_classes)})
        parts = joint | {"single": SingleInference(views)}
        return AllViews(backbone, parts, rotations=self.rotations, colours=self.colours)

    def served(self, variables, aux):
        return without(variables, (JOINT,)) if self.distil else variables

    def loss(self, nets, params, model_state, aux, batch, clock, rng):
        x, over_labels = mixed.mix(self.mix, batch.views[0][:, 0], batch.label, rng)
        views = transforms.transform(x, self.rotations, self.colours)
        features, model_state = apply_views(
            nets.student, {"params": params, **model_state}, views, True, batch.keys
        )
        joint, logits = features["joint_logits"], features["logits"][:, 0]
        aggregated = losses.aggregate(joint)

        def accuracy(logits):
            return over_labels(lambda y: hits(logits, y))

        terms = {"joint_ce": over_labels(lambda y: joint_cross_entropy(joint, y))}
        if self.distil:
            terms["ce"] = over_labels(lambda y: optax.softmax_cross_entropy_with_integer_labels(logits, y))
            terms["kd"] = losses.kd_loss(logits, aggregated, temperature=self.temperature)
        metrics = terms | {"accuracy": accuracy(logits), "aggregated_accuracy": accuracy(aggregated)}
        return sum(terms.values()).mean(), LossOut(model_state, aux, metrics)


def joint_cross_entropy(logits: jax.Array, label: jax.Array) -> jax.Array:
    """Cross entropy with the joint labels y M + j of the views j, float32 `[B]`: the mean over the views.

    Args:
      logits: float `[B, M, M * C]`.
      label: int32 `[B]`, y.
    """
    views = logits.shape[1]
    joint = label[:, None] * views + jnp.arange(views)[None]
    return optax.softmax_cross_entropy_with_integer_labels(logits, joint).mean(axis=1)
