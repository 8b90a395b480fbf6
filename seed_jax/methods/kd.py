"""Distillation of a classifier's response, with the augmentation that suits it.

Hinton et al., "Distilling the knowledge in a neural network", arXiv 1503.02531; Wang et al., "What makes a
'good' data augmentation in knowledge distillation", NeurIPS 2022, arXiv 2012.02909. The losses of other
papers are terms of the same sum (`TERMS`).
"""

import dataclasses
from collections.abc import Callable
from typing import Any, ClassVar, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import optax

from seed_jax import losses
from seed_jax.data import mixing
from seed_jax.data.augmentations import AUGMENTATIONS, augment
from seed_jax.errors import UserError, unknown
from seed_jax.methods import crd, queue
from seed_jax.methods.base import LossOut, Method, bound, hits, without
from seed_jax.models.heads import Classifier, Regressor
from seed_jax.models.network import Joined

PICKED, FITNET = "cutmix_pick", "fitnet"
MIXING = ("mixup", "cutmix", PICKED)


class Term(NamedTuple):
    """A loss of two networks' features of one batch.

    Attributes:
      of: `of(student, teacher, label, temperature)`; it returns `[B]`, or a scalar if it compares samples.
      compares_samples: a micro-batch has another loss.
    """

    of: Callable
    compares_samples: bool = False


def _last_map(features):
    return features[max(name for name in features if name.startswith("stage"))]


TERMS = {
    "kd": Term(lambda s, t, label, T: losses.kd_loss(s["logits"], t["logits"], temperature=T)),
    "dkd": Term(lambda s, t, label, T: losses.dkd_loss(s["logits"], t["logits"], label, temperature=T)),
    "dist": Term(lambda s, t, label, T: losses.dist_loss(s["logits"], t["logits"], temperature=T), True),
    "sp": Term(lambda s, t, label, T: losses.sp_loss(_last_map(s), _last_map(t)), True),
    "pkt": Term(lambda s, t, label, T: losses.pkt_loss(s["pooled"], t["pooled"]), True),
    "rkd": Term(lambda s, t, label, T: losses.rkd_loss(s["pooled"], t["pooled"]), True),
    FITNET: Term(lambda s, t, label, T: losses.fitnet_loss(s["regressed"], t["hint"])),
}


@dataclasses.dataclass(frozen=True)
class KD(Method):
    """gamma CE(x) + sum of weight [L(x) + L(x')], where x' is an augmented x that the teacher labels.

    Student and teacher see the same x and the same x'. The student has a forward pass for each, so that
    BatchNorm takes statistics of each and updates its running ones twice a step. CE sees x alone.

    Attributes:
      losses: the weight of each loss, by its name in `TERMS`, or 'crd', which sees x alone. As published for
        CIFAR-100, with gamma 1 unless stated: kd 0.9 with gamma 0.1; dkd 1 (beta 8) with
        `warmup_epochs` 20 of 240; dist 2; fitnet 100; sp 3000; pkt 30000; rkd 1; crd 0.8, alone or with kd
        1; kd 9 at temperature 2 with `standardise` and gamma 0.1. The weight of crd suits the form with
        memory banks; ours has queues (`methods/crd.py`).
      gamma: weight of the cross entropy; 0 needs no labels.
      warmup_epochs: epochs over which the weights of `losses` rise linearly, at every step; in
        megvii-research/mdistiller, which does this for dkd, once an epoch. 0 for full weights from the start.
      temperature: T of kd, dkd and dist.
      hint: the stage whose map 'fitnet' regresses.
      queue_size: past embeddings that 'crd' compares with, a multiple of the batch size.
      dim: width of the embeddings of 'crd'.
      standardise: standardise the logits of both networks first (Sun et al., arXiv 2403.01427).
      augment: how x' is made, a name of `data/augmentations.py`, or 'cutmix_pick'; '' for no x'. Erased
        pixels get
        the colour that the student normalises to 0.
      draw: 'batch' draws an augmentation once for the batch, as the released code does; 'image' for each
        image.
      both: False leaves out L(x): with gamma 0 and 'mixup' this is FunMatch (Beyer et al., arXiv 2106.05237).
      average: weight L(x) and L(x') by a half each; the paper adds them up.
      criterion: how 'cutmix_pick' chooses images (`mixing.CRITERIA`).
      runs: number of CutMix runs whose images form the pool of 'cutmix_pick'.
      n_pick: images that 'cutmix_pick' keeps (all of the smaller pool of a shorter batch); 0 keeps the share
        `pick_ratio`.
      pick_ratio: share of the pool that is kept if `n_pick` is 0; above 0 and up to 1.
      released: round pixels down to whole levels and use torchvision 0.10's rules, as the released code does.
    """

    losses: dict = dataclasses.field(default_factory=lambda: {"kd": 0.9})
    gamma: float = 0.1
    warmup_epochs: float = 0.0
    temperature: float = 4.0
    hint: int = 2
    queue_size: int = 16_384
    dim: int = 128
    standardise: bool = False
    augment: str = ""
    draw: str = "batch"
    both: bool = True
    average: bool = False
    criterion: str = "teacher_entropy"
    runs: int = 2
    n_pick: int = 0
    pick_ratio: float = 0.5
    released: bool = False

    needs_teacher: ClassVar = True
    smoke: ClassVar = {"queue_size": 64}

    @property
    def needs_labels(self) -> bool:
        return self.gamma > 0 or "dkd" in self.losses

    @property
    def without_labels(self) -> str:
        return "" if "dkd" in self.losses else "method.gamma=0"

    def check(self, data, train):
        for name, weight in self.losses.items():
            if name not in (*TERMS, crd.NAME):
                raise unknown("method.losses", name, (*TERMS, crd.NAME))
            if not isinstance(weight, (int, float)) or weight < 0:
                raise UserError(f"method.losses: the weight of {name} is {weight!r}: use 0 or more.")
        if not self.losses:
            raise UserError("method.losses is empty: name a loss and its weight, such as {'kd': 0.9}.")
        bound(self, "gamma", least=0)
        bound(self, "warmup_epochs", least=0)
        bound(self, "temperature", above=0)
        if self.draw not in ("batch", "image"):
            raise unknown("method.draw", self.draw, ("batch", "image"))
        if self.augment not in ("", PICKED, *AUGMENTATIONS):
            raise unknown("method.augment", self.augment, (PICKED, *AUGMENTATIONS))
        if not self.both and not self.augment:
            raise UserError("method.both is False, and there is no method.augment: name one.")
        if self.augment in MIXING and data.batch_size < 2:
            raise UserError(
                f"method.augment is '{self.augment}', which needs two images to mix, and data.batch_size is "
                f"{data.batch_size}: use --config.data.batch_size=2 or more."
            )
        if self.augment == PICKED:
            self._check_picks(data)
        if crd.NAME in self.losses:
            queue.check_batches(data)
            bound(self, "dim", least=1)
            if not self.both:
                raise UserError("method.losses has crd, which sees x alone: use --config.method.both=True.")
            if self.augment and len(self.losses) == 1:
                raise UserError(
                    "method.losses has crd alone, which does not see method.augment: add another loss, as in "
                    "{'crd': 0.8, 'kd': 1.0}."
                )

    def _check_picks(self, data):
        if self.criterion not in mixing.CRITERIA:
            raise unknown("method.criterion", self.criterion, mixing.CRITERIA)
        bound(self, "runs", least=1)
        pool = self.runs * data.batch_size
        if not 0 <= self.n_pick <= pool:
            raise UserError(
                f"method.n_pick is {self.n_pick}, and the pool has {pool} images: use 1 to {pool}, or 0 for "
                "method.pick_ratio."
            )
        if not 0 < self.pick_ratio <= 1:
            raise UserError(f"method.pick_ratio is {self.pick_ratio}: use a share above 0 and up to 1.")

    def whole_batch(self):
        if any(name == crd.NAME or TERMS[name].compares_samples for name in self.losses):
            return "a loss of method.losses compares samples"
        return "method.augment mixes samples" if self.augment in MIXING else ""

    def network(self, backbone, given):
        classes = given.teacher["logits"].shape[-1]
        if given.num_classes not in (0, classes):
            raise UserError(
                f"The teacher has {classes} classes and the data {given.num_classes}: use a teacher of the "
                "data's classes."
            )
        return Joined(backbone, {"classifier": Classifier(classes), **self._helpers(given)})

    def _helpers(self, given) -> dict[str, nn.Module]:
        """Parts that only the losses need."""
        parts = {}
        if FITNET in self.losses:
            stage = f"stage{self.hint}"
            shape = given.teacher[stage].shape if stage in given.teacher else ()
            if len(shape) != 4:
                raise UserError(
                    f"method.hint is {self.hint}, and the teacher has no map {stage} for fitnet to regress: "
                    "use another stage, or another loss."
                )
            parts[FITNET] = Regressor(shape[3], shape[1], of=stage, bn_group=given.bn_group)
        if crd.NAME in self.losses:
            parts[crd.NAME] = crd.Maps(given.teacher["pooled"].shape[-1], self.dim)
        return parts

    def init_aux(self, rng, given, variables):
        if crd.NAME not in self.losses:
            return {}
        return crd.init(self.queue_size, given.batch_size, self.dim)

    def served(self, variables, aux):
        return without(variables, (FITNET, crd.NAME))

    def loss(self, nets, params, model_state, aux, batch, clock, rng):
        def forward(x, model_state, keys):
            return nets.student.apply({"params": params, **model_state}, x, True, keys)

        x = batch.views[0][:, 0]
        total, metrics = 0.0, {}
        if self.both or self.gamma:
            student, model_state = forward(x, model_state, batch.keys)
        if self.gamma:
            ce = optax.softmax_cross_entropy_with_integer_labels(student["logits"], batch.label)
            accuracy = hits(student["logits"], batch.label)
            total, metrics = self.gamma * ce.mean(), {"ce": ce, "accuracy": accuracy}
        share = self._rise(clock) * (0.5 if self.average and self.both and self.augment else 1.0)
        if self.both:
            teacher = nets.teacher(x, (0,))
            terms = self._terms(student, teacher, batch.label)
            metrics |= terms
            total += share * self._sum(terms)
            if crd.NAME in self.losses:
                metrics[crd.NAME], aux = crd.loss(params[crd.NAME], student, teacher, aux)
                total += self._rise(clock) * self.losses[crd.NAME] * metrics[crd.NAME].mean()
        if self.augment:
            again, teacher, own, keys, model_state = self._augmented(
                x, nets, forward, model_state, batch, rng
            )
            student, model_state = forward(again, model_state, keys)
            terms = self._terms(student, teacher, batch.label[own])
            metrics |= {f"augmented_{name}": jnp.mean(term) for name, term in terms.items()}
            total += share * self._sum(terms)
        return total, LossOut(model_state, aux, metrics)

    def _terms(self, student, teacher, label) -> dict[str, jax.Array]:
        if self.standardise:
            student, teacher = (
                {**features, "logits": losses.standardise_logits(features["logits"])}
                for features in (student, teacher)
            )
        if FITNET in self.losses:
            teacher = {**teacher, "hint": teacher[f"stage{self.hint}"]}
        names = [name for name in self.losses if name in TERMS]
        return {name: TERMS[name].of(student, teacher, label, self.temperature) for name in names}

    def _rise(self, clock) -> jax.Array | float:
        if not self.warmup_epochs:
            return 1.0
        return jnp.minimum(1.0, (clock.step + 1) / (self.warmup_epochs * clock.steps_per_epoch))

    def _sum(self, terms: dict[str, jax.Array]) -> jax.Array:
        return sum(self.losses[name] * jnp.mean(term) for name, term in terms.items())

    def _augmented(self, x, nets, forward, model_state, batch, rng) -> tuple[Any, ...]:
        """x', the teacher's features of it, the rows of x that it stems from, their keys, the model state."""
        keys = None if self.draw == "batch" else jax.vmap(lambda key: jax.random.fold_in(key, 1))(batch.keys)
        if self.augment != PICKED:
            fill = jnp.asarray(nets.student.mean)
            again = augment(self.augment, x, rng, keys, fill=fill, released=self.released)
            return again, nets.teacher(again), jnp.arange(len(x)), batch.keys, model_state
        pool = mixing.cutmix_pool(x, rng, keys, runs=self.runs)
        teacher, student = nets.teacher(pool.images), None
        if self.criterion != "teacher_entropy":
            features, model_state = forward(pool.images, model_state, batch.keys[pool.own])
            student = features["logits"]
        best = mixing.pick(
            self.criterion,
            teacher["logits"],
            student,
            n_pick=min(self.n_pick, len(pool.images)) or None,
            ratio=self.pick_ratio,
            temperature=self.temperature,
        )
        own = pool.own[best]
        teacher = {name: entry[best] for name, entry in teacher.items()}
        return pool.images[best], teacher, own, batch.keys[own], model_state
