"""Raw pixels as features: what any network must beat to have learned something."""

import dataclasses
import math

import jax

from seed_jax.config import Config

VARIABLES = {"params": {"backbone": {}}}


@dataclasses.dataclass(frozen=True)
class RawPixels:
    """The network without parameters whose features are the image, at most `side` pixels wide and high."""

    side: int = 32

    def apply(self, variables, x, train, keys=None):
        """`pooled`: float32 `[B, h * w * 3]` of images `[B, H, W, 3]`, averaged down if they are larger."""
        del variables, train, keys
        h, w = (min(self.side, n) for n in x.shape[1:3])
        return {"pooled": jax.image.resize(x, (len(x), h, w, 3), "linear").reshape(len(x), -1)}, {}


def scored(config: Config, bank: int, queries: int) -> tuple[RawPixels, Config]:
    """The raw pixels to score, and the config to score them with, which reads their one feature.

    They are averaged down from 32 x 32 as far as needed for those of each split to fit into 1 GiB.

    Args:
      config: of the run; at most `evals.bank_size` images of the bank are searched.
      bank: number of labelled images to learn from.
      queries: number of images to score.
    """
    evals = dataclasses.replace(config.evals, feature="pooled")
    images = max(queries, min(bank, evals.bank_size or bank))
    side = max(1, min(32, math.isqrt(2**28 // (3 * images))))
    return RawPixels(side), dataclasses.replace(config, evals=evals)
