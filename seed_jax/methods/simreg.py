"""SimReg: regression of the teacher's feature (Navaneet et al., BMVC 2021); also SEED's l2 strategy."""

import dataclasses
from typing import ClassVar

import jax.numpy as jnp

from seed_jax.data.photometric import PRESETS
from seed_jax.errors import UserError, unknown
from seed_jax.methods.base import (
    VECTORS,
    LossOut,
    Method,
    base_view,
    bound,
    feature_shapes,
    unit,
    without,
)
from seed_jax.models.heads import ProjectionHead
from seed_jax.models.network import Joined

PARTS = ("projector", "predictor")
LAYERS = (1, 2, 4)


@dataclasses.dataclass(frozen=True)
class SimReg(Method):
    """Squared distance of the student's prediction and the teacher's feature, both scaled to length 1.

    That is 2 - 2 cos. The prediction is that of an MLP behind `pooled`, which is dropped after training
    (UCDvision/simreg, simreg.py and mlp_arch.py). With four layers, the MLP is a projector and a predictor of
    two layers each: Linear, norm, ReLU, Linear, with nothing between the two. We differ from the released
    code in three points. Its MLP of two layers has no norm and no ReLU, so it is linear. Its `mse_nonorm`
    leaves both features at length 1, so it changes nothing; `normalise=False` here does not scale them. Its
    `linear_pred` fails; one layer here is a Linear alone.

    SEED's l2 strategy (arXiv 2101.04731, table 4) is `target='embedding', layers=2, batch_norm=False`, with
    `hidden` the width of the student's pooled feature.

    Attributes:
      target: teacher feature that is regressed, 'pooled' or 'embedding'.
      layers: Linear layers of the MLP: 4, 2 or 1.
      hidden: width of its hidden layers; 0 for twice the width of the pooled feature. The layer between
        projector and predictor is as wide as the pooled feature.
      batch_norm: normalise before each ReLU.
      normalise: scale prediction and target to length 1; False for the plain squared distance.
      photometric_teacher: photometrics of a separate view for the teacher, a key of
        `seed_jax.data.photometric.PRESETS`, such as 'none' for a weak one; '' if both see the same view.
    """

    target: str = "pooled"
    layers: int = 4
    hidden: int = 0
    batch_norm: bool = True
    normalise: bool = True
    photometric_teacher: str = ""

    needs_teacher: ClassVar = True

    def check(self, data, train):
        if self.target not in VECTORS:
            raise unknown("method.target", self.target, VECTORS)
        if self.layers not in LAYERS:
            raise UserError(f"method.layers is {self.layers}: use 1, 2 or 4.")
        bound(self, "hidden", least=0)
        if self.photometric_teacher and self.photometric_teacher not in PRESETS:
            raise unknown("method.photometric_teacher", self.photometric_teacher, PRESETS)

    def views(self, data):
        view = base_view(data)
        if not self.photometric_teacher:
            return (view,)
        return (view, dataclasses.replace(view, photometric=self.photometric_teacher))

    def network(self, backbone, given):
        pooled = feature_shapes(backbone, given.image_size)["pooled"].shape[-1]
        dim = given.teacher[self.target].shape[-1]
        hidden = self.hidden or 2 * pooled
        same = {"batch_norm": self.batch_norm, "bn_group": given.bn_group, "dtype": given.dtype}
        if self.layers < 4:
            predictor = ProjectionHead(hidden, dim, self.layers, out="prediction", **same)
            return Joined(backbone, {"predictor": predictor})
        projector = ProjectionHead(hidden, pooled, out="projected", **same)
        predictor = ProjectionHead(hidden, dim, of="projected", out="prediction", **same)
        return Joined(backbone, {"projector": projector, "predictor": predictor})

    def loss(self, nets, params, model_state, aux, batch, clock, rng):
        x, last = batch.views[0][:, 0], len(batch.views) - 1
        features, model_state = nets.student.apply({"params": params, **model_state}, x, True, batch.keys)
        prediction = features["prediction"].astype(jnp.float32)
        target = nets.teacher(batch.views[last][:, 0], (last,))[self.target].astype(jnp.float32)
        cosine = (unit(prediction) * unit(target)).sum(axis=1)
        if self.normalise:
            prediction, target = unit(prediction), unit(target)
        losses = jnp.square(prediction - target).sum(axis=1)
        return losses.mean(), LossOut(model_state, aux, {"teacher_cosine": cosine})

    def served(self, variables, aux):
        return without(variables, PARTS)
