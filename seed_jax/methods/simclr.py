"""SimCLR: contrastive learning within a batch (Chen et al., ICML 2020, arXiv 2002.05709)."""

import dataclasses

from seed_jax.losses import nt_xent
from seed_jax.methods.base import LossOut, Method, base_view, bound, grouped, unit
from seed_jax.models.all_views import apply_views
from seed_jax.models.heads import ProjectionHead
from seed_jax.models.network import Joined


@dataclasses.dataclass(frozen=True)
class SimCLR(Method):
    """Each of two views of an image must find the other among all views of the batch (`losses.nt_xent`).

    Use it with `train.bn_group=0`, as the released code does: in smaller groups the statistics of a group
    tell which views belong together. The paper's figures are from large batches with LARS
    (`optim.name='lars'`, `optim.decay='kernels'`).

    The head is that of google-research/simclr, model_util.py: a norm after each Linear, the last one without
    a shift. We differ in one point: weights start as PyTorch's Linear and not from N(0, 0.01); the norms undo
    the scale.

    Attributes:
      temperature: temperature of the softmax over the batch.
      dim: width of the embedding.
      layers: Linear layers of the head: 2 in the paper, 3 by default in the released code.
      hidden: width of the head's hidden layers; 0 for the width of the pooled feature.
    """

    temperature: float = 0.1
    dim: int = 128
    layers: int = 3
    hidden: int = 0

    def check(self, data, train):
        bound(self, "temperature", above=0)
        bound(self, "dim", "layers", least=1)
        bound(self, "hidden", least=0)

    def whole_batch(self):
        return "it compares each image with all others"

    def notice(self, metrics, given):
        return grouped(given)

    def views(self, data):
        return (base_view(data, count=2),)

    def network(self, backbone, given):
        head = ProjectionHead(
            self.hidden or None,
            self.dim,
            self.layers,
            batch_norm=True,
            bias=False,
            last_norm=True,
            bn_group=given.bn_group,
            dtype=given.dtype,
        )
        return Joined(backbone, {"head": head})

    def loss(self, nets, params, model_state, aux, batch, clock, rng):
        variables = {"params": params, **model_state}
        features, model_state = apply_views(nets.student, variables, batch.views[0], True, batch.keys)
        z = unit(features["embedding"])
        losses = nt_xent(z, temperature=self.temperature)
        metrics = {"positive_cosine": (z[:, 0] * z[:, 1]).sum(axis=1)}
        return losses.mean(), LossOut(model_state, aux, metrics)

    def frozen(self, path):
        return path == ("head", f"bn{self.layers}", "bias")
