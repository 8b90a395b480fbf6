"""Other people's checkpoints: `recognise` tells which network to build, `load` fills its variables."""

from seed_jax.weights.loading import Head, Recognised, load, recognise, sha256

__all__ = ["Head", "Recognised", "load", "recognise", "sha256"]
