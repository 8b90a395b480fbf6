"""Other people's checkpoints: `recognise` tells which network to build, `load` fills its variables."""

from seed_jax.weights.heads import Head
from seed_jax.weights.loading import load
from seed_jax.weights.provenance import describe_source, sha256
from seed_jax.weights.recognition import Recognised, recognise

__all__ = ["Head", "Recognised", "describe_source", "load", "recognise", "sha256"]
