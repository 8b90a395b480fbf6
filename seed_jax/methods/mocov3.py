"""MoCo v3: momentum contrast without a queue (Chen et al., ICCV 2021, arXiv 2104.02057)."""

import dataclasses
import math
from typing import ClassVar

import jax
import jax.numpy as jnp
import optax
from jax import lax

from seed_jax.data import rng as rng_lib
from seed_jax.data.photometric import PRESETS
from seed_jax.errors import UserError, unknown
from seed_jax.losses import batch_info_nce
from seed_jax.methods.base import LossOut, Method, base_view, bound, grouped, unit, without
from seed_jax.models.heads import ProjectionHead
from seed_jax.models.network import Joined, without_dropout


@dataclasses.dataclass(frozen=True)
class MoCoV3(Method):
    """Each of two views must find the other one's key among the keys of the batch, both ways.

    A query passes a head and a predictor, a key the head of an exponential moving average of the network.
    The order of events is that of facebookresearch/moco-v3, moco/builder.py: queries, then the average moves,
    then keys; every forward has one view, and statistics of its own. Use it with `train.bn_group=0`, as the
    released code does. What is probed and exported is the network that is trained, without the predictor.

    The last norms of head and predictor have no scale and shift: they stay 1 and 0. Positions are not
    trained, if the backbone has them, nor is the projection of patches: random ones make ViTs more stable
    (section 4). The option `mocov3_init` of a ViT starts it as the released code does.

    Attributes:
      temperature: temperature of InfoNCE; the loss is multiplied by twice the temperature.
      momentum: momentum of the moving average at the start; it rises to 1 along half a cosine.
      dim: width of the embedding.
      hidden: width of the hidden layers of head and predictor.
      layers: Linear layers of the head: 3 for ViTs, 2 for ResNets.
      predictor_norm: normalise after the predictor, as for ViTs; False for ResNets.
      freeze_patches: freeze the patch embedding.
      photometric_second: photometrics of the second view, a key of `seed_jax.data.photometric.PRESETS`;
        the first has data.photometric.
    """

    temperature: float = 0.2
    momentum: float = 0.99
    dim: int = 256
    hidden: int = 4096
    layers: int = 3
    predictor_norm: bool = True
    freeze_patches: bool = True
    photometric_second: str = "dino_second"

    smoke: ClassVar = {"hidden": 32, "dim": 16}

    def check(self, data, train):
        bound(self, "temperature", above=0)
        bound(self, "momentum", least=0, most=1)
        bound(self, "dim", "hidden", "layers", least=1)
        if self.photometric_second not in PRESETS:
            raise unknown("method.photometric_second", self.photometric_second, PRESETS)

    def whole_batch(self):
        return "it compares each image with all others"

    def notice(self, metrics, given):
        return grouped(given)

    def views(self, data):
        first = base_view(data)
        return (first, dataclasses.replace(first, photometric=self.photometric_second))

    def network(self, backbone, given):
        module = getattr(backbone, "module", None)
        if getattr(module, "positions", "") == "absolute":
            raise UserError(
                "student.options.positions is 'absolute', but mocov3 does not train positions, which would "
                "stay random: use 'shared' or 'layer'."
            )
        if not getattr(module, "mocov3_init", True):
            raise UserError(
                "student.options.mocov3_init is False, but mocov3 does not train positions, which would stay "
                "random: use --config.student.options.mocov3_init=True."
            )

        def mlp(layers, last_norm, **names):
            return ProjectionHead(
                self.hidden,
                self.dim,
                layers,
                batch_norm=True,
                bias=False,
                last_norm=last_norm,
                bn_group=given.bn_group,
                dtype=given.dtype,
                **names,
            )

        predictor = mlp(2, self.predictor_norm, of="embedding", out="prediction")
        return Joined(backbone, {"head": mlp(self.layers, True), "predictor": predictor})

    def init_aux(self, rng, given, variables):
        return {"ema": jax.tree.map(jnp.copy, self.served(variables, {}))}

    def loss(self, nets, params, model_state, aux, batch, clock, rng):
        def forward(network, variables, entry, pixels, keys):
            features, state = network.apply(variables, pixels, True, keys)
            return unit(features[entry]), {"params": variables["params"], **state}

        views = [(views[:, 0], rng_lib.fold(batch.keys, v)) for v, views in enumerate(batch.views)]
        variables, queries, keys = {"params": params, **model_state}, [], []
        for view in views:
            query, variables = forward(nets.student, variables, "prediction", *view)
            queries.append(query)
        del variables["params"]

        momentum = self.momentum_at(clock.progress)
        trained = lax.stop_gradient({name: tree for name, tree in params.items() if name != "predictor"})
        average = optax.incremental_update(trained, aux["ema"]["params"], 1 - momentum)
        head = {"head": nets.student.parts["head"]}
        teacher, ema = without_dropout(dataclasses.replace(nets.student, parts=head)), aux["ema"]
        ema = {**ema, "params": average}
        for view in views:
            key, ema = forward(teacher, ema, "embedding", *view)
            keys.append(lax.stop_gradient(key))

        terms = [
            batch_info_nce(q, k, temperature=self.temperature)
            for q, k in zip(queries, reversed(keys), strict=True)
        ]
        cosine = sum((q * k).sum(axis=1) for q, k in zip(queries, reversed(keys), strict=True)) / 2
        total = 2 * self.temperature * sum(terms)
        metrics = {"positive_cosine": cosine, "momentum": momentum}
        return total.mean(), LossOut(variables, {"ema": ema}, metrics)

    def momentum_at(self, progress: jax.Array) -> jax.Array:
        """The momentum after a share of the run, as `adjust_moco_momentum` of main_moco.py sets it."""
        return 1 - (1 - self.momentum) * 0.5 * (1 + jnp.cos(math.pi * progress))

    def served(self, variables, aux):
        return without(variables, ("predictor",))

    def frozen(self, path):
        if path[0] == "backbone":
            return path[1] == "pos_embed" or (self.freeze_patches and path[1] == "patch_embed")
        last = {"head": self.layers, "predictor": 2 if self.predictor_norm else None}
        return path[0] in last and path[1] == f"bn{last[path[0]]}"
