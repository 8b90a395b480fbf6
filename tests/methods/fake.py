"""A network that obeys the seam, is one matrix product, and remembers how it was called."""

import jax
import jax.numpy as jnp
import numpy as np

from seed_jax.methods.base import Batch, Clock, Given


class FakeNetwork:
    """`embedding` is the pixels times `w`; train mode counts in `batch_stats`; `calls` notes arguments."""

    mean = (0.5, 0.5, 0.5)

    def __init__(self, dim: int):
        self.dim = dim
        self.calls = []

    def init(self, rng, sample):
        w = jax.random.normal(rng, (sample[0].size, self.dim))
        return {"params": {"w": w}, "batch_stats": {"seen": jnp.zeros(())}}

    def apply(self, variables, x, train, keys=None):
        self.calls.append({"variables": variables, "x": x, "train": train, "keys": keys})
        state = {name: tree for name, tree in variables.items() if name != "params"}
        if train:
            state = {"batch_stats": {"seen": state["batch_stats"]["seen"] + 1}}
        return {"embedding": x.reshape(len(x), -1) @ variables["params"]["w"]}, state


CLOCK = Clock(jnp.int32(0), steps=10, steps_per_epoch=5)


def given(size: int, dim: int | None = None, num_classes: int = 4) -> Given:
    """A run of ten steps at batch `size`, with a teacher whose embedding is `dim` wide if there is one."""
    teacher = {"embedding": jax.ShapeDtypeStruct((size, dim), jnp.float32)} if dim else None
    return Given(size, num_classes, 2, 10, 5, teacher)


def batch(size: int, views: int = 1, side: int = 2, seed: int = 0) -> Batch:
    numbers = np.random.default_rng(seed)
    pixels = numbers.random((size, views, side, side, 3), np.float32)
    labels = jnp.asarray(numbers.integers(0, 4, size), jnp.int32)
    return Batch((jnp.asarray(pixels),), labels, jax.random.split(jax.random.key(seed), size))


def unit64(x):
    x = np.asarray(x, np.float64)
    return x / np.linalg.norm(x, axis=-1, keepdims=True)


def embed64(w, images):
    """What a FakeNetwork with weights `w` answers, normalised, in float64."""
    return unit64(np.asarray(images, np.float64).reshape(len(images), -1) @ np.asarray(w, np.float64))


def log_softmax64(logits):
    shifted = logits - logits.max(axis=1, keepdims=True)
    return shifted - np.log(np.exp(shifted).sum(axis=1, keepdims=True))
