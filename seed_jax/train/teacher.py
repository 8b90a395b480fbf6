"""The frozen teacher: loaded once, before anything is compiled, and never trained."""

import dataclasses
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp

from seed_jax import config, models, parallel
from seed_jax.data import rng
from seed_jax.errors import UserError
from seed_jax.models.fold import fold
from seed_jax.models.heads import PooledEmbedding, ProjectionHead
from seed_jax.models.network import Features, Joined, Network
from seed_jax.models.sections import Cut
from seed_jax.weights import pretrained


@dataclasses.dataclass(frozen=True)
class Loaded:
    """A teacher: its network, its variables (arrays or shapes), and where they came from."""

    network: Network
    variables: Any
    provenance: dict

    def features(self, batch_size: int, image_size: int) -> dict[str, jax.ShapeDtypeStruct]:
        """Shapes and dtypes of the teacher's features for a batch of square images."""
        x = _images(batch_size, image_size)
        return jax.eval_shape(lambda v, x: self.network.apply(v, x, False)[0], self.variables, x)


@dataclasses.dataclass(frozen=True)
class Frozen:
    """The teacher as a loss calls it (`methods.base.Teacher`): eval mode, no gradient to its variables."""

    network: Network
    variables: Any

    def __call__(self, x: jax.Array, views: Sequence[int] | None = None) -> Features:
        with jax.named_scope("teacher"):
            return self.network.apply(jax.lax.stop_gradient(self.variables), x, False)[0]


def load(t: config.Teacher, *, image_size: int, seed: int, precision: str) -> Loaded:
    """The teacher that the config names: what `pretrained.load` takes, or random weights.

    Raises:
      UserError: there are no such weights, or they cannot be read.
    """
    if not t.weights:
        raise UserError(
            "teacher.weights is empty: set the teacher's checkpoint or workdir with "
            "--config.teacher.weights=PATH."
        )
    if t.weights == "random":
        network = undrawn(t, precision)
        sample = jnp.zeros((2, image_size, image_size, 3), jnp.float32)
        variables = parallel.jit_once(network.init)(rng.stream(seed, "teacher"), sample)
        return prepare(Loaded(network, variables, {"source": "random weights"}), image_size)
    weights = pretrained.load_named(
        t.weights,
        model=t.model,
        options=t.options,
        size=t.image_size,
        precision=precision,
        part="teacher",
        where="teacher.weights",
    )
    return prepare(Loaded(weights.network, weights.variables, weights.provenance), image_size)


def undrawn(t: config.Teacher, precision: str) -> Joined:
    """The network that the config describes, with a head of `dim`; it has no weights yet."""
    if not t.model:
        raise UserError("teacher.model is empty: name the architecture by --config.teacher.model.")
    backbone = models.create(t.model, size=t.image_size or None, precision=precision, **t.options)
    return Joined(backbone, {"head": ProjectionHead(dim=t.dim)})


def prepare(loaded: Loaded, image_size: int) -> Loaded:
    """A loaded teacher, prepared for the step. Whatever speeds it up belongs here.

    What is constant in eval mode is folded into its kernels (`models/fold.py`). A teacher without a head gets
    its pooled feature as its embedding.

    Raises:
      UserError: it is one exit of a network.
    """
    if isinstance(loaded.network, Cut):
        raise UserError(
            f"teacher.weights: {loaded.provenance['source']} has one exit of a network, which cannot teach: "
            "use the workdir of its run."
        )
    variables = fold(loaded.network, loaded.variables, _images(2, image_size))
    loaded = dataclasses.replace(loaded, variables=variables)
    if "embedding" in loaded.features(2, image_size):
        return loaded
    parts = {**loaded.network.parts, "embedding": PooledEmbedding()}
    return dataclasses.replace(loaded, network=dataclasses.replace(loaded.network, parts=parts))


def _images(batch_size: int, side: int) -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct((batch_size, side, side, 3), jnp.float32)
