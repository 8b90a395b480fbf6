"""Loss and accuracy of the network that a run serves, at other parameters than its own."""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from seed_jax.analysis import recomputed_statistics
from seed_jax.analysis.runs import Options, Run
from seed_jax.analysis.sections.needs import labelled, lacks_classes
from seed_jax.analysis.weight_noise import STATISTICS

KEPT, RECOMPUTED = "statistics kept", "statistics recomputed"
RIGHT, LOSS = "right", "loss"


class Scored(NamedTuple):
    """What `scored` returns.

    Attributes:
      evaluate: `(params, *arguments)` -> sums over the images: `RIGHT`, how many are classified right, int32
        `[kinds]`, and `LOSS`, the cross-entropy in nats, float32 `[kinds]`.
      params: those of the run.
      arguments: further arguments of `evaluate`, on the device.
      kinds: `KEPT` and, if the network has BatchNorm, `RECOMPUTED`.
      count: of the images.
    """

    evaluate: Callable[..., dict[str, jax.Array]]
    params: Any
    arguments: tuple
    kinds: list[str]
    count: int


def scored(run: Run, options: Options, *, seen: int) -> Scored:
    """How the network that a run serves scores at any parameters, as a function that jax can trace.

    It scores the labelled images of `options`. BatchNorm's statistics are kept as they were trained, or
    recomputed for the parameters on images of the training split, without augmentation.

    Args:
      seen: how many images statistics are recomputed on, at most, but one batch at least: they all stay on
        the device.

    Raises:
      UserError: the data cannot be read.
    """
    network, variables = run.served
    params = variables["params"]
    model_state = {name: tree for name, tree in variables.items() if name != "params"}
    kinds = [KEPT, *([RECOMPUTED] if STATISTICS in model_state else [])]
    size = min(run.config.data.batch_size, len(run.train))
    images = labelled(run, options)
    # Batches of the run's size, so that BatchNorm's groups divide them.
    padding = -len(images.label) % size
    pixels = np.pad(images.image, ((0, padding), (0, 0), (0, 0), (0, 0)))
    labels = np.pad(images.label, (0, padding), constant_values=-1)
    batches = [pixels.reshape(-1, size, *pixels.shape[1:]), labels.reshape(-1, size)]
    if RECOMPUTED in kinds:
        train = run.images("train", max(size, min(options.samples or seen, seen))).image
        batches.append(train[: len(train) // size * size].reshape(-1, size, *train.shape[1:]))
    keys = jax.random.split(jax.random.key(0), size)  # for dropout while the statistics are recomputed

    def apply(params, state, images, train):
        x = images.astype(jnp.float32) / 255
        return network.apply({"params": params, **state}, x, train, keys if train else None)

    def evaluate(params, state, images, labels, *train):
        def score(state):
            def add(total, batch):
                logits = apply(params, state, batch[0], False)[0]["logits"].astype(jnp.float32)
                right = (logits.argmax(axis=1) == batch[1]).sum()
                of_label = jnp.take_along_axis(jax.nn.log_softmax(logits), batch[1][:, None], axis=1)[:, 0]
                loss = -jnp.where(batch[1] >= 0, of_label, 0).sum()
                return {RIGHT: total[RIGHT] + right, LOSS: total[LOSS] + loss}, None

            return jax.lax.scan(add, {RIGHT: jnp.int32(0), LOSS: jnp.float32(0)}, (images, labels))[0]

        states = [state]
        if train:
            states.append(
                recomputed_statistics(lambda s, batch: apply(params, s, batch, True)[1], state, *train)
            )
        return jax.tree.map(lambda *kinds: jnp.stack(kinds), *map(score, states))

    arguments = jax.device_put((model_state, *batches))
    return Scored(evaluate, params, arguments, kinds, len(images.label))


def lacks_classifier(run: Run, options: Options) -> str:
    """What `having` says of a run without labels or a classifier of them."""
    if not run.given.num_classes:
        return "has data without labels, so there is no accuracy to measure"
    found = run.entries(*run.served)
    if "logits" not in found or found["logits"].shape[1] != run.given.num_classes:
        return "has no classifier of its data's classes, so there is no accuracy to measure"
    return lacks_classes(run, options)


def alone(runs: Sequence[Run], what: str) -> list[str]:
    """A sentence for each run that also answers by all views, which `scored` does not ask for."""
    return [
        f"{run.name} also answers by all views of an image; {what} is measured for the image alone."
        for run in runs
        if "aggregated_logits" in run.entries(*run.served)
    ]
