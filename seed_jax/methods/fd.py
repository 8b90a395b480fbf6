"""Feature distillation: a fresh network imitates the tokens of a frozen teacher, and then fine-tunes better.

Wei et al., "Contrastive Learning Rivals Masked Image Modeling in Fine-tuning via Feature Distillation",
arXiv 2205.14141; "Improving CLIP Fine-tuning Performance", ICCV 2023. Source of the code's choices:
SwinTransformer/Feature-Distillation, models/feature_distillation.py.
"""

import dataclasses
import math
import re
from typing import Any, ClassVar, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp

from seed_jax import losses
from seed_jax.errors import UserError, unknown
from seed_jax.losses.feature import DISTANCES, NORMALISATIONS
from seed_jax.methods.base import LossOut, Method, bound, feature_shapes, without
from seed_jax.models import layers
from seed_jax.models.network import Joined, stage_maps

TARGETS = ("tokens", "cls", "pooled", "logits")
PROJECTOR, PROJECTED = "projector", "projected"


@dataclasses.dataclass(frozen=True)
class FD(Method):
    """Mean over tokens of the distance of the student's projected tokens to the teacher's normalised ones.

    Both networks see the same view. The teacher's tokens come after its own final norm (but not with
    `pool='mean'`, which has none on tokens) and are normalised once more; the student's go through one
    Linear, which is left behind.

    When to choose it. The students are better than their teachers when they are fine-tuned, by 0.2 (MAE) to
    2.0 points (CLIP) of ImageNet's top-1, and may be worse when they stay frozen: DINO's linear probe falls
    from 78.2 to 76.1 (the first from DINO's README, the second from a reading note on the paper; the other
    teachers' probes are not confirmed). configs/finetune_fd.py has the numbers side by side and fine-tunes
    teacher and student alike; configs/linear_mae.py probes both. CLIP's gain is to be judged against
    configs/finetune_clip.py: fine-tuned well, CLIP itself reaches 85.7 where its student has 84.9.

    A convolutional network's last map is taken as the tokens of its grid, without a cls token. The cls token
    counts if both networks have one; registers never do. If the grids differ, the student's is resized to the
    teacher's (bilinear; antialiased where it shrinks).

    The relatives differ in the fields below: Proteus has the distance 'mse', EVA 'cosine', both without
    normalisation, UNIC and AM-RADIO 'mix'. Their masks and further teachers are not here.

    Attributes:
      target: 'tokens': the map, and the cls token if both networks have one. 'cls' or 'pooled': that one
        vector of both networks, where 'pooled' is the mean over patches, and a student without a cls token
        has its `pooled` instead. 'logits': the teacher's, from the student's `pooled`.
      normalise: how the teacher's tokens are normalised: 'layernorm', the paper's whitening; 'l2',
        'standardise' or 'none'
        (`losses.normalise_tokens`).
      distance: 'smooth_l1', the paper's; 'mse', 'cosine' or 'mix' (`losses.token_distances`).
      beta: beta of the smooth L1; 2 in the released code.
      mix: share of the cosine in 'mix'.
      cls_weight: weight of the cls token relative to a patch; 1 in the released code.
      final_norm: take the teacher's tokens after its final norm, as every released config does. They are then
        normalised twice, with the gains of the first norm in between. False takes them before it.
      parity: refuse whatever the released code cannot do. It pairs token i with token i, so registers, a cls
        token in one network alone, other grids and maps are refused. It takes tokens after the final norm, so
        pool='mean' is refused, too. The fields above must have their defaults, which are its values. What
        else differs is set elsewhere: their code reads EsViT's student instead of the teacher, with epsilon
        1e-5 where EsViT has 1e-6 (teacher.options.epsilon); with CLIP for 100 epochs it crops from 0.67
        (data.crop_scale). Its fine-tuning drops the student's final norm (student.options.pool='mean') and
        validates with CLIP's mean and std where it trains with ImageNet's, which we do not do.
    """

    target: str = "tokens"
    normalise: str = "layernorm"
    distance: str = "smooth_l1"
    beta: float = 2.0
    mix: float = 0.9
    cls_weight: float = 1.0
    final_norm: bool = True
    parity: bool = False

    needs_teacher: ClassVar = True

    def check(self, data, train):
        known = {"target": TARGETS, "normalise": NORMALISATIONS, "distance": DISTANCES}
        for name, values in known.items():
            if getattr(self, name) not in values:
                raise unknown(f"method.{name}", getattr(self, name), values)
        bound(self, "beta", "cls_weight", least=0)
        bound(self, "mix", least=0, most=1)
        for field in dataclasses.fields(self) if self.parity else ():
            value = getattr(self, field.name)
            if field.name != "parity" and value != field.default:
                raise UserError(
                    f"method.parity is set and method.{field.name} is {value!r}, where the released code has "
                    f"{field.default!r}: use that, or leave method.parity at False."
                )

    def check_teacher(self, network):
        if self.parity:
            _check_norm(network, "teacher")

    def whole_batch(self):
        standardised = self.normalise == "standardise"
        return "method.normalise standardises over the batch" if standardised else ""

    def network(self, backbone, given):
        shapes = feature_shapes(backbone, given.image_size)
        entry = self._entry(shapes, backbone.prefix_tokens)
        imitated = self._imitated(given.teacher, given.teacher_prefix)
        befores = backbone.prefix_tokens, given.teacher_prefix
        for tokens, before in zip((shapes[entry], imitated), befores, strict=True):
            _check_grid(tokens.shape, before)
        if self.parity:
            _check_norm(backbone, "student")
            _check_parity(shapes[entry].shape, imitated.shape, befores)
        return Joined(backbone, {PROJECTOR: Projector(imitated.shape[-1], entry, given.dtype)})

    def served(self, variables, aux):
        return without(variables, (PROJECTOR,))

    def loss(self, nets, params, model_state, aux, batch, clock, rng):
        x = batch.views[0][:, 0]
        features, model_state = nets.student.apply({"params": params, **model_state}, x, True, batch.keys)
        befores = nets.student.prefix_tokens, nets.teacher_prefix
        imitated = self._imitated(nets.teacher(x, (0,)), befores[1])
        student, target, weights = self._pair(features[PROJECTED], imitated, befores)
        target = losses.normalise_tokens(jax.lax.stop_gradient(target), self.normalise)
        options = {"distance": self.distance, "beta": self.beta, "mix": self.mix}
        distances, apart = (
            (losses.token_distances(student, target, **of) * weights[None]).sum(axis=1)
            for of in (options, {"distance": "cosine"})
        )
        return distances.mean(), LossOut(model_state, aux, {"fd": distances, "cosine": 1 - apart})

    def _entry(self, student, before) -> str:
        """The student's entry that is projected, from the shapes of its features and its prefix tokens."""
        if self.target == "logits" or (self.target == "cls" and not before):
            return "pooled"
        if "tokens" in student:
            return "tokens"
        if self.target == "pooled":
            return "pooled"
        maps = stage_maps(student)
        if not maps:
            raise UserError(
                "method.target is 'tokens', and the student has neither tokens nor a map: use 'pooled'."
            )
        return maps[-1]

    def _imitated(self, teacher, before):
        """The teacher's entry that is imitated, from its features or their shapes and its prefix tokens."""
        maps = stage_maps(teacher)
        if self.target == "logits" or (self.target == "pooled" and "tokens" not in teacher):
            return teacher[self.target]
        if self.target == "cls" and not before:
            raise UserError("method.target is 'cls', and the teacher has no cls token: use 'pooled'.")
        if "tokens" not in teacher and maps:
            return teacher[maps[-1]]
        return teacher["tokens" if self.final_norm else _last_stage(teacher)]

    def _pair(self, projected, imitated, befores):
        """Tokens of the student and of the teacher, `[B, T, C]`, and the weight of each, `[T]`, sum 1.

        `befores`: the prefix tokens of both.
        """
        both = list(zip((projected, imitated), befores, strict=True))
        if self.target == "pooled":
            return *(_mean(*x) for x in both), jnp.ones(1)
        if self.target != "tokens":
            return *(x[:, :1] if x.ndim == 3 else x[:, None] for x, _ in both), jnp.ones(1)
        own, theirs = (_split(*x) for x in both)
        grid = theirs.patches.shape[1:3]
        if own.patches.shape[1:3] != grid:
            shape = (len(projected), *grid, projected.shape[-1])
            own = own._replace(patches=jax.image.resize(own.patches, shape, "linear"))
        pair = [x.patches.reshape(len(projected), -1, projected.shape[-1]) for x in (own, theirs)]
        weights = jnp.ones(pair[0].shape[1])
        if own.cls is not None and theirs.cls is not None:
            tokens = zip((own, theirs), pair, strict=True)
            pair = [jnp.concatenate([x.cls, patches], axis=1) for x, patches in tokens]
            weights = jnp.concatenate([jnp.array([self.cls_weight]), weights])
        return *pair, weights / weights.sum()


class Projector(nn.Module):
    """One Linear from the channels of the entry `of` to `width`: the entry `projected`, float32."""

    width: int
    of: str
    dtype: Any

    @nn.compact
    def __call__(self, features, train: bool, keys=None):
        del train, keys
        x = features[self.of]
        linear = layers.torch_linear(self.width, x.shape[-1], "linear", self.dtype)
        return {PROJECTED: linear(x).astype(jnp.float32)}


class Tokens(NamedTuple):
    """The cls token, `[B, 1, C]` or None, and the patches, `[B, rows, columns, C]`, of tokens or of a map."""

    cls: jax.Array | None
    patches: jax.Array


def _split(x, before: int) -> Tokens:
    """Of tokens `[B, T, C]`, a square grid after `before` other tokens, or of a map `[B, H, W, C]`."""
    if x.ndim == 4:
        return Tokens(None, x)
    side = math.isqrt(x.shape[1] - before)
    patches = x[:, before:].reshape(len(x), side, side, -1)
    return Tokens(x[:, :1] if before else None, patches)


def _mean(x, before: int):
    """The mean over the patches of tokens, `[B, 1, C]`; a vector, `[B, C]`, is taken as it is."""
    return x[:, None] if x.ndim == 2 else _split(x, before).patches.mean(axis=(1, 2))[:, None]


def _last_stage(features) -> str:
    names = [name for name in features if re.fullmatch(r"stage\d+", name)]
    return max(names, key=lambda name: int(name.removeprefix("stage")))


def _check_grid(shape, before: int) -> None:
    """Raise `UserError` unless tokens `[B, T, C]` are a square grid after the first `before`."""
    patches = shape[1] - before if len(shape) == 3 else 0
    if math.isqrt(patches) ** 2 != patches:
        raise UserError(
            f"method.name is 'fd', and a network has {patches} patches, which are not a square: use square "
            "images."
        )


def _check_norm(network, who: str) -> None:
    """Raise `UserError` if the tokens of a network do not come after its final norm."""
    while isinstance(network, Joined):
        network = network.backbone
    if getattr(getattr(network, "module", None), "pool", "") == "mean":
        raise UserError(
            f"method.parity is set, and the {who} has pool='mean', so no final norm of its tokens, where the "
            f"released code takes those after it: use another {who}, or leave method.parity at False."
        )


def _check_parity(student, teacher, befores) -> None:
    """Raise `UserError` unless both entries are tokens that pair up one by one, from their shapes."""
    alike = len(student) == len(teacher) == 3 and student[1] == teacher[1]
    if not alike or befores not in ((0, 0), (1, 1)):
        raise UserError(
            f"method.parity is set, and the released code cannot pair {_said(student, befores[0])} of the "
            f"student with {_said(teacher, befores[1])} of the teacher: use networks of equal grids, or "
            "leave method.parity at False."
        )


def _said(shape, before: int) -> str:
    if len(shape) != 3:
        return f"a map {list(shape[1:])}"
    return f"{shape[1]} tokens ({before} of them before the grid)"
