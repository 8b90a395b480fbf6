"""Answer each image by the first exit that is confident, and compute no more than that for it."""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from seed_jax.exits.sweep import confidence
from seed_jax.models.exits import classifiers
from seed_jax.models.network import Network, Variables
from seed_jax.models.sections import Section


class Answer(NamedTuple):
    """What a batch was answered.

    Attributes:
      logits: float32 `[B, C]`, of the exit where each image left.
      exits: int `[B]`, that exit, counted from 0.
    """

    logits: np.ndarray
    exits: np.ndarray


def sections(network: Network, entries, size: int) -> list[Section]:
    """The sections between the exits of a network, shallowest first: each ends at an exit and its stage.

    Args:
      network: with exits, as `methods.byot` joins them.
      entries: names of its features.
      size: side of the images, pixels.
    """
    *shallow, deepest = classifiers(entries)
    stages = [name.removesuffix("_logits").replace("exit", "stage") for name in shallow]
    ends = [*zip(shallow, stages, strict=True), (deepest,)]
    return [Section(network, size, end, start) for end, start in zip(ends, ["", *stages], strict=True)]


def adaptive(
    network: Network, variables: Variables, *, size: int, threshold: float
) -> Callable[[np.ndarray], Answer]:
    """A function that runs the network section by section on the images that are not yet confident.

    The host decides between two compiled sections which images go on. They are padded to a power of two, so
    that a section is compiled for few batch sizes.

    >>> answer = adaptive(run.network, run.variables, size=32, threshold=0.9)  # doctest: +SKIP
    >>> answer(images).exits  # doctest: +SKIP
    array([0, 2, 0, 1])

    Args:
      network, variables: with exits: of a run, or of a file with all exits (`seed_jax.load`).
      size: side of the images, pixels.
      threshold: an image leaves at the first exit whose largest probability is above it.

    Returns:
      A function of images `[B, size, size, 3]`, uint8, or float in [0, 1].
    """
    images = jax.ShapeDtypeStruct((1, size, size, 3), jnp.float32)
    entries = jax.eval_shape(lambda v, x: network.apply(v, x, False)[0], variables, images)
    parts = sections(network, entries, size)
    steps = [(jax.jit(part), jax.device_put(part.keep(variables)), part.ends) for part in parts]
    classes = entries[parts[-1].ends[0]].shape[-1]

    def answer(images):
        images = np.asarray(images)
        x = images.astype(np.float32) / (255 if images.dtype == np.uint8 else 1)
        logits, exits = np.zeros((len(x), classes), np.float32), np.zeros(len(x), int)
        rows, chosen = np.arange(len(x)), np.arange(len(x))
        for number, (run, arrays, ends) in enumerate(steps):
            if not len(rows):
                break
            features = run(arrays, x[_padded(chosen)])
            found = np.asarray(features[ends[0]])[: len(rows)]
            sure = confidence(found) > threshold
            if number == len(steps) - 1:
                sure[:] = True
            logits[rows[sure]], exits[rows[sure]] = found[sure], number
            chosen = np.flatnonzero(~sure)
            rows = rows[chosen]
            x = features[ends[-1]]
        return Answer(logits, exits)

    return answer


def _padded(chosen: np.ndarray) -> np.ndarray:
    """Indices of rows, the last one repeated up to a power of two."""
    return np.pad(chosen, (0, (1 << (len(chosen) - 1).bit_length()) - len(chosen)), mode="edge")
