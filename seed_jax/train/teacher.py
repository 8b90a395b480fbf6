"""The frozen teacher: found before anything is compiled, loaded once, never trained."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp

from seed_jax import config, models, parallel, pretrained, rng
from seed_jax.errors import UserError
from seed_jax.models.heads import PooledEmbedding, ProjectionHead
from seed_jax.models.network import Joined, Network


@dataclasses.dataclass(frozen=True)
class Loaded:
    """A teacher: its network, its variables, the width of its embedding, and where it came from."""

    network: Network
    variables: Any
    dim: int
    provenance: dict


def load(t: config.Teacher, *, image_size: int, seed: int, precision: str) -> Loaded:
    """The teacher that the config names: what `pretrained.load` takes, or random weights.

    The embedding of a teacher without a head is its pooled feature.

    Raises:
      UserError: there is no such file, or it is none of these.
    """
    if not t.weights:
        raise UserError(
            "teacher.weights is empty: give the teacher's checkpoint or workdir by "
            "--config.teacher.weights=PATH."
        )
    if t.weights == "random":
        network = Joined(
            models.create(t.model, size=t.image_size or None, precision=precision, **t.options),
            {"head": ProjectionHead(dim=t.dim)},
        )
        sample = jnp.zeros((2, image_size, image_size, 3), jnp.float32)
        variables = parallel.jit_once(network.init)(rng.stream(seed, "teacher"), sample)
        provenance = {"source": "random weights"}
    else:
        found = pretrained.load(
            t.weights,
            model=t.model,
            options=t.options,
            size=t.image_size,
            precision=precision,
            part="teacher",
        )
        network, variables, provenance = found.network, found.variables, found.provenance
    sample = jax.ShapeDtypeStruct((2, image_size, image_size, 3), jnp.float32)
    features, _ = jax.eval_shape(lambda v, x: network.apply(v, x, False), variables, sample)
    if "embedding" not in features:
        network = dataclasses.replace(network, parts={**network.parts, "embedding": PooledEmbedding()})
        features["embedding"] = features["pooled"]
    return Loaded(network, variables, features["embedding"].shape[1], provenance)
