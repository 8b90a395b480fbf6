"""Supervised training: upper bounds, fine-tuning, and the linear probe."""

import dataclasses
from typing import ClassVar

import jax.numpy as jnp
import optax

from seed_jax.data.pipeline import ViewSpec
from seed_jax.errors import UserError
from seed_jax.methods.base import Info, LossOut, TeacherNeed, base_view
from seed_jax.models.heads import Classifier
from seed_jax.models.network import Joined


@dataclasses.dataclass(frozen=True)
class Supervised:
    """Cross entropy on the labels.

    Attributes:
      freeze: '' trains everything; 'backbone' is the linear probe of MoCo and SEED: the backbone stays in
        eval mode (running statistics, no dropout) and only the new classifier is trained (jacobswan1/SEED,
        main_lincls.py).
    """

    freeze: str = ""

    teacher: ClassVar[TeacherNeed] = TeacherNeed.NONE
    needs_labels: ClassVar[bool] = True

    def __post_init__(self):
        if self.freeze not in ("", "backbone"):
            raise UserError(f"method.freeze is '{self.freeze}': use 'backbone' or an empty string.")

    def check(self, data, train):
        pass

    def views(self, data) -> tuple[ViewSpec, ...]:
        return (base_view(data),)

    def network(self, backbone, num_classes, teacher_dim):
        if num_classes < 2:
            raise UserError(
                "The supervised method needs labels, and data.source has none: use a labelled source, as "
                "'imagefolder', a folder with one sub-folder a class."
            )
        return Joined(
            backbone, {"classifier": Classifier(num_classes)}, backbone_train=self.freeze != "backbone"
        )

    def init_aux(self, rng, info: Info):
        return {}

    def loss(self, nets, params, model_state, aux, batch, rng):
        x = batch.views[0][:, 0]
        features, model_state = nets.student.apply({"params": params, **model_state}, x, True, batch.keys)
        logits = features["logits"]
        losses = optax.softmax_cross_entropy_with_integer_labels(logits, batch.label)
        metrics = {"loss": losses, "accuracy": (logits.argmax(axis=1) == batch.label).astype(jnp.float32)}
        return losses.mean(), LossOut(model_state, aux, metrics)

    def frozen(self, path):
        return path[0] == self.freeze
