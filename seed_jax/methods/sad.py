"""Self attention distillation: each stage imitates where the next one looks (Hou et al., ICCV 2019,
arXiv 1908.00821), here beside a classifier.
"""

import dataclasses
import functools
import re
from typing import ClassVar

import jax
import jax.numpy as jnp
import optax
from absl import logging

from seed_jax import losses
from seed_jax.errors import UserError
from seed_jax.methods.base import LossOut, Method, bound, feature_shapes, hits
from seed_jax.models.heads import Classifier
from seed_jax.models.network import Joined, stage_maps


@dataclasses.dataclass(frozen=True)
class SAD(Method):
    """CE + weight * the sum of `sad_loss` over the paths. It needs no teacher and adds no parameters.

    The distance is a sum over positions, as the authors say; ports that take the mean have another weight.
    Sums of squares over many channels are large, so that a softmax over positions is close to one position,
    and most of the map gets no gradient. The paper names no temperature against this, and we have none.
    Expect little in classification. winycg/Self-KD-Lib's README has 76.24 without it and 76.40 with it, for
    ResNet-18 on CIFAR-100, but its loss differs: features are resized before they are squared, channels are
    averaged before the softmax, the weight is 1000 of a mean, and the term trains from step 0.

    Attributes:
      weight: weight of the sum over the paths; 0.1 in the paper.
      paths: 'a-b' lets stage a imitate stage b, such as '2-3,3-4', the paper's best. () lets each of the last
        three stages imitate the next one: the paper's paths for four stages, '1-2,2-3' (ours) for three. The
        paper found that stage 1 of four and upward paths, such as '3-2', hurt.
      start: share of the run without the term. The paper starts at iteration 40,000 of 60,000.
      ramp: share of the run over which the weight then rises from 0, linearly; 0 for a jump. The paper does
        not say; the authors advise a rising weight (cardwing/Codes-for-Lane-Detection, issue 305).
      detach: stop the gradient of the imitated stage. The paper does not say; winycg/Self-KD-Lib stops it,
        InhwanBae/ENet-SAD_Pytorch does not.
    """

    weight: float = 0.1
    paths: tuple[str, ...] = ()
    start: float = 2 / 3
    ramp: float = 0.0
    detach: bool = True

    needs_labels: ClassVar = True

    def check(self, data, train):
        bound(self, "weight", least=0)
        bound(self, "start", "ramp", least=0, most=1)  # shares of the run
        if self.start == 1 or self.start + self.ramp > 1:
            raise UserError(
                f"method.start is {self.start} and method.ramp is {self.ramp}: use a start below 1 and a sum "
                "of at most 1, so that the run reaches the whole weight."
            )
        for path in self.paths:
            stages = re.fullmatch(r"(\d+)-(\d+)", path)
            if not stages or len({*stages.groups()}) < 2:
                raise UserError(f"method.paths has {path!r}: name two stages, such as '2-3'.")
            if int(stages[1]) > int(stages[2]):
                _warn(path)
        if len({*self.paths}) < len(self.paths):
            raise UserError(f"method.paths is {self.paths}: name each path once.")

    def network(self, backbone, given):
        self._stages(feature_shapes(backbone, given.image_size))
        return Joined(backbone, {"classifier": Classifier(given.num_classes)})

    def loss(self, nets, params, model_state, aux, batch, clock, rng):
        x = batch.views[0][:, 0]
        features, model_state = nets.student.apply({"params": params, **model_state}, x, True, batch.keys)
        ce = optax.softmax_cross_entropy_with_integer_labels(features["logits"], batch.label)
        accuracy = hits(features["logits"], batch.label)
        paths = {}
        for own, other in self._stages(features):
            target = jax.lax.stop_gradient(features[other]) if self.detach else features[other]
            paths[f"{own}_from_{other}"] = losses.sad_loss(features[own], target)
        weight = self.weight * self._share(clock.progress)
        total = ce.mean() + weight * sum(loss.mean() for loss in paths.values())
        return total, LossOut(model_state, aux, {"ce": ce, "accuracy": accuracy, **paths})

    def _share(self, progress):
        """Share of the weight at this progress of the run, float32 in [0, 1]."""
        since = progress - self.start
        return jnp.clip(since / self.ramp, 0, 1) if self.ramp else (since >= 0).astype(jnp.float32)

    def _stages(self, features) -> list[tuple[str, str]]:
        """The names of the two maps of each path, from the features or their shapes."""
        maps = stage_maps(features)
        if not self.paths:
            maps = maps[-3:]
            if len(maps) < 2:
                raise UserError("method.paths: the network has fewer than two maps to compare: use another.")
            return list(zip(maps, maps[1:], strict=False))
        pairs = [tuple(f"stage{number}" for number in path.split("-")) for path in self.paths]
        for path, pair in zip(self.paths, pairs, strict=True):
            for name in pair:
                if name not in maps:
                    raise UserError(
                        f"method.paths has {path!r}, and the network has no map {name}: it has "
                        f"{', '.join(maps) or 'none'}."
                    )
        return pairs


@functools.cache
def _warn(path: str) -> None:
    """Once for each path."""
    deep, shallow = path.split("-")
    logging.warning(
        "method.paths has '%s', which lets the deeper stage %s imitate stage %s: the paper found that this "
        "hurts; '%s-%s' is the other direction.",
        path, deep, shallow, shallow, deep,
    )  # fmt: skip
