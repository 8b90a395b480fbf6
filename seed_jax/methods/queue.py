"""The queue of teacher embeddings: a ring of batches, sharded over the devices on its batch axis.

`enqueue` writes one `[1, B, D]` slot, in place when the state is donated. Each device writes its own rows, so
devices communicate nothing. The order is exactly first in, first out, and the array means the same on any
number of devices.

>>> ring = init(size=6, batch_size=2, dim=3)
>>> for number in range(1, 5):  # four batches into three slots
...     ring = enqueue(ring, jnp.full((2, 3), number, jnp.float32))
>>> ring.slots[:, 0, 0], int(ring.next), int(ring.filled)
(Array([4., 2., 3.], dtype=float32), 1, 3)
"""

import chex
import jax
import jax.numpy as jnp
from flax import struct
from jax import lax

from seed_jax.errors import UserError


@struct.dataclass
class Queue:
    """The ring.

    Attributes:
      slots: float32 `[S, B, D]`.
      next: int32, the slot that is written next.
      filled: int32, how many slots are filled.
    """

    slots: jax.Array
    next: jax.Array
    filled: jax.Array


def init(
    size: int, batch_size: int, dim: int, *, start: str = "empty", rng: jax.Array | None = None
) -> Queue:
    """A queue of `size` embeddings in `size / batch_size` slots.

    Args:
      size: number of embeddings, K.
      batch_size: embeddings per slot, B.
      dim: width of an embedding, D.
      start: 'empty' has no slot filled, and the losses mask unfilled slots. 'noise' fills every slot with
        Gaussian noise of length 1 per row, as the released code does (jacobswan1/SEED, seed/builder.py).
      rng: a typed key, for the noise.

    Raises:
      UserError: `size` is not a positive multiple of `batch_size`, or `start` is unknown.
      AssertionError: `batch_size` or `dim` is not positive, or `start='noise'` has no single key.

    >>> init(size=8, batch_size=2, dim=16).slots.shape
    (4, 2, 16)
    >>> init(size=9, batch_size=2, dim=16)
    Traceback (most recent call last):
    seed_jax.errors.UserError: method.queue_size is 9, ...: use --config.method.queue_size=8.
    """
    chex.assert_scalar_positive(batch_size)
    chex.assert_scalar_positive(dim)
    if size <= 0 or size % batch_size:
        nearest = max(1, round(size / batch_size)) * batch_size
        raise UserError(
            f"method.queue_size is {size}, which is not a positive multiple of data.batch_size "
            f"({batch_size}): use --config.method.queue_size={nearest}."
        )
    shape = (size // batch_size, batch_size, dim)
    if start == "empty":
        return Queue(jnp.zeros(shape, jnp.float32), jnp.int32(0), jnp.int32(0))
    if start == "noise":
        chex.assert_rank(rng, 0)
        noise = jax.random.normal(rng, shape, jnp.float32)
        noise /= jnp.linalg.norm(noise, axis=-1, keepdims=True)
        return Queue(noise, jnp.int32(0), jnp.int32(shape[0]))
    raise UserError(f"method.queue_start is '{start}': use 'empty' or 'noise'.")


def check_batches(data) -> None:
    """Raise `UserError` if the `data` section of a config allows batches that do not fill a slot."""
    if data.last != "drop":
        raise UserError(
            f"data.last is {data.last!r}, but a slot of the queue takes a full batch: use "
            "--config.data.last=drop."
        )


def enqueue(queue: Queue, embeddings: jax.Array, losses: jax.Array | None = None) -> Queue:
    """Write a batch of embeddings, float `[B, D]`, over the oldest slot.

    Args:
      losses: float `[B]`, computed from this queue in the same program. The write then waits for them;
        without this order XLA copies the whole queue. A row whose loss is not finite becomes zero.

    Raises:
      AssertionError: `embeddings` is not the shape of a slot, or not float; checked while tracing.
    """
    chex.assert_shape(embeddings, queue.slots.shape[1:])
    chex.assert_type(embeddings, float)
    if losses is not None:
        embeddings = jnp.where(jnp.isfinite(losses)[:, None], embeddings, 0)
    count = queue.slots.shape[0]
    slots = lax.dynamic_update_slice(queue.slots, embeddings[None].astype(jnp.float32), (queue.next, 0, 0))
    return Queue(slots, (queue.next + 1) % count, jnp.minimum(queue.filled + 1, count))


def valid(queue: Queue) -> jax.Array:
    """Which slots are filled: bool `[S]`.

    >>> ring = enqueue(init(size=6, batch_size=2, dim=3), jnp.ones((2, 3)))
    >>> valid(ring)
    Array([ True, False, False], dtype=bool)
    """
    return jnp.arange(queue.slots.shape[0]) < queue.filled
