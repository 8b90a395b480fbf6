"""Attention transfer (Zagoruyko and Komodakis, "Paying more attention to attention", arXiv 1612.03928)."""

import dataclasses
from typing import ClassVar

import jax
import optax

from seed_jax import losses
from seed_jax.errors import UserError, unknown
from seed_jax.methods.base import LossOut, Method, bound, feature_shapes, hits
from seed_jax.models.heads import Classifier
from seed_jax.models.network import Joined, stage_maps

WEIGHTS = ("gamma", "alpha", "beta", "gradient", "symmetry")


@dataclasses.dataclass(frozen=True)
class AttentionTransfer(Method):
    """gamma CE + alpha KD + beta (activation maps) + gradient |J_s - J_t| / 2 + symmetry |J_s - J_s'| / 2.

    Activation maps (section 3.1) are compared at each stage by `attention_transfer_loss`, and added up.

    J (section 3.2) is the gradient of a sample's cross entropy with respect to its pixels: for the student
    (J_s), for the teacher (J_t), and for the student on the mirrored image, mirrored back (J_s'). The authors
    have not released code for it. For J both networks are in eval mode (running statistics, no dropout), so
    that J of a sample does not depend on the batch; the paper's networks have no BatchNorm there. The cross
    entropy in the loss comes from another forward pass, in train mode. Pixels are those in [0, 1], which both
    networks share, not those that each has normalised, which makes J larger by 1 / std. The gradient stops
    at J_t; both J_s and J_s' receive one.

    Attributes:
      gamma: weight of the cross entropy: 1 in the paper, 1 - alpha in the released code.
      alpha: weight of `kd_loss`: in the released code 0 for attention transfer alone, 0.9 for KD alone.
      temperature: T of KD.
      beta: weight of the activation maps of each stage. 1000 is the released code's value for the form
        'mean_square'; for 'norm' it is the paper's beta (equation 2): set it, since the default is not
        meant for that form. The mean square is over pixels, so the same beta counts four times as much for
        images of half the side (experiments/self_distillation/README.md).
      stages: maps to compare, by name in both networks, such as 'stage2,stage3'; () for every `stageN` that
        both have. These are the released code's: in WRN before the last norm and ReLU, in ResNet after the
        ReLU. For the maps before the last ReLU, name 'preact1' and so on. If two maps differ in size, the
        larger side must be a multiple of the smaller one.
      form: 'mean_square', the released code's, or 'norm', the paper's.
      power: p of the maps: 2 is the paper's choice.
      reduce: 'sum' over channels, the paper's choice, or 'max'.
      gradient: weight of the gap between student's and teacher's gradients (the paper's beta); 0 for none.
      symmetry: the paper's beta for the gradients of an image and of its mirror image. It needs no teacher.
    """

    gamma: float = 1.0
    alpha: float = 0.0
    temperature: float = 4.0
    beta: float = 1000.0
    stages: tuple[str, ...] = ()
    form: str = "mean_square"
    power: float = 2.0
    reduce: str = "sum"
    gradient: float = 0.0
    symmetry: float = 0.0

    needs_labels: ClassVar = True

    @property
    def needs_teacher(self) -> bool:
        return self.alpha > 0 or self.beta > 0 or self.gradient > 0

    def check(self, data, train):
        bound(self, *WEIGHTS, least=0)
        if not any(getattr(self, name) for name in WEIGHTS):
            raise UserError(f"method.{', '.join(WEIGHTS)} are all 0: use more than 0 for one of them.")
        bound(self, "temperature", above=0)
        bound(self, "power", least=1)
        if len({*self.stages}) < len(self.stages):
            raise UserError(f"method.stages is {self.stages}: name each map once.")
        for name, known in (("form", losses.attention.FORMS), ("reduce", losses.attention.REDUCTIONS)):
            if getattr(self, name) not in known:
                raise unknown(f"method.{name}", getattr(self, name), known)

    def network(self, backbone, given):
        if self.alpha or self.gradient:
            classes = given.teacher["logits"].shape[-1]
            if given.num_classes != classes:
                raise UserError(
                    f"The teacher has {classes} classes and the data {given.num_classes}: use a teacher of "
                    "the data's classes, or set method.alpha and method.gradient to 0."
                )
        if self.beta:
            self._check_maps(feature_shapes(backbone, given.image_size), given.teacher)
        return Joined(backbone, {"classifier": Classifier(given.num_classes)})

    def loss(self, nets, params, model_state, aux, batch, clock, rng):
        def apply(x, train, keys=None):
            return nets.student.apply({"params": params, **model_state}, x, train, keys)

        def gradient(logits_of, x):
            """J, `[B, H, W, 3]`: no sample's logits depend on another sample, so one sum has all of them."""
            return jax.grad(lambda x: _cross_entropy(logits_of(x), batch.label).sum())(x)

        def gradient_of_student(x):
            return gradient(lambda x: apply(x, False)[0]["logits"], x)

        x = batch.views[0][:, 0]
        student, new_state = apply(x, True, batch.keys)
        terms = {"ce": (self.gamma, _cross_entropy(student["logits"], batch.label))}
        if self.alpha or self.beta:
            teacher = nets.teacher(x, (0,))
        if self.alpha:
            kd = losses.kd_loss(student["logits"], teacher["logits"], temperature=self.temperature)
            terms["kd"] = self.alpha, kd
        if self.beta:
            options = {"power": self.power, "reduce": self.reduce, "form": self.form}
            for name in self._maps(student, teacher):
                maps = losses.attention_transfer_loss(student[name], teacher[name], **options)
                terms[f"attention_{name}"] = self.beta, maps
        if self.gradient or self.symmetry:
            of_student = gradient_of_student(x)
        if self.gradient:
            of_teacher = jax.lax.stop_gradient(gradient(lambda x: nets.teacher(x)["logits"], x))
            terms["gradient"] = self.gradient, losses.input_gradient_loss(of_student, of_teacher)
        if self.symmetry:
            mirrored = _mirrored(gradient_of_student(_mirrored(x)))
            terms["symmetry"] = self.symmetry, losses.input_gradient_loss(of_student, mirrored)

        accuracy = hits(student["logits"], batch.label)
        metrics = {"accuracy": accuracy, **{name: term for name, (_, term) in terms.items()}}
        total = sum(weight * term.mean() for weight, term in terms.values())
        return total, LossOut(new_state, aux, metrics)

    def _maps(self, student, teacher) -> list[str]:
        """The names of the maps to compare, from the features of both networks or their shapes."""
        shared = stage_maps(teacher)
        return list(self.stages) or [name for name in stage_maps(student) if name in shared]

    def _check_maps(self, student, teacher):
        names = self._maps(student, teacher)
        if not names:
            raise UserError(
                "method.stages is empty, and student and teacher share no stage that is a map: use other "
                "networks."
            )
        for name in names:
            for who, features in (("student", student), ("teacher", teacher)):
                if name not in features or features[name].ndim != 4:
                    maps = sorted(key for key, x in features.items() if x.ndim == 4)
                    raise UserError(
                        f"method.stages: the {who} has no map {name!r}: it has {', '.join(maps) or 'none'}."
                    )
            sides = student[name].shape[1:3], teacher[name].shape[1:3]
            if any(max(pair) % min(pair) for pair in zip(*sides, strict=True)):
                own, other = ("x".join(map(str, side)) for side in sides)
                raise UserError(
                    f"method.stages: the student's {name} is {own} and the teacher's {other}, and neither "
                    "divides the other: name other stages, or set student.image_size or teacher.image_size."
                )


def _cross_entropy(logits, label):
    return optax.softmax_cross_entropy_with_integer_labels(logits, label)


def _mirrored(x):
    return x[:, :, ::-1]
