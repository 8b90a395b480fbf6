"""The queue of teacher embeddings: a ring of batches, sharded over the devices on its batch axis.

Enqueueing writes one `[1, B, D]` slice at a slot, in place when the state is donated: each device writes
its own rows, nothing is communicated, the order is exactly first in, first out, and the array means the
same on any number of devices.
"""

import jax
import jax.numpy as jnp
from flax import struct
from jax import lax

from seed_jax.errors import UserError


@struct.dataclass
class Queue:
    """`slots` float32 `[S, B, D]`; `next` int32, the slot written next; `filled` int32, the slots in use."""

    slots: jax.Array
    next: jax.Array
    filled: jax.Array


def init(
    size: int, batch_size: int, dim: int, *, start: str = "empty", rng: jax.Array | None = None
) -> Queue:
    """A queue of `size` embeddings in `size / batch_size` slots.

    Args:
      start: 'empty': unfilled slots are masked out of the loss. 'noise': every slot holds unit rows of
        Gaussian noise and counts as filled, as in the released code (jacobswan1/SEED, seed/builder.py).
      rng: key of the noise.

    Raises:
      UserError: `size` is not a positive multiple of `batch_size`.
    """
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
        noise = jax.random.normal(rng, shape, jnp.float32)
        noise /= jnp.linalg.norm(noise, axis=-1, keepdims=True)
        return Queue(noise, jnp.int32(0), jnp.int32(shape[0]))
    raise UserError(f"method.queue_start is '{start}': use 'empty' or 'noise'.")


def enqueue(queue: Queue, embeddings: jax.Array) -> Queue:
    """Overwrite the oldest slot with one batch of embeddings, `[B, D]`."""
    count = queue.slots.shape[0]
    slots = lax.dynamic_update_slice(queue.slots, embeddings[None].astype(jnp.float32), (queue.next, 0, 0))
    return Queue(slots, (queue.next + 1) % count, jnp.minimum(queue.filled + 1, count))


def valid(queue: Queue) -> jax.Array:
    """Which slots hold embeddings: bool `[S]`."""
    return jnp.arange(queue.slots.shape[0]) < queue.filled
