"""A network on all views of an image: rotations and permutations of its colours (`data/transforms.py`)."""

import dataclasses

import flax.linen as nn
import jax
import jax.numpy as jnp

from seed_jax import losses
from seed_jax.data import rng as rng_lib
from seed_jax.data.transforms import transform
from seed_jax.models.network import Features, Joined, Network, Variables, for_views


def apply_views(
    network: Network,
    variables: Variables,
    views: jax.Array,
    train: bool,
    keys: jax.Array | None = None,
    first: int = 0,
) -> tuple[Features, Variables]:
    """Features of several views of each image, from one forward pass, and the new model state.

    A group of BatchNorm covers as many images as in a pass over one view, each with all its views.

    Args:
      views: float `[B, M, H, W, 3]` in [0, 1].
      keys: typed keys `[B]` of the images; None for a network without dropout, or in eval mode.
      first: index of the first view, where an image has views in several arrays.

    Returns:
      Features, `[B, M, ...]` each, and the model state.
    """
    batch, count = views.shape[:2]
    if keys is not None:
        keys = jnp.stack([rng_lib.fold(keys, 1 + first + view) for view in range(count)], axis=1).reshape(-1)
    rows = views.reshape(-1, *views.shape[2:])
    features, state = for_views(network, count).apply(variables, rows, train, keys)
    return {name: x.reshape(batch, count, *x.shape[1:]) for name, x in features.items()}, state


class SingleInference(nn.Module):
    """`logits`, `[B, C]`, of an image that is its own first view: the columns 0, M, 2M, .. of `joint_logits`.

    The part has no parameters.

    Attributes:
      views: M.
    """

    views: int

    @nn.compact
    def __call__(self, features, train: bool, keys=None):
        return {"logits": features["joint_logits"][:, :: self.views]}


@dataclasses.dataclass(frozen=True, eq=False)
class AllViews(Joined):
    """A `Joined` with a classifier of joint labels, `joint_logits`, that in eval mode sees all views.

    In eval mode it adds `aggregated_logits`, float32 `[B, C]` (`losses.aggregate`), which cost a forward pass
    over the M - 1 further views of each image. Where nobody asks for them, jit leaves that pass out. In train
    mode it is the `Joined` itself, since a loss has rows of views.

    Attributes:
      rotations, colours: of the views, as `transform`.
    """

    rotations: int = 1
    colours: int = 1

    def apply(self, variables, x, train, keys=None):
        features, state = super().apply(variables, x, train, keys)
        if train:
            return features, state
        plain = Joined(self.backbone, self.parts)
        others, _ = apply_views(plain, variables, transform(x, self.rotations, self.colours)[:, 1:], False)
        joint = jnp.concatenate([features["joint_logits"][:, None], others["joint_logits"]], axis=1)
        return features | {"aggregated_logits": losses.aggregate(joint)}, state
