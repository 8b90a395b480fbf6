"""What a method is: one paper, one file, one frozen dataclass whose fields are the paper's hyper-
parameters.
"""

import dataclasses
import enum
from collections.abc import Callable
from typing import Any, Protocol

import jax
import jax.numpy as jnp
from flax import struct

from seed_jax.data.pipeline import ViewSpec
from seed_jax.models.network import Network

PyTree = Any


class TeacherNeed(enum.Enum):
    """What a method asks of its teacher."""

    NONE = "none"
    EMBEDDING = "embedding"


@struct.dataclass
class Batch:
    """What the loss sees of a batch.

    Attributes:
      views: one float32 `[B, V, H, W, 3]` in [0, 1] for each ViewSpec.
      label: int32 `[B]`, -1 where there is none.
      keys: one PRNG key a sample, `[B]`, for dropout.
    """

    views: tuple
    label: jax.Array
    keys: jax.Array


@struct.dataclass
class LossOut:
    """What a loss gives besides its value; each metric is `[B]` or a scalar."""

    model_state: PyTree
    aux: PyTree
    metrics: dict


@dataclasses.dataclass(frozen=True)
class Nets:
    """The two seams a loss calls, as often as its paper does.

    `student.apply({'params': p, **model_state}, x, train, keys)` gives features and the new model state;
    `teacher(x)` gives the features of the frozen teacher in eval mode, without a gradient.
    """

    student: Network
    teacher: Callable[[jax.Array], dict] | None


@dataclasses.dataclass(frozen=True)
class Info:
    """What `init_aux` may need: global batch size, the student's variables, the teacher's width."""

    batch_size: int
    variables: PyTree
    teacher_dim: int | None


class Method(Protocol):
    """The contract between a paper and the trainer."""

    teacher: TeacherNeed
    needs_labels: bool

    def check(self, data, train) -> None:
        """Raise `UserError` for settings of those sections that the method cannot work with."""

    def views(self, data) -> tuple[ViewSpec, ...]:
        """The views of an image that the loss sees, from the data section of the config."""

    def network(self, backbone: Network, num_classes: int, teacher_dim: int | None) -> Network:
        """The backbone together with whatever is trained with it."""

    def init_aux(self, rng: jax.Array, info: Info) -> PyTree:
        """What is carried from step to step but not trained by gradient."""

    def loss(self, nets: Nets, params, model_state, aux, batch: Batch, rng) -> tuple[jax.Array, LossOut]:
        """The scalar loss of a batch. `rng` is a key of the step, for choices that are not about one
        sample.
        """

    def frozen(self, path: tuple[str, ...]) -> bool:
        """Whether the parameter at this path is not trained; it gets no optimizer slots."""


def unit(x: jax.Array) -> jax.Array:
    """Rows `[B, D]` scaled to length 1, float32, safe at 0 (torch's F.normalize, eps 1e-12)."""
    x = x.astype(jnp.float32)
    return x * jax.lax.rsqrt(jnp.maximum(jnp.sum(x * x, axis=-1, keepdims=True), 1e-24))


def base_view(data, count: int = 1) -> ViewSpec:
    """The ViewSpec that the data section of the config describes."""
    return ViewSpec(
        count=count,
        size=data.image_size,
        scale=tuple(data.crop_scale),
        flip=data.flip,
        photometric=data.photometric,
    )
