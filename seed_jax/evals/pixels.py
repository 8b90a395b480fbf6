"""Raw pixels as features: what any network must beat to have learned something."""

import dataclasses

import jax

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
