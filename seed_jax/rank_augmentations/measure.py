"""T.stddev of every augmentation: one teacher, the same batches for all."""

import dataclasses
import functools
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from seed_jax.analysis import ChunkMeans, stddev_of_means, t_stddev_difference, t_stddev_interval
from seed_jax.data import images as images_lib
from seed_jax.data import mixing, photometric, rng
from seed_jax.data.augmentations import AUGMENTATIONS, augment
from seed_jax.data.pipeline import train_batches
from seed_jax.data.sources import Source
from seed_jax.data.views import ViewSpec
from seed_jax.errors import UserError
from seed_jax.methods.base import unit
from seed_jax.methods.kd import PICKED
from seed_jax.train.teacher import Frozen, Loaded

NAMES, IDENTITY = (*AUGMENTATIONS, PICKED), "identity"
BATCH, STEPS = 64, 5  # a chunk: 64 originals and 64 augmented images of each of 5 steps
SEEN = BATCH * STEPS  # images of a chunk, without repeats
FEWEST = 5  # chunks, however little time there is
BANK, TEMPERATURE = 16, 0.07  # batches of the bank, and what cosines are divided by, without a classifier


@dataclasses.dataclass(frozen=True)
class Measured:
    """What was measured of one augmentation.

    Attributes:
      name: of the augmentation.
      means: float64 `[K, C]`, the teacher's mean probability over each chunk.
      entropy: of the teacher's probabilities of the augmented images, nats, averaged.
      seconds: for augmenting and for the teacher, without the first batch, which compiles.
    """

    name: str
    means: np.ndarray
    entropy: float
    seconds: float

    @functools.cached_property
    def t_stddev(self) -> float:
        return stddev_of_means(self.means)

    @functools.cached_property
    def interval(self) -> tuple[float, float]:
        """95 % interval of T.stddev, by a bootstrap over the chunks."""
        return t_stddev_interval(self.means)

    @property
    def uncertain(self) -> bool:
        """Whether the entropy is within 5 % of that of a uniform distribution."""
        return self.entropy > 0.95 * np.log(self.means.shape[1])

    def above(self, other: "Measured") -> tuple[float, float, float]:
        """How far this T.stddev is above that of `other`, and the 95 % interval of the difference."""
        return t_stddev_difference(self.means, other.means)


class Original(NamedTuple):
    """A batch before the augmentation: images float32 `[B, H, W, 3]`, labels int32 `[B]` (-1 for none), the
    keys of its samples, its step.
    """

    images: jax.Array
    labels: np.ndarray
    keys: jax.Array
    step: int


def paper(size: int) -> tuple[str, ...]:
    """The paper's augmentations for images of this side, pixels: another policy above 64.

    CutMixPick by the student's entropy is left out, since it needs a student that is trained.
    """
    policy = "autoaugment_cifar10" if size <= 64 else "autoaugment_imagenet"
    return (IDENTITY, "flip", "crop_flip", "cutout", policy, "mixup", "cutmix", PICKED)


def originals(source: Source, view: ViewSpec, seed: int, background=images_lib.WHITE) -> Iterator[Original]:
    """Batches of 64 images, cropped and flipped as a run would, endlessly.

    Raises:
      UserError: the images fill fewer than two chunks.
    """
    if len(source) < 2 * SEEN:
        raise UserError(
            f"The data has too few images, {len(source)}: a chunk of T.stddev sees {SEEN} different ones, so "
            f"use at least {2 * SEEN}, better {10 * SEEN}."
        )

    @jax.jit
    def seen(pixels, ids, passes):
        keys = rng.sample_keys(rng.stream(seed, "sample"), ids, passes)
        x, _ = photometric.augment(view.photometric, pixels, rng.fold(keys, 0), view.flip)
        return x[:, 0], rng.fold(keys, 1)

    for step, batch in enumerate(train_batches(source, (view,), BATCH, seed, background=background)):
        images, keys = seen(batch["views"][0], batch["id"], batch["pass_"])
        yield Original(images, batch["label"], keys, step)


def accuracy(respond: Callable, batches: Sequence[Original]) -> float:
    """Share of the labelled images whose label is the teacher's most probable class; NaN without labels."""
    labels = np.concatenate([x.labels for x in batches])
    first = np.concatenate([np.argmax(respond(x.images), axis=1) for x in batches])
    return float(np.mean((first == labels)[labels >= 0]))


def responses(loaded: Loaded, batches: Iterator[Original], size: int) -> Callable:
    """The teacher's probabilities, a function from images `[B, H, W, 3]` to log probabilities `[B, C]`.

    Without a classifier they are the softmax of cosines with the embeddings of the first 16 batches, which
    are taken from `batches`.
    """
    frozen = Frozen(loaded.network, loaded.variables)
    if "logits" in loaded.features(2, size):
        return jax.jit(lambda x: jax.nn.log_softmax(frozen(x)["logits"].astype(jnp.float32)))
    embed = jax.jit(lambda x: unit(frozen(x)["embedding"]))
    bank = jnp.concatenate([embed(next(batches).images) for _ in range(BANK)])
    compare = jax.jit(lambda z: jax.nn.log_softmax(z @ bank.T / TEMPERATURE))
    return lambda x: compare(embed(x))


def measure(
    respond: Callable,
    batches: Iterator[Original],
    names: Sequence[str],
    *,
    chunks: int,
    limit: float = float("inf"),
    seed: int,
    fill: Sequence[float],
    draw: str = "batch",
    released: bool = False,
    done: Callable = lambda: None,
) -> list[Measured]:
    """Measure augmentations on the same batches, with the same keys; lowest T.stddev first.

    Args:
      respond: from `responses`.
      batches: from `originals`.
      names: of `NAMES`.
      chunks: at least 2.
      limit: seconds after the first batch, which compiles; then no chunk begins, except the first five.
      fill: colour of erased pixels, `[3]`: the one that the teacher normalises to 0.
      draw: 'batch' draws an augmentation once for the whole batch, as the released code does; 'image' for
        each image.
      released: as for `augment`.
      done: called after each chunk.
    """
    began, compiling = time.perf_counter(), True
    augmented = {name: _augmented(name, fill, draw, released) for name in names}
    streams = {name: ChunkMeans(2 * BATCH * STEPS) for name in names}
    entropies: Mapping[str, list[float]] = {name: [] for name in names}
    seconds = dict.fromkeys(names, 0.0)
    for chunk in range(chunks):
        if chunk >= FEWEST and time.perf_counter() - began > limit:
            break
        for _ in range(STEPS):
            original = next(batches)
            of_originals = np.asarray(respond(original.images))
            key = jax.random.fold_in(rng.stream(seed, "step"), original.step)
            for name in names:
                started = time.perf_counter()
                log_p = of_originals
                if name != IDENTITY:
                    log_p = _respond(name, respond, augmented[name](original.images, key, original.keys))
                streams[name].add(np.exp(of_originals))
                streams[name].add(np.exp(log_p))
                entropies[name].append(float(-(np.exp(log_p) * log_p).sum(axis=1).mean()))
                seconds[name] += time.perf_counter() - started
            if compiling:
                began, compiling, seconds = time.perf_counter(), False, dict.fromkeys(names, 0.0)
        done()
    measured = [
        Measured(name, streams[name].means, float(np.mean(entropies[name])), seconds[name]) for name in names
    ]
    return sorted(measured, key=lambda one: one.t_stddev)


def _augmented(name: str, fill: Sequence[float], draw: str, released: bool) -> Callable:
    """A jitted function from images, the key of the step and the keys of the samples to images."""

    def apply(images, key, keys):
        keys = None if draw == "batch" else rng.fold(keys, 1)
        if name == PICKED:
            return mixing.cutmix_pool(images, key, keys).images
        return augment(name, images, key, keys, fill=jnp.asarray(fill), released=released)

    return jax.jit(apply)


def _respond(name: str, respond: Callable, images: jax.Array) -> np.ndarray:
    """Log probabilities of 64 images: those with the highest entropy, if there is a pool."""
    log_p = np.concatenate([np.asarray(respond(part)) for part in jnp.split(images, len(images) // BATCH)])
    return log_p[np.asarray(mixing.pick("teacher_entropy", log_p, n_pick=BATCH))] if name == PICKED else log_p
