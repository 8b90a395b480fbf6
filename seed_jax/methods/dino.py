"""DINO: self-distillation with no labels (Caron et al., ICCV 2021, arXiv 2104.14294)."""

import dataclasses
import math
from typing import ClassVar

import jax
import jax.numpy as jnp
import optax
from jax import lax

from seed_jax.data import rng as rng_lib
from seed_jax.data.photometric import PRESETS
from seed_jax.errors import UserError, unknown
from seed_jax.losses.prototype import dino_loss, teacher_probabilities
from seed_jax.methods.base import (
    LossOut,
    Method,
    base_view,
    bound,
    check_local_size,
    check_local_views,
    local_view,
    without,
)
from seed_jax.models.heads import PrototypeHead
from seed_jax.models.network import Joined, for_views, without_dropout


@dataclasses.dataclass(frozen=True)
class DINO(Method):
    """From each view of an image, the student predicts how the teacher assigns its other views to prototypes.

    The teacher is an exponential moving average of the student, and sees the global views alone. A centre, a
    moving average of its outputs over the global batch, is subtracted from its outputs, and a low
    temperature sharpens them; together they keep images from all being assigned alike. The teacher's
    backbone is what is probed and exported, as eval_knn.py and eval_linear.py of facebookresearch/dino do by
    default.

    The teacher of a step is the average of the students before it, as in main_dino.py; the served one
    therefore lacks the last student, whose share the momentum schedule brings to 0. The teacher uses no
    dropout, and the statistics of its own batch in BatchNorm. We differ in one point: the head runs on each
    size of views apart, which changes nothing without `batch_norm`.

    Attributes:
      prototypes: K, width of the head's output.
      hidden, bottleneck: widths of the head's hidden layers and of the projection before the prototypes.
      batch_norm: normalise the head's hidden layers.
      tau_student: temperature of the student.
      tau_teacher: temperature of the teacher after its warm-up.
      tau_teacher_start: temperature of the teacher in the first epoch.
      tau_warmup_epochs: epochs of linear warm-up of tau_teacher, one value an epoch; 0 for none.
      momentum: momentum of the teacher's moving average at the start; it rises to 1 along half a cosine.
      center_momentum: momentum of the centre's moving average.
      freeze_epochs: epochs at the start in which the prototypes are not trained.
      global_views: views that teacher and student see, 2 in the paper; cut as the `data` section says.
      local_views: views that the student alone sees; 0 for none.
      local_size: side of a local view, pixels.
      local_scale: range of a local view's share of the image area.
      photometric_second: photometrics of all global views after the first, a key of
        `seed_jax.data.photometric.PRESETS`; the first has data.photometric.
      photometric_local: photometrics of the local views.
    """

    prototypes: int = 65_536
    hidden: int = 2048
    bottleneck: int = 256
    batch_norm: bool = False
    tau_student: float = 0.1
    tau_teacher: float = 0.07
    tau_teacher_start: float = 0.04
    tau_warmup_epochs: int = 30
    momentum: float = 0.996
    center_momentum: float = 0.9
    freeze_epochs: float = 1.0
    global_views: int = 2
    local_views: int = 8
    local_size: int = 96
    local_scale: tuple[float, float] = (0.05, 0.4)
    photometric_second: str = "dino_second"
    photometric_local: str = "dino_local"

    smoke: ClassVar = {"prototypes": 64, "hidden": 32, "bottleneck": 16, "local_views": 2, "local_size": 16}

    def check(self, data, train):
        bound(self, "global_views", "prototypes", least=2)
        bound(self, "tau_student", "tau_teacher", "tau_teacher_start", above=0)
        bound(self, "momentum", "center_momentum", least=0, most=1)
        bound(self, "hidden", "bottleneck", least=1)
        bound(self, "tau_warmup_epochs", "freeze_epochs", least=0)
        check_local_views(self)
        for name in ("photometric_second", "photometric_local"):
            if getattr(self, name) not in PRESETS:
                raise unknown(f"method.{name}", getattr(self, name), PRESETS)
        if train.ema:
            raise UserError(
                f"train.ema is {train.ema}, but dino serves the moving average that teaches: use "
                "--config.train.ema=0.0."
            )

    def views(self, data):
        first = base_view(data)
        second = dataclasses.replace(first, count=self.global_views - 1, photometric=self.photometric_second)
        local = local_view(self, data, self.photometric_local)
        return (first, second, local) if self.local_views else (first, second)

    def network(self, backbone, given):
        check_local_size(self, backbone, given.image_size)
        head = PrototypeHead(
            self.prototypes,
            self.hidden,
            self.bottleneck,
            self.batch_norm,
            bn_group=given.bn_group,
            dtype=given.dtype,
        )
        return Joined(backbone, {"head": head})

    def init_aux(self, rng, given, variables):
        return {"ema": jax.tree.map(jnp.copy, variables), "center": jnp.zeros(self.prototypes, jnp.float32)}

    def loss(self, nets, params, model_state, aux, batch, clock, rng):
        wide, count = jnp.concatenate(batch.views[:2], axis=1), self.global_views
        variables = {"params": params, **model_state}
        logits, model_state = _similarities(nets.student, variables, wide, batch.keys, 0)
        if self.local_views:
            variables = {"params": params, **model_state}
            small, model_state = _similarities(nets.student, variables, batch.views[2], batch.keys, count)
            logits = jnp.concatenate([logits, small])

        momentum = self.momentum_at((clock.step - 1) / clock.steps)
        average = optax.incremental_update(lax.stop_gradient(params), aux["ema"]["params"], 1 - momentum)
        teacher = without_dropout(nets.student)
        targets, ema_state = _similarities(teacher, aux["ema"] | {"params": average}, wide, batch.keys, 0)
        targets = lax.stop_gradient(targets)

        tau = self.tau_at(clock.epoch)
        losses = dino_loss(logits, targets, aux["center"], tau_student=self.tau_student, tau_teacher=tau)
        assigned = teacher_probabilities(targets, aux["center"], tau)
        metrics = {
            "teacher_entropy": _entropy(assigned).mean(axis=0),
            "batch_entropy": _entropy(assigned.mean(axis=(0, 1))),
            "tau_teacher": tau,
            "momentum": momentum,
        }
        center = optax.incremental_update(targets.mean(axis=(0, 1)), aux["center"], 1 - self.center_momentum)
        aux = {"ema": {**ema_state, "params": average}, "center": center}
        return losses.mean(), LossOut(model_state, aux, metrics)

    def momentum_at(self, progress: jax.Array) -> jax.Array:
        """Momentum of the teacher after that share of the run; `cosine_scheduler` of utils.py there."""
        return 1 - (1 - self.momentum) * 0.5 * (1 + jnp.cos(math.pi * jnp.clip(progress, 0.0, 1.0)))

    def tau_at(self, epoch: jax.Array) -> jax.Array:
        """Temperature of the teacher in an epoch, counted from 0; main_dino.py, class DINOLoss."""
        share = epoch / max(self.tau_warmup_epochs - 1, 1)
        warm = self.tau_teacher_start + (self.tau_teacher - self.tau_teacher_start) * share
        return jnp.where(epoch < self.tau_warmup_epochs, warm, self.tau_teacher)

    def served(self, variables, aux):
        return without(aux["ema"], ("head",))

    def late_epochs(self):
        return self.freeze_epochs

    def late(self, path):
        return path == ("head", "prototypes")


def _similarities(network, variables, views, keys, first):
    """The head's output for views `[B, V, H, W, 3]` in one forward, float32 `[V, B, K]`, and the new state.

    The views of an image are adjacent rows, so they stay on the image's device. A view's dropout is keyed by
    its index, counted from `first`, as its pixels are.
    """
    size, count = views.shape[:2]
    keys = jnp.stack([rng_lib.fold(keys, first + v) for v in range(count)], axis=1).reshape(-1)
    rows = views.reshape(-1, *views.shape[2:])
    features, state = for_views(network, count).apply(variables, rows, True, keys)
    return features["similarities"].reshape(size, count, -1).swapaxes(0, 1), state


def _entropy(p):
    """Of distributions `[..., K]`, in nats."""
    return jax.scipy.special.entr(p).sum(axis=-1)
