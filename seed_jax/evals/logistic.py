"""Softmax regression with an L2 penalty on features, solved by L-BFGS."""

import dataclasses
from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp
import numpy as np
import optax
from scipy.optimize import minimize

from seed_jax.evals.features import check
from seed_jax.evals.linear import scale_of
from seed_jax.evals.top1 import correct

PENALTIES = tuple(float(f"{10.0**power:.3g}") for power in np.arange(1, -6.5, -0.5))  # strongest first


@dataclasses.dataclass(frozen=True)
class Logistic:
    """A linear classifier of raw features: `features @ kernel + bias`.

    Attributes:
      kernel: float32 `[D, C]`.
      bias: float32 `[C]`.
      penalty: the L2 penalty that it was fitted with.
    """

    kernel: np.ndarray
    bias: np.ndarray
    penalty: float

    def logits(self, features: np.ndarray) -> np.ndarray:
        """Float `[N, C]` of features `[N, D]`."""
        return features @ self.kernel + self.bias


def fit(
    train: tuple[np.ndarray, np.ndarray],
    validation: tuple[np.ndarray, np.ndarray],
    *,
    num_classes: int,
    penalties: Sequence[float] = PENALTIES,
    metric: Callable[[np.ndarray, np.ndarray], float] = lambda right, labels: float(np.mean(right)),
) -> Logistic:
    """Choose the penalty on the validation set, then fit training and validation set together with it.

    This is the linear transfer of Kornblith et al. (2019, arXiv 1805.08974, section A.1), SimCLR (Chen et al.
    2020, arXiv 2002.05709, section B.8) and BYOL: no augmentation, L-BFGS, the penalty chosen on a validation
    set, and a last fit on both. Unlike them, we standardise features, as in `linear.fit`, and try penalties
    half a power of ten apart. Of equally good penalties the strongest is taken.

    Args:
      train, validation: features float `[N, D]` and labels int `[N]` in `[0, num_classes)`.
      num_classes: columns of the kernel.
      penalties: to try, in falling order: each fit starts from the one before it.
      metric: what is maximised, a function of which examples are right, bool `[N]`, and their labels.

    Raises:
      UserError: a set is empty, a label is missing, or a feature is not finite.
    """
    train, validation = check(*train, "training"), check(*validation, "validation")
    x, mean, scale = _standard(train[0])
    best, start = None, None
    for penalty in penalties:
        start = solve(x, train[1], num_classes, penalty, start)
        found = _of_raw(start, mean, scale, penalty)
        score = metric(correct(found.logits(validation[0]), validation[1]), validation[1])
        if best is None or score > best[0]:
            best = score, penalty, start
    both, labels = (np.concatenate(parts) for parts in zip(train, validation, strict=True))
    x, mean, scale = _standard(both)
    return _of_raw(solve(x, labels, num_classes, *best[1:]), mean, scale, best[1])


def solve(x: np.ndarray, labels: np.ndarray, num_classes: int, penalty: float, start=None) -> np.ndarray:
    """Minimise mean cross entropy + penalty / 2 * (sum of the squared kernel); the bias is free.

    Args:
      x: float `[N, D]`.
      labels: int `[N]`.
      penalty: scikit-learn's LogisticRegression has C = 1 / (N * penalty).
      start: a solution to begin with; zeros if None.

    Returns:
      Float64 `[D + 1, C]`: the kernel, then a row for the bias.
    """
    x, labels = jnp.asarray(x, jnp.float32), jnp.asarray(labels, jnp.int32)
    shape = (x.shape[1] + 1, num_classes)

    def at(flat):
        value, slope = _loss(flat.reshape(shape).astype(np.float32), x, labels, np.float32(penalty))
        return float(value), np.asarray(slope, np.float64).ravel()

    first = np.zeros(shape) if start is None else start
    return minimize(at, first.ravel(), jac=True, method="L-BFGS-B", options={"maxiter": 500}).x.reshape(shape)


@jax.jit
@jax.value_and_grad
def _loss(params, x, labels, penalty):
    logits = jnp.matmul(x, params[:-1], precision=jax.lax.Precision.HIGHEST) + params[-1][None]
    loss = optax.softmax_cross_entropy_with_integer_labels(logits, labels).mean()
    return loss + penalty / 2 * jnp.sum(params[:-1] ** 2)


def _standard(x):
    """Standardise features `[N, D]`: float32 on the device, with the mean and the scale."""
    mean, scale = scale_of(x)
    return jnp.asarray((x - mean) / scale, jnp.float32), mean, scale


def _of_raw(params, mean, scale, penalty) -> Logistic:
    """The classifier of raw features with the solution for standardised ones."""
    kernel = params[:-1] / scale[:, None]
    bias = params[-1] - mean @ kernel
    return Logistic(kernel.astype(np.float32), bias.astype(np.float32), penalty)
