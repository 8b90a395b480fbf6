"""The frozen teacher: found before anything is compiled, loaded once, never trained."""

import dataclasses
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp

from seed_jax import config, models, parallel, rng, weights, workdir
from seed_jax.errors import UserError
from seed_jax.models.heads import ProjectionHead
from seed_jax.models.network import Joined, Network


@dataclasses.dataclass(frozen=True)
class Loaded:
    """A teacher: its network, its variables, the width of its embedding, and where it came from."""

    network: Network
    variables: Any
    dim: int
    provenance: dict


def load(t: config.Teacher, *, image_size: int, seed: int, precision: str) -> Loaded:
    """The teacher that the config names: a run's workdir, a PyTorch checkpoint, or random weights.

    Raises:
      UserError: there is no such file, it is neither, or its embedding does not exist.
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
    elif Path(t.weights).is_dir():
        run = workdir.load_run(t.weights, precision=precision)
        network, variables = run.network, run.variables
        provenance = {"source": t.weights, "step": run.step, "started": run.manifest["started"]}
    else:
        network, variables = _from_file(t, precision)
        provenance = {"source": t.weights, "sha256": weights.sha256(t.weights)}
    sample = jax.ShapeDtypeStruct((2, image_size, image_size, 3), jnp.float32)
    features, _ = jax.eval_shape(lambda v, x: network.apply(v, x, False), variables, sample)
    if "embedding" not in features:
        raise UserError(
            f"teacher.weights ({t.weights}) has no embedding head: use a run of a self-supervised method, "
            "or a checkpoint with its head."
        )
    return Loaded(network, variables, features["embedding"].shape[1], provenance)


def _from_file(t: config.Teacher, precision: str):
    found = weights.recognise(t.weights, part="teacher")
    if t.model not in ("", found.arch):
        known = found.arch in models.MODELS
        way_out = f"use --config.teacher.model={found.arch}" if known else "give another file"
        raise UserError(f"teacher.model is '{t.model}', but {t.weights} holds {found}: {way_out}.")
    network = found.network(precision=precision, **t.options)
    return network, weights.load(t.weights, network, part="teacher")
