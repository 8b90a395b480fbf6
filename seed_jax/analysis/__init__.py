"""What papers measure to explain themselves: pure functions of what networks return."""

from seed_jax.analysis.covariance import probability_covariance, risk_covariance
from seed_jax.analysis.separability import separability
from seed_jax.analysis.t_stddev import (
    ChunkMeans,
    released_t_stddev,
    stddev_of_means,
    t_stddev,
    t_stddev_difference,
    t_stddev_interval,
)

__all__ = [
    "ChunkMeans",
    "probability_covariance",
    "released_t_stddev",
    "risk_covariance",
    "separability",
    "stddev_of_means",
    "t_stddev",
    "t_stddev_difference",
    "t_stddev_interval",
]
