"""Losses: pure functions of arrays that return one value per sample."""

from seed_jax.losses.contrastive import info_nce, seed_loss

__all__ = ["info_nce", "seed_loss"]
