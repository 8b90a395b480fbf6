"""FRSKD: refine myself by teaching myself (Ji et al., CVPR 2021, arXiv 2103.08273).

A self-teacher (`models/bifpn.py`) refines the stages of the backbone and is trained with it. The backbone
learns from its logits and from where its maps are active. Source of the code's choices: MingiJi/FRSKD,
classification.
"""

import dataclasses
from typing import ClassVar

import jax
import optax

from seed_jax import losses
from seed_jax.data import transforms
from seed_jax.errors import unknown
from seed_jax.methods import mixed
from seed_jax.methods.base import LossOut, Method, bound, hits, without
from seed_jax.methods.sla import JOINT, joint_cross_entropy
from seed_jax.models.all_views import apply_views
from seed_jax.models.bifpn import UPSAMPLING, SelfTeacher, activated
from seed_jax.models.heads import Classifier
from seed_jax.models.network import Joined

DETACH = ("paper", "code")
TEACHER, TEACHER_JOINT = "self_teacher", "self_teacher_joint"


@dataclasses.dataclass(frozen=True)
class FRSKD(Method):
    """CE(student) + CE(self-teacher) + alpha KD + beta sum over stages of the distance of attention maps.

    KD is T^2 KL(self-teacher || student). The attention maps are those of the backbone's stages that the
    self-teacher reads (`models.bifpn.activated`), and those of its own maps. Their distance is the code's
    mean of squares (`attention_transfer_loss`), for which beta is meant; the paper writes a norm. KD and maps
    train the backbone alone. The plain network is served.

    With several views (FRSKD+SLA) a second forward pass sees all views of each image. Student and
    self-teacher each get a classifier of joint labels (`methods/sla.py`). Added to the loss are their cross
    entropies, and lambda times the KD that teaches each one's logits by its own aggregate. The KD between the
    two is then the mean over logits and aggregates, and the attention maps are compared on the image and on
    each view, all with the same weight. This is the code's form.

    Attributes:
      alpha: weight of KD; published: 2 for CIFAR-100, 3 for other data.
      beta: weight of the attention maps; published: 100, and 200 for fine-grained data. 0 is FRSKD\\F.
      temperature: T of KD; 4 in paper and code.
      detach: 'paper': the self-teacher trains the backbone by KD and maps alone. 'code': also by its cross
        entropy, since there its input is not detached.
      width: channels of the self-teacher as a multiple of the backbone's (BiFPNc); 2 in the paper.
      channels: channels of every level (BiFPN), 256 in the paper; 0 for `width` instead.
      depth: convolutions of a node; 2 in the paper.
      upsample: 'nearest' is the code's, 'bilinear' the paper's.
      mix: 'mixup', 'cutmix' or 'either' mixes the images of a batch and their labels (`methods/mixed.py`); ''
        does not. The code does not mix with several views; here the views are made of the mixed images.
      rotations, colours: rotations and colour permutations, see `sla`; FRSKD+SLA has 4 and 1, FRSKD 1 and 1.
      sla: lambda of FRSKD+SLA; 1 as published.
    """

    alpha: float = 2.0
    beta: float = 100.0
    temperature: float = 4.0
    detach: str = "paper"
    width: int = 2
    channels: int = 0
    depth: int = 2
    upsample: str = "nearest"
    mix: str = ""
    rotations: int = 1
    colours: int = 1
    sla: float = 1.0

    needs_labels: ClassVar = True

    def check(self, data, train):
        bound(self, "alpha", "beta", "channels", "sla", least=0)
        bound(self, "width", "depth", least=1)
        bound(self, "temperature", above=0)
        if self.detach not in DETACH:
            raise unknown("method.detach", self.detach, DETACH)
        if self.upsample not in UPSAMPLING:
            raise unknown("method.upsample", self.upsample, UPSAMPLING)
        transforms.check(self.rotations, self.colours)
        mixed.check(self.mix, data)

    def whole_batch(self):
        return mixed.reason(self.mix)

    def network(self, backbone, given):
        teacher = SelfTeacher(
            given.num_classes,
            width=self.width,
            channels=self.channels,
            depth=self.depth,
            upsample=self.upsample,
            detach=self.detach == "paper",
            bn_group=given.bn_group,
            dtype=given.dtype,
        )
        parts = {"classifier": Classifier(given.num_classes), TEACHER: teacher}
        if self._views > 1:
            joint = given.num_classes * self._views
            parts[JOINT] = Classifier(joint, out="joint_logits")
            parts[TEACHER_JOINT] = Classifier(joint, of="teacher_pooled", out="teacher_joint_logits")
        return Joined(backbone, parts)

    def served(self, variables, aux):
        return without(variables, (TEACHER, JOINT, TEACHER_JOINT))

    @property
    def _views(self) -> int:
        return self.rotations * self.colours

    def loss(self, nets, params, model_state, aux, batch, clock, rng):
        x, over_labels = mixed.mix(self.mix, batch.views[0][:, 0], batch.label, rng)
        features, model_state = nets.student.apply({"params": params, **model_state}, x, True, batch.keys)
        student, teacher = features["logits"], features["teacher_logits"]

        def accuracy(logits):
            return over_labels(lambda y: hits(logits, y))

        def cross_entropy(logits):
            return over_labels(lambda y: optax.softmax_cross_entropy_with_integer_labels(logits, y))

        terms = {
            "ce": cross_entropy(student),
            "teacher_ce": cross_entropy(teacher),
        }
        if self.alpha:
            terms["kd"] = self._kd(student, teacher)
        if self.beta:
            terms["attention"] = attention(features)
        weights = {"kd": self.alpha, "attention": self.beta, "sla": self.sla}
        if self._views > 1:
            views = transforms.transform(x, self.rotations, self.colours)
            turned, model_state = apply_views(
                nets.student, {"params": params, **model_state}, views, True, batch.keys
            )
            ours, theirs = turned["joint_logits"], turned["teacher_joint_logits"]
            terms["joint_ce"] = over_labels(lambda y: joint_cross_entropy(ours, y))
            terms["teacher_joint_ce"] = over_labels(lambda y: joint_cross_entropy(theirs, y))
            ours, theirs = losses.aggregate(ours), losses.aggregate(theirs)
            if self.sla:
                terms["sla"] = self._kd(student, ours) + self._kd(teacher, theirs)
            if self.alpha:
                terms["kd"] = (terms["kd"] + self._kd(ours, theirs)) / 2
            if self.beta:
                of_views = jax.vmap(attention, in_axes=1, out_axes=1)(turned).sum(axis=1)
                terms["attention"] = (terms["attention"] + of_views) / (1 + self._views)
        total = sum(weights.get(name, 1.0) * term for name, term in terms.items())
        metrics = terms | {"accuracy": accuracy(student), "teacher_accuracy": accuracy(teacher)}
        return total.mean(), LossOut(model_state, aux, metrics)

    def _kd(self, student, teacher):
        return losses.kd_loss(student, teacher, temperature=self.temperature)


def attention(features) -> jax.Array:
    """The distances of the attention maps of all stages, backbone to self-teacher, float32 `[B]`, summed up.

    Args:
      features: of a backbone with a `SelfTeacher`.
    """
    return sum(
        losses.attention_transfer_loss(activated(features, name.removeprefix("teacher_")), target)
        for name, target in features.items()
        if name.startswith("teacher_stage")
    )
