"""Losses over a queue of embeddings: SEED (arXiv 2101.04731) and InfoNCE as in MoCo (arXiv 1911.05722).

Both are cross-entropies of a target distribution p against the student's softmax over D+ = [own positive;
queue]:

    L_i = -sum_j p_ij log softmax(z_i . d_j / tau)_j = lse_i - z_i . (sum_j p_ij d_j) / tau
    dL_i / dz_i = (sum_j softmax_ij d_j - sum_j p_ij d_j) / tau

so a softmax mean over the queue (`readout.py`) is all that is needed, and no `[B, K]` array is ever formed
or kept for the backward pass. Everything is float32 with matrix products at the highest precision: bfloat16
values just below 1 lie 0.0039 apart, 0.39 logits at temperature 0.01.
"""

import functools

import jax
import jax.numpy as jnp

from seed_jax.losses.readout import readout


def seed_loss(student, teacher, queue, valid=None, *, tau_student: float = 0.2, tau_teacher: float = 0.01):
    """Cross-entropy of the teacher's similarity distribution against the student's (SEED eq. 2-6).

    The entries are the queue and, as one more, the sample's own teacher embedding; the order of entries
    does not matter. As `tau_teacher` goes to 0 this becomes `info_nce` with the own teacher embedding as
    the positive.

    Args:
      student: `[B, D]` unit rows; the only argument that receives a gradient.
      teacher: `[B, D]` unit rows.
      queue: `[S, B, D]` or `[K, D]` unit rows.
      valid: bool `[S]`, `[S, B]` or `[K]`: entries of the queue that count; None for all.
      tau_student: temperature of the student's distribution.
      tau_teacher: temperature of the teacher's. The paper's is 0.01; the released code's default is 1e-4.

    Over several devices, call it inside `jax.set_mesh` with the queue sharded on its batch axis, as the
    trainer does: then only embeddings travel. Outside, XLA decides, and gathers the queue.

    Returns:
      float32 `[B]`: a loss for each sample. It never approaches 0: a uniform student has log(K + 1).
    """
    student, teacher, queue = (x.astype(jnp.float32) for x in (student, teacher, queue))
    return _seed(float(tau_student), float(tau_teacher), student, teacher, queue, valid)


def info_nce(query, key, queue, valid=None, *, temperature: float):
    """InfoNCE with one positive a query and the queue as negatives (MoCo eq. 1).

    Args:
      query: `[B, D]` unit rows; the only argument that receives a gradient.
      key: `[B, D]` unit rows, the positives.
      queue: `[S, B, D]` or `[K, D]` unit rows.
      valid: as in `seed_loss`.
      temperature: of the softmax; MoCo-v2 uses 0.2.

    Returns:
      float32 `[B]`: a loss for each sample.
    """
    query, key, queue = (x.astype(jnp.float32) for x in (query, key, queue))
    return _info_nce(float(temperature), query, key, queue, valid)


def _rows_dot(a, b):
    return jnp.sum(a * b, axis=1)


def _seed_terms(tau_s, tau_t, student, teacher, queue, valid):
    start = (
        (_rows_dot(student, teacher) / tau_s, teacher),
        (_rows_dot(teacher, teacher) / tau_t, teacher),
    )
    (lse, predicted), (_, target) = readout((student, teacher), (tau_s, tau_t), start, queue, valid)
    return lse - _rows_dot(student, target) / tau_s, (predicted - target) / tau_s


def _info_nce_terms(tau, query, key, queue, valid):
    positive = _rows_dot(query, key) / tau
    ((lse, predicted),) = readout((query,), (tau,), ((positive, key),), queue, valid)
    return lse - positive, (predicted - key) / tau


def _with_streamed_gradient(terms, temperatures: int):
    """A custom-VJP loss of `terms(*temperatures, z, …) -> (loss [B], dloss/dz [B, D])`, in z alone."""

    @functools.partial(jax.custom_vjp, nondiff_argnums=tuple(range(temperatures)))
    def loss(*args):
        return terms(*args)[0]

    def forward(*args):
        value, gradient = terms(*args)
        return value, (gradient, args[temperatures + 1 :])

    def backward(*args):
        (gradient, others), cotangent = args[-2:]
        return (cotangent[:, None] * gradient, *(jax.tree.map(_no_gradient, other) for other in others))

    loss.defvjp(forward, backward)
    return loss


def _no_gradient(x):
    return jnp.zeros_like(x) if jnp.issubdtype(x.dtype, jnp.floating) else None


_seed = _with_streamed_gradient(_seed_terms, 2)
_info_nce = _with_streamed_gradient(_info_nce_terms, 1)
