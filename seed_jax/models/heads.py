"""Parts that are joined to a backbone: from the features dict to new entries of it."""

import flax.linen as nn
import jax.numpy as jnp

from seed_jax.models import layers


class ProjectionHead(nn.Module):
    """`pooled` `[B, D]` -> `embedding` float32 `[B, dim]`, not normalised.

    Two layers: Linear D -> `hidden` (D when None), batch norm if asked, ReLU, Linear -> `dim`; the head of
    MoCo v2 and SEED, and with `batch_norm` that of SimCLR and SwAV. `layers=1` is MoCo v1's single Linear;
    without `bias` that is CLIP's projection. `last_norm` adds batch norm after the last layer, as in MoCo v3.
    Torch's default init.
    """

    hidden: int | None = None
    dim: int = 128
    layers: int = 2
    batch_norm: bool = False
    bias: bool = True
    last_norm: bool = False

    @nn.compact
    def __call__(self, features, train: bool, keys=None):
        x = features["pooled"].astype(jnp.float32)
        width = self.hidden or x.shape[-1]
        for i in range(1, self.layers):
            x = layers.torch_linear(width, x.shape[-1], f"linear{i}", bias=self.bias)(x)
            if self.batch_norm:
                x = layers.BatchNorm(name=f"bn{i}")(x, train)
            x = nn.relu(x)
        x = layers.torch_linear(self.dim, x.shape[-1], f"linear{self.layers}", bias=self.bias)(x)
        if self.last_norm:
            x = layers.BatchNorm(name=f"bn{self.layers}")(x, train)
        return {"embedding": x}


class PooledEmbedding(nn.Module):
    """The `embedding` of a network without a head is its `pooled`."""

    @nn.compact
    def __call__(self, features, train: bool, keys=None):
        return {"embedding": features["pooled"]}


class Classifier(nn.Module):
    """`pooled` `[B, D]` -> `logits` float32 `[B, num_classes]`; weights N(0, 0.01), bias 0."""

    num_classes: int

    @nn.compact
    def __call__(self, features, train: bool, keys=None):
        return {
            "logits": layers.narrow_linear(self.num_classes, "fc")(features["pooled"].astype(jnp.float32))
        }
