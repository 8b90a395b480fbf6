"""K-means of embeddings, exact, over all devices: Lloyd's iterations from k-means++ seeds.

The rows are cut into blocks, which the devices share. A device compares one block with all centres at a time,
so only `[block, K]` distances exist. Random numbers are keyed by the block: they are the same on any number
of devices.
"""

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.sharding import PartitionSpec as P

from seed_jax import parallel
from seed_jax.analysis.nearest import everywhere, put
from seed_jax.data import rng
from seed_jax.errors import UserError

HIGHEST = lax.Precision.HIGHEST


class Clusters(NamedTuple):
    """What k-means finds.

    Attributes:
      centres: float32 `[K, D]`.
      assigned: int32 `[N]`, the nearest centre of each row; of equally near ones the first.
      moved: how many rows changed their centre last; 0 once the iterations have converged.
    """

    centres: np.ndarray
    assigned: np.ndarray
    moved: int


def kmeans(
    x: np.ndarray,
    clusters: int,
    *,
    mesh: jax.sharding.Mesh,
    seed: int = 0,
    centres: np.ndarray | None = None,
    iterations: int = 100,
    block: int = 4096,
) -> Clusters:
    """Cluster rows by Euclidean distance (Lloyd 1982; seeds as Arthur & Vassilvitskii 2007).

    A centre without rows moves to the row that is farthest from its own centre, as in scikit-learn; it stays
    where it is if all rows are on centres. Distances and sums are float32 at the highest precision, means
    float64. Sums over devices differ in their rounding, so a row between two centres may differ, too.

    >>> from seed_jax import parallel
    >>> x = np.array([[0.0, 0.0], [5.0, 5.0], [0.0, 1.0], [5.0, 6.0]])
    >>> found = kmeans(x, 2, mesh=parallel.make_mesh(), centres=x[:2])
    >>> found.centres.tolist(), found.assigned.tolist(), found.moved
    ([[0.0, 0.5], [5.0, 5.5]], [0, 1, 0, 1], 0)

    Args:
      x: finite, float `[N, D]`.
      clusters: K, 1 to N.
      mesh: from `parallel.make_mesh`.
      seed: of the first centres.
      centres: the first centres, float `[K, D]`; None draws them.
      iterations: how often the centres move at most.
      block: rows that a device compares at a time.

    Raises:
      UserError: `clusters` is out of its range.
    """
    if not 1 <= clusters <= len(x):
        raise UserError(f"There are {len(x)} embeddings: use 1 to {len(x)} clusters, not {clusters}.")
    x = np.asarray(x, np.float32)
    rows = min(block, len(x))
    blocks = -(-len(x) // (rows * mesh.size)) * mesh.size
    padded = np.zeros((blocks * rows, x.shape[1]), np.float32)
    padded[: len(x)] = x
    sharding = parallel.batch_sharding(mesh)
    cut = put(padded.reshape(blocks, rows, -1), sharding)
    real = put((np.arange(blocks * rows) < len(x)).reshape(blocks, rows), sharding)
    assigned = put(np.full((blocks, rows), -1, np.int32), sharding)
    if centres is None:
        centres = _seeds(cut, real, rng.stream(seed, "kmeans"), clusters=clusters, mesh=mesh)
    centres = np.asarray(centres, np.float32)
    for n in range(iterations + 1):
        assigned, distance, sums, sizes, moved = _assign(cut, real, assigned, centres, mesh=mesh)
        moved = int(moved)
        if not moved or n == iterations:
            break
        sums, sizes = np.asarray(sums, np.float64), np.array(sizes)
        if not sizes.all():
            own = np.asarray(everywhere(assigned, mesh=mesh)).reshape(-1)[: len(x)]
            far = np.asarray(everywhere(distance, mesh=mesh)).reshape(-1)[: len(x)]
            _fill(sums, sizes, x, own, far)
        filled = sizes > 0
        centres = centres.copy()
        centres[filled] = sums[filled] / sizes[filled, None]
    return Clusters(centres, np.asarray(everywhere(assigned, mesh=mesh)).reshape(-1)[: len(x)], moved)


ON_CENTRE = 1e-5  # squared distance of a row from its centre by rounding alone, times its squared length


def _fill(sums, sizes, x, assigned, distance):
    """Give each empty centre the row that is farthest from its own one, in place."""
    farthest = iter(np.argsort(-distance, kind="stable"))
    for empty in np.flatnonzero(sizes == 0):
        for row in farthest:
            if distance[row] > ON_CENTRE * (x[row] @ x[row]) and sizes[assigned[row]] > 1:
                break
        else:
            return
        sums[assigned[row]] -= x[row]
        sizes[assigned[row]] -= 1
        sums[empty], sizes[empty] = x[row], 1


@functools.partial(jax.jit, static_argnames="mesh")
def _assign(x, real, before, centres, *, mesh):
    """The nearest centre of each row and what the centres' means need.

    Args:
      x: float32 `[blocks, R, D]`, sharded, as the next two are.
      real: bool `[blocks, R]`, false for padding.
      before: int32 `[blocks, R]`, the centres of the rows so far.
      centres: float32 `[K, D]`.

    Returns:
      The nearest centre, int32, and the squared distance to it, float32, of each row `[blocks, R]`; of each
      centre the sum of its rows, float32 `[K, D]`, and their number, int32 `[K]`; how many rows moved.
    """
    share = parallel.batch_sharding(mesh).spec

    # A scatter would add the rows in another order each time on a GPU: the sums are products instead.
    def on_device(x, real, before, centres):
        half = 0.5 * jnp.sum(centres * centres, axis=1)

        def read(carry, block):
            sums, sizes, moved = carry
            x, real, before = block
            score = jnp.matmul(x, centres.T, precision=HIGHEST) - half[None, :]
            assigned = jnp.argmax(score, axis=1).astype(jnp.int32)
            member = (assigned[:, None] == jnp.arange(len(centres))[None, :]) & real[:, None]
            sums += jnp.matmul(member.T.astype(jnp.float32), x, precision=HIGHEST)
            carry = (
                sums,
                sizes + member.sum(axis=0, dtype=jnp.int32),
                moved + (real & (assigned != before)).sum(),
            )
            return carry, (assigned, jnp.maximum(jnp.sum(x * x, axis=1) - 2 * score.max(axis=1), 0))

        nothing = jnp.zeros_like(centres), jnp.zeros(len(centres), jnp.int32), jnp.int32(0)
        totals, (assigned, distance) = lax.scan(read, nothing, (x, real, before))
        return assigned, distance, *lax.psum(totals, parallel.DATA_AXIS)

    return jax.shard_map(
        on_device,
        mesh=mesh,
        in_specs=(share, share, share, P()),
        out_specs=(share, share, P(), P(), P()),
        check_vma=False,
    )(x, real, before, centres)


@functools.partial(jax.jit, static_argnames=("clusters", "mesh"))
def _seeds(x, real, key, *, clusters, mesh):
    """The centres of k-means++, float32 `[K, D]`: rows, each drawn by its squared distance to those before.

    The row that is drawn has the largest logarithm of its distance plus Gumbel noise. Arguments as `_assign`.
    """
    share = parallel.batch_sharding(mesh).spec

    def on_device(x, real, key):
        numbers = lax.axis_index(parallel.DATA_AXIS) * len(x) + jnp.arange(len(x))

        def draw(n, distance):
            keys = jax.vmap(functools.partial(jax.random.fold_in, jax.random.fold_in(key, n)))(numbers)
            noise = jax.vmap(lambda k: jax.random.gumbel(k, real.shape[1:]))(keys)
            score = jnp.where(real, jnp.log(distance) + noise, -jnp.inf).reshape(-1)
            best = jnp.argmax(score)
            row = x.reshape(-1, x.shape[-1])[best]
            scores, rows = lax.all_gather((score[best], row), parallel.DATA_AXIS)
            return rows[jnp.argmax(scores)]

        def add(n, carry):
            centres, distance = carry
            centre = draw(n, distance)
            off = x - centre[None, None, :]
            return centres.at[n].set(centre), jnp.minimum(distance, jnp.sum(off * off, axis=-1))

        first = draw(0, jnp.ones(real.shape, jnp.float32))
        off = x - first[None, None, :]
        centres = jnp.zeros((clusters, x.shape[-1]), jnp.float32).at[0].set(first)
        return lax.fori_loop(1, clusters, add, (centres, jnp.sum(off * off, axis=-1)))[0]

    return jax.shard_map(on_device, mesh=mesh, in_specs=(share, share, P()), out_specs=P(), check_vma=False)(
        x, real, key
    )
