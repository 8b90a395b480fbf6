"""Read and write weights files: `recognise` identifies the network in a file, `load` reads its variables,
`save` writes them under PyTorch's names.
"""

from seed_jax.weights import provenance, source
from seed_jax.weights.heads import Head
from seed_jax.weights.loading import load
from seed_jax.weights.provenance import describe_source, sha256
from seed_jax.weights.recognition import Recognised, recognise
from seed_jax.weights.saving import save

__all__ = [
    "Head",
    "Recognised",
    "describe_source",
    "load",
    "provenance",
    "recognise",
    "save",
    "sha256",
    "source",
]
