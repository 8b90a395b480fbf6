"""Losses: pure functions of arrays, a value for each sample, no state and no config."""

from seed_jax.losses.contrastive import info_nce, seed_loss

__all__ = ["info_nce", "seed_loss"]
