"""Contrastive losses, over a queue of embeddings or over the batch itself.

SEED (arXiv 2101.04731) and InfoNCE as in MoCo (arXiv 1911.05722) compare with a queue. Both are
cross-entropies of a target distribution p with the student's softmax over D+ = [own positive; queue]:

    L_i = -sum_j p_ij log softmax(z_i . d_j / tau)_j = lse_i - z_i . (sum_j p_ij d_j) / tau
    dL_i / dz_i = (sum_j softmax_ij d_j - sum_j p_ij d_j) / tau

Both therefore need only log-sum-exps and softmax means over the queue (`readout.py`). No `[N, K]` array is
formed, nor kept for the backward pass. Everything is float32, matrix products at the highest precision: in
bfloat16 the values just below 1 are 0.0039 apart, which is 0.39 logits at temperature 0.01.

CompRess (arXiv 2010.14713) compares two such distributions, too, each over features of the same anchors.

Those of SimCLR (arXiv 2002.05709) and MoCo v3 (arXiv 2104.02057) compare the images of a batch with one
another. There, a device computes the rows of its own images against all columns: embeddings are gathered,
similarities stay where they are.
"""

import functools

import chex
import jax
import jax.numpy as jnp
from jax import lax
from jax.sharding import PartitionSpec as P

from seed_jax.losses.readout import check_queue, readout, sigmoid_readout


def seed_loss(student, teacher, queue, valid=None, *, tau_student: float = 0.2, tau_teacher: float = 0.01):
    """Cross-entropy of the student's similarity distribution with the teacher's as target (SEED eq. 2-6).

    Each distribution is over the entries of the queue and the sample's own teacher embedding, as one more
    entry. The order of the entries does not matter. As `tau_teacher` goes to 0, the loss becomes `info_nce`
    with the own teacher embedding as the positive.

    On several devices, call it inside `jax.set_mesh` with the queue sharded on its batch axis, as the trainer
    does: devices then exchange only embeddings. Outside of it XLA gathers the queue.

    Args:
      student: `[N, D]` rows of length 1. Only this argument receives a gradient.
      teacher: `[N, D]` rows of length 1.
      queue: `[S, B, D]` or `[K, D]` rows of length 1.
      valid: bool `[S]`, `[S, B]` or `[K]`, which entries of the queue count; None if all do.
      tau_student: temperature of the student's distribution.
      tau_teacher: temperature of the teacher's distribution: 0.01 in the paper, 1e-4 as default of the
        released code (jacobswan1/SEED).

    Returns:
      float32 `[N]`, a loss for each sample. The loss does not approach 0: for a student that is equally
      similar to all K + 1 entries it is log(K + 1).

    Raises:
      AssertionError: the shape or dtype of an argument is not the above, or a temperature is not above 0; it
        names the argument. Checked while tracing.

    The student of the first sample agrees with its teacher, that of the second does not:

    >>> teacher = jnp.eye(2, 4)
    >>> student = jnp.array([[1.0, 0.0, 0.0, 0.0], [0.0, 0.0, 1.0, 0.0]])
    >>> queue = jnp.eye(4)[2:].reshape(2, 1, 4)  # two slots of one embedding each
    >>> np.asarray(seed_loss(student, teacher, queue)).round(3)
    array([0.013, 5.013], dtype=float32)

    With the queue empty, only the own teacher embedding is left to choose:

    >>> np.asarray(seed_loss(student, teacher, queue, valid=jnp.array([False, False]))).round(3)
    array([0., 0.], dtype=float32)
    """
    check_rows(queue, valid, student=student, teacher=teacher)
    check_temperatures(tau_student=tau_student, tau_teacher=tau_teacher)
    student, teacher, queue = (x.astype(jnp.float32) for x in (student, teacher, queue))
    return _seed(float(tau_student), float(tau_teacher), student, teacher, queue, valid)


def info_nce(query, key, queue, valid=None, *, temperature: float):
    """InfoNCE with one positive per query and the queue as negatives (MoCo eq. 1).

    Args:
      query: `[N, D]` rows of length 1. Only this argument receives a gradient.
      key: `[N, D]` rows of length 1, the positives.
      queue: `[S, B, D]` or `[K, D]` rows of length 1, the negatives.
      valid: as in `seed_loss`.
      temperature: of the softmax; 0.2 in MoCo v2.

    Returns:
      float32 `[N]`, a loss for each query.

    Raises:
      AssertionError: the shape or dtype of an argument is not the above, or a temperature is not above 0; it
        names the argument. Checked while tracing.

    The loss of a query that equals its key and is orthogonal to two negatives is log(1 + 2 / e^(1 / 0.2)):

    >>> query = key = jnp.eye(1, 3)
    >>> np.asarray(info_nce(query, key, jnp.eye(3)[1:], temperature=0.2)).round(4)
    array([0.0134], dtype=float32)
    """
    check_rows(queue, valid, query=query, key=key)
    check_temperatures(temperature=temperature)
    query, key, queue = (x.astype(jnp.float32) for x in (query, key, queue))
    return _info_nce(float(temperature), query, key, queue, valid)


def compress_loss(student, teacher, queue, valid=None, *, temperature: float = 0.04):
    """KL of the student's similarities to anchors from the teacher's (CompRess, arXiv 2010.14713).

    Unlike in SEED, a sample is not an anchor of its own, both temperatures are equal, and the entropy of the
    teacher's distribution is subtracted, so a student that agrees has the loss 0. With one queue (1q), both
    networks compare with the teacher's features of the anchors. With two (2q), each compares with its own, so
    their widths may differ, and a row of `queue` has both. The mean is the loss of UMBCvision/CompRess,
    nn/compress_loss.py.

    Args:
      student: `[N, D]` rows of length 1. Only this argument receives a gradient.
      teacher: `[N, T]` rows of length 1.
      queue: the anchors: `[S, B, T]` or `[K, T]`, where T = D, the teacher's rows of length 1; or
        `[S, B, T + D]` or `[K, T + D]`, the teacher's and, behind it, the student's.
      valid: as in `seed_loss`.
      temperature: of both distributions.

    Returns:
      float32 `[N]`, a loss for each sample; 0 without anchors.

    Raises:
      AssertionError: the shape or dtype of an argument is not the above, or the temperature is not above 0;
        it names the argument. Checked while tracing.

    Two anchors are alike to the teacher; to the student of the first sample they nearly are:

    >>> student, teacher = jnp.array([[0.6, 0.8], [1.0, 0.0]]), jnp.ones((2, 1))
    >>> queue = jnp.concatenate([jnp.ones((2, 1)), jnp.eye(2)], axis=1)  # the teacher's, the student's
    >>> np.asarray(compress_loss(student, teacher, queue, temperature=0.2)).round(3)
    array([0.12 , 1.814], dtype=float32)
    """
    for name, x in {"student": student, "teacher": teacher}.items():
        chex.assert_rank(x, 2, custom_message=name)
        chex.assert_type(x, float, custom_message=name)
    chex.assert_equal_shape_prefix([student, teacher], 1, custom_message="student and teacher")
    one = queue.shape[-1] == teacher.shape[1] == student.shape[1]
    check_queue(queue, valid, teacher.shape[1] + (0 if one else student.shape[1]))
    check_temperatures(temperature=temperature)
    student, teacher, queue = (x.astype(jnp.float32) for x in (student, teacher, queue))
    return _compress(float(temperature), student, teacher, queue, valid)


def nce_loss(student, teacher, queue, valid=None, *, temperature: float = 0.2):
    """Noise-contrastive estimation: a classifier tells the own teacher embedding from the queue.

    -log h(own) - sum over the queue of log(1 - h), where h = e / (e + N c) and e = exp(z . d / temperature).
    N is the number of entries and c the mean of their e over the batch, without gradient. This is the
    student's half of CRD (arXiv 1910.10699, equation 18; `crd_loss`) with the queue in place of a bank, and
    with c in place of Z / M, which CRD sets once, by its first batch.

    Args:
      student, teacher, queue, valid: as in `seed_loss`.
      temperature: of the similarities.

    Returns:
      float32 `[N]`, a loss for each sample; 0 without entries.

    Raises:
      AssertionError: as in `seed_loss`.

    Student and teacher agree and are orthogonal to two entries: log(1 + 2 / e^5) + 2 log(1 + 1 / 2)

    >>> rows = jnp.eye(1, 3)
    >>> np.asarray(nce_loss(rows, rows, jnp.eye(3)[1:], temperature=0.2)).round(4)
    array([0.8243], dtype=float32)
    """
    check_rows(queue, valid, student=student, teacher=teacher)
    check_temperatures(temperature=temperature)
    student, teacher, queue = (x.astype(jnp.float32) for x in (student, teacher, queue))
    return _nce(float(temperature), student, teacher, queue, valid)


def nt_xent(z, *, temperature: float = 0.1):
    """SimCLR's loss: a view must find the other view of its image among all views of the batch.

    The candidates of a view are the 2 B - 1 others (NT-Xent, eq. 1). On several devices, call it inside
    `jax.set_mesh` with the images sharded, as the trainer does: a device then holds the similarities of its
    own images only.

    Args:
      z: `[B, 2, D]`, both views of each image, rows of length 1.
      temperature: of the softmax; 0.1 in the released command for ImageNet.

    Returns:
      float32 `[B]`: the sum of the losses of both views, as google-research/simclr, objective.py, has it. The
      paper's algorithm 1 takes their mean, half of that.

    Raises:
      AssertionError: the shape or dtype of `z` is not the above, or the temperature is not above 0; it names
        the argument. Checked while tracing.

    Two images, the views of each alike and those of different images orthogonal: 2 log(1 + 2 / e^(1 / 0.2))

    >>> z = jnp.broadcast_to(jnp.eye(2, 3)[:, None], (2, 2, 3))
    >>> np.asarray(nt_xent(z, temperature=0.2)).round(4)
    array([0.0268, 0.0268], dtype=float32)
    """
    chex.assert_rank(z, 3, custom_message="z")
    chex.assert_axis_dimension(z, 1, 2, custom_message="z")
    chex.assert_type(z, float, custom_message="z")
    check_temperatures(temperature=temperature)
    z = z.astype(jnp.float32)
    logits = jnp.einsum("bvd,cwd->bvcw", z, _on_every_device(z), precision="highest") / temperature
    image, view, other, other_view = (lax.broadcasted_iota(jnp.int32, logits.shape, i) for i in range(4))
    logits = jnp.where((image == other) & (view == other_view), -jnp.inf, logits)
    positive = _rows_dot(z[:, 0], z[:, 1]) / temperature
    return jax.nn.logsumexp(logits, axis=(2, 3)).sum(axis=1) - 2 * positive


def batch_info_nce(query, key, *, temperature: float = 0.2):
    """InfoNCE with the keys of the batch: a query must find its own among all of them (MoCo v3, eq. 1).

    On several devices, call it as `nt_xent`: a device holds the similarities of its own queries only.

    Args:
      query: `[B, D]` rows of length 1. Only this argument receives a gradient.
      key: `[B, D]` rows of length 1.
      temperature: of the softmax; 0.2 in MoCo v3.

    Returns:
      float32 `[B]`, a loss for each query, without the factor 2 `temperature` that the method multiplies by.

    Raises:
      AssertionError: the shape or dtype of an argument is not the above, or the temperature is not above 0;
        it names the argument. Checked while tracing.

    >>> np.asarray(batch_info_nce(jnp.eye(2), jnp.eye(2), temperature=0.2)).round(4)  # log(1 + 1 / e^5)
    array([0.0067, 0.0067], dtype=float32)
    """
    for name, x in {"query": query, "key": key}.items():
        chex.assert_rank(x, 2, custom_message=name)
        chex.assert_type(x, float, custom_message=name)
        chex.assert_shape(x, query.shape, custom_message=f"{name}, against the shape of query")
    check_temperatures(temperature=temperature)
    query, key = query.astype(jnp.float32), lax.stop_gradient(key).astype(jnp.float32)
    logits = jnp.dot(query, _on_every_device(key).T, precision="highest") / temperature
    return jax.nn.logsumexp(logits, axis=1) - _rows_dot(query, key) / temperature


def _on_every_device(x):
    """`x`, gathered where it is sharded over a mesh."""
    return x if jax.sharding.get_abstract_mesh().empty else lax.with_sharding_constraint(x, P())


def check_rows(queue, valid, **rows):
    """Check that arguments of rows, given by name, are float `[N, D]` of one shape, and the queue.

    Raises:
      AssertionError: they are not; it names the argument. Checked while tracing.
    """
    first = next(iter(rows))
    for name, x in rows.items():
        chex.assert_rank(x, 2, custom_message=name)
        chex.assert_type(x, float, custom_message=name)
        chex.assert_shape(x, rows[first].shape, custom_message=f"{name}, against the shape of {first}")
    check_queue(queue, valid, rows[first].shape[1])


def check_temperatures(**temperatures):
    """Check that temperatures, given by name, are above 0 and finite.

    Raises:
      AssertionError: one is not; it names the argument.
    """
    for name, value in temperatures.items():
        assert 0 < value < float("inf"), f"{name} is {value}: it must be above 0 and finite."


def _rows_dot(a, b):
    return jnp.sum(a * b, axis=1)


def _seed_terms(tau_s, tau_t, student, teacher, queue, valid):
    own = (
        (_rows_dot(student, teacher) / tau_s, teacher),
        (_rows_dot(teacher, teacher) / tau_t, teacher),
    )
    (lse, predicted), (_, target) = readout((student, teacher), (tau_s, tau_t), own, queue, valid)
    return lse - _rows_dot(student, target) / tau_s, (predicted - target) / tau_s


def _info_nce_terms(tau, query, key, queue, valid):
    positive = _rows_dot(query, key) / tau
    ((lse, predicted),) = readout((query,), (tau,), ((positive, key),), queue, valid)
    return lse - positive, (predicted - key) / tau


NO_LOGIT = -1e30  # finite, so that sums over no entry at all are 0 and not NaN


def _compress_terms(tau, student, teacher, queue, valid):
    width, own = student.shape[1], jnp.full(len(student), NO_LOGIT, jnp.float32)
    # Zeros hide the other network's half of an anchor, so one pass serves two queues.
    hidden = [queue.shape[-1] - x.shape[1] for x in (student, teacher)]
    student, teacher = jnp.pad(student, ((0, 0), (hidden[0], 0))), jnp.pad(teacher, ((0, 0), (0, hidden[1])))
    none = own, jnp.zeros_like(student)
    (lse_s, predicted), (lse_t, target) = readout((student, teacher), (tau, tau), (none, none), queue, valid)
    value = _rows_dot(teacher - student, target) / tau + (lse_s - lse_t)
    return value, ((predicted - target) / tau)[:, -width:]


def _nce_terms(tau, student, teacher, queue, valid):
    none = jnp.full(len(student), NO_LOGIT, jnp.float32), jnp.zeros_like(student)
    ((lse, _),) = readout((student,), (tau,), (none,), queue, valid)
    shift = jax.nn.logsumexp(lse) - jnp.log(len(lse))  # log N c
    negatives, read = sigmoid_readout(student, tau, shift, queue, valid)
    missing = shift - _rows_dot(student, teacher) / tau
    return jax.nn.softplus(missing) + negatives, (read - jax.nn.sigmoid(missing)[:, None] * teacher) / tau


def _with_streamed_gradient(terms, temperatures: int):
    """A loss with a gradient for z alone, from `terms(*temperatures, z, …) -> (loss [N], dloss/dz [N, D])`.

    The forward computes the gradient too, so the backward pass does not read the queue again.
    """

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
_compress = _with_streamed_gradient(_compress_terms, 1)
_nce = _with_streamed_gradient(_nce_terms, 1)
