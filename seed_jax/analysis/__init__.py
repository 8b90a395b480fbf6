"""What papers measure to explain themselves: pure functions of what networks return."""

from seed_jax.analysis.covariance import probability_covariance, risk_covariance
from seed_jax.analysis.t_stddev import (
    ChunkMeans,
    bootstrap,
    bootstrap_interval,
    released_t_stddev,
    stddev_of_means,
    t_stddev,
)

__all__ = [
    "ChunkMeans",
    "bootstrap",
    "bootstrap_interval",
    "probability_covariance",
    "released_t_stddev",
    "risk_covariance",
    "stddev_of_means",
    "t_stddev",
]
