"""The fast linear probe: softmax regression on extracted features, at several learning rates at once."""

import dataclasses
import functools
from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np
import optax

from seed_jax.data import rng
from seed_jax.errors import UserError
from seed_jax.evals.features import check
from seed_jax.evals.top1 import correct

LEARNING_RATES = (0.001, 0.003, 0.01, 0.03, 0.1, 0.3, 1.0)


@dataclasses.dataclass(frozen=True)
class LinearProbe:
    """A linear classifier of raw features: `features @ kernel + bias`.

    Attributes:
      kernel: float32 `[D, C]`.
      bias: float32 `[C]`.
      lr: the learning rate it was trained at.
      val_accuracy: its top-1 accuracy on the validation set, in [0, 1].
    """

    kernel: np.ndarray
    bias: np.ndarray
    lr: float
    val_accuracy: float = float("nan")

    def accuracy(self, features: np.ndarray, labels: np.ndarray) -> float:
        """Top-1 accuracy in [0, 1]: the share of the examples that are `correct`.

        >>> probe = LinearProbe(np.eye(2), np.zeros(2), lr=0.1)
        >>> probe.accuracy(np.array([[3.0, 1.0], [2.0, 5.0]]), np.array([0, 0]))
        0.5
        """
        return float(np.mean(self.correct(features, labels)))

    def correct(self, features: np.ndarray, labels: np.ndarray) -> np.ndarray:
        """Which examples are classified right, bool `[N]`.

        Args:
          features: float `[N, D]`.
          labels: int `[N]`.

        Raises:
          UserError: there are no examples, a label is missing, or a feature is not finite.
        """
        features, labels = check(features, labels, "probed")
        return correct(self.logits(features), labels)

    def logits(self, features: np.ndarray) -> np.ndarray:
        """Float `[N, C]` of features `[N, D]`."""
        return features @ self.kernel + self.bias


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
    """Train a linear probe at each learning rate, and return the one with the best validation top-1.

    Of equally good learning rates, the first in `lrs` is taken.

    SGD with momentum 0.9 and no weight decay; the rate is multiplied by 0.1 after 60 % and again after 80 %
    of the epochs, as in `main_lincls.py` of facebookresearch/moco. We differ in one point: features are
    standardised by the mean and variance of the training set, as by the BatchNorm before MAE's classifier (He
    et al. 2022, arXiv 2111.06377, §A.1). Then the same learning rates suit all networks, whereas on raw
    features they differ a hundredfold (30 for MoCo, 0.3 for SwAV). The standardisation is folded into the
    returned kernel and bias.

    This is a quick check without augmentation. The linear evaluation of the papers is a training run of its
    own: `configs/linear_imagenet.py`.

    >>> x, labels = np.array([[0.0, 5.0], [1.0, 5.0], [8.0, 5.0], [9.0, 5.0]]), np.array([0, 0, 1, 1])
    >>> probe = fit(x, labels, x, labels, num_classes=2)
    >>> probe.val_accuracy
    1.0
    >>> probe.accuracy(np.array([[2.0, 5.0], [7.0, 5.0]]), np.array([0, 1]))
    1.0

    Args:
      train_features: float `[N, D]`.
      train_labels: int `[N]` in `[0, num_classes)`.
      val_features: float `[M, D]`, of images that are neither trained on nor reported.
      val_labels: int `[M]` in `[0, num_classes)`.
      num_classes: columns of the kernel.
      lrs: learning rates to try.
      epochs: each epoch is a permutation of the training set, without its incomplete last batch.
      batch_size: examples per step; the whole training set if that is smaller.
      seed: draws the permutations; they are the same for all learning rates.

    Raises:
      UserError: there are no training or no validation examples, a label is missing or too large, a feature
        is not finite, or `lrs` is empty.
    """
    x, labels = check(train_features, train_labels, "training")
    val_x, val_labels = check(val_features, val_labels, "validation")
    largest = int(max(labels.max(), val_labels.max()))
    if largest >= num_classes:
        raise UserError(
            f"num_classes is {num_classes}, but there are labels up to {largest}: set it to at least "
            f"{largest + 1}."
        )
    if not lrs:
        raise UserError("lrs is empty: pass at least one learning rate.")

    mean, scale = scale_of(x)
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


def scale_of(x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Mean and standard deviation of each channel of `[N, D]`, float64 `[D]`; the second is above 0."""
    mean, variance = x.mean(axis=0, dtype=np.float64), x.var(axis=0, dtype=np.float64)
    # Without the share of the mean variance, channels that hardly vary would be blown up.
    return mean, np.sqrt(variance + 1e-8 * variance.mean() + 1e-12)


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
