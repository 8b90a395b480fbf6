"""What papers measure to explain themselves: pure functions of arrays and of what networks return.

`sections` and the command (`__main__.py`) apply them to runs; they are not imported here, since they need the
trainer.
"""

from seed_jax.analysis.attention import (
    attention_distance,
    attention_nmi,
    diagonal_mass,
    head_cosine,
    mean_attention,
)
from seed_jax.analysis.covariance import probability_covariance, risk_covariance
from seed_jax.analysis.landscape import filter_normalised_direction, landscape
from seed_jax.analysis.magnitudes import gradient_magnitudes
from seed_jax.analysis.overlay import coloured, overlay
from seed_jax.analysis.separability import separability
from seed_jax.analysis.t_stddev import (
    ChunkMeans,
    released_t_stddev,
    stddev_of_means,
    t_stddev,
    t_stddev_difference,
    t_stddev_interval,
)
from seed_jax.analysis.weight_noise import noisy, recomputed_statistics

__all__ = [
    "ChunkMeans",
    "attention_distance",
    "attention_nmi",
    "coloured",
    "diagonal_mass",
    "filter_normalised_direction",
    "gradient_magnitudes",
    "head_cosine",
    "landscape",
    "mean_attention",
    "noisy",
    "overlay",
    "probability_covariance",
    "recomputed_statistics",
    "released_t_stddev",
    "risk_covariance",
    "separability",
    "stddev_of_means",
    "t_stddev",
    "t_stddev_difference",
    "t_stddev_interval",
]
