"""The fast linear probe: softmax regression on cached features, all learning rates of a sweep at once."""

import dataclasses
import functools
from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np
import optax

from seed_jax import rng
from seed_jax.errors import UserError
from seed_jax.evals.features import check

LEARNING_RATES = (0.001, 0.003, 0.01, 0.03, 0.1, 0.3, 1.0)


@dataclasses.dataclass(frozen=True)
class LinearProbe:
    """A linear classifier of raw features: `features @ kernel + bias`.

    `kernel` is float32 `[D, C]`, `bias` float32 `[C]`; `lr` gave `val_accuracy`, the validation top-1.
    """

    kernel: np.ndarray
    bias: np.ndarray
    lr: float
    val_accuracy: float = float("nan")

    def accuracy(self, features: np.ndarray, labels: np.ndarray, top: int = 1) -> float:
        """Share in [0, 1] of the examples whose class has one of the `top` largest logits.

        Equal logits rank by class number. Features are `[N, D]`, labels int `[N]`.

        Raises:
          UserError: a label is missing, or a feature is not finite.
        """
        features, labels = check(features, labels, "probed")
        logits = features @ self.kernel + self.bias
        own = np.take_along_axis(logits, labels[:, None], axis=1)
        earlier = np.arange(logits.shape[1]) < labels[:, None]
        rank = np.sum((logits > own) | ((logits == own) & earlier), axis=1)
        return float(np.mean(rank < top))


def fit(
    train_features: np.ndarray,
    train_labels: np.ndarray,
    val_features: np.ndarray,
    val_labels: np.ndarray,
    *,
    num_classes: int,
    lrs: Sequence[float] = LEARNING_RATES,
    epochs: int = 100,
    batch_size: int = 256,
    seed: int = 0,
) -> LinearProbe:
    """The probe of the learning rate with the best validation top-1; of equals, the first in `lrs`.

    SGD with momentum 0.9, no weight decay, the rate times 0.1 after 60 % and 80 % of the epochs, as in MoCo's
    `main_lincls.py`. Unlike there, the features are standardised by the training mean and variance, as by the
    BatchNorm before the classifier of MAE (He et al. 2022, arXiv 2111.06377, §A.1): the useful rates are then
    the same for all networks, whereas on raw features they differ a hundredfold (30 for MoCo, 0.3 for SwAV).
    Standardisation is folded into the returned kernel and bias.

    This is a quick check without augmentation. The papers' linear evaluation is a training run of its own.

    Args:
      train_features: float `[N, D]`; with labels int `[N]` in `[0, num_classes)`.
      val_features: `[M, D]`, apart from both the training examples and those on which accuracy is reported.
      seed: of the order of the examples. Each epoch is a permutation without its incomplete last batch.

    Raises:
      UserError: a label is missing or too large, a feature is not finite, or there is no learning rate.
    """
    x, labels = check(train_features, train_labels, "training")
    val_x, val_labels = check(val_features, val_labels, "validation")
    if max(labels.max(), val_labels.max()) >= num_classes:
        raise UserError(
            f"there are labels beyond num_classes = {num_classes}; set it to the data set's number."
        )
    if not lrs:
        raise UserError("lrs is empty; name at least one learning rate.")

    mean, variance = x.mean(axis=0, dtype=np.float64), x.var(axis=0, dtype=np.float64)
    # The small share of the mean variance keeps channels that hardly vary from being blown up.
    scale = np.sqrt(variance + 1e-8 * variance.mean() + 1e-12)
    kernels, biases = _train(
        ((x - mean) / scale).astype(np.float32),
        labels,
        np.array(lrs, np.float32),
        rng.stream(seed, "linear probe"),
        num_classes=num_classes,
        epochs=epochs,
        batch_size=min(batch_size, len(x)),
    )
    probes = []
    for kernel, bias, lr in zip(np.asarray(kernels), np.asarray(biases), lrs, strict=True):
        raw = kernel / scale[:, None]
        probe = LinearProbe(raw.astype(np.float32), (bias - mean @ raw).astype(np.float32), float(lr))
        probes.append(dataclasses.replace(probe, val_accuracy=probe.accuracy(val_x, val_labels)))
    return max(probes, key=lambda probe: probe.val_accuracy)


@functools.partial(jax.jit, static_argnames=("num_classes", "epochs", "batch_size"))
def _train(x, labels, lrs, key, *, num_classes, epochs, batch_size):
    """Kernels `[L, D, C]` and biases `[L, C]` after training at each of the learning rates `[L]`."""
    steps = len(x) // batch_size

    def loss(params, index):
        logits = (
            jnp.matmul(x[index], params["kernel"], precision=jax.lax.Precision.HIGHEST)
            + params["bias"][None, :]
        )
        return jnp.mean(optax.softmax_cross_entropy_with_integer_labels(logits, labels[index]))

    def train(lr):
        def epoch(carry, number):
            order = jax.random.permutation(jax.random.fold_in(key, number), len(x))
            decay = jnp.where(number >= 0.6 * epochs, 0.1, 1.0) * jnp.where(number >= 0.8 * epochs, 0.1, 1.0)

            def step(carry, index):
                params, velocity = carry
                velocity = jax.tree.map(lambda v, g: 0.9 * v + g, velocity, jax.grad(loss)(params, index))
                return (jax.tree.map(lambda p, v: p - lr * decay * v, params, velocity), velocity), None

            return jax.lax.scan(step, carry, order[: steps * batch_size].reshape(steps, batch_size))

        zeros = {"kernel": jnp.zeros((x.shape[1], num_classes)), "bias": jnp.zeros(num_classes)}
        (params, _), _ = jax.lax.scan(epoch, (zeros, zeros), jnp.arange(epochs))
        return params["kernel"], params["bias"]

    return jax.vmap(train)(lrs)
