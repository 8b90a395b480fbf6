"""What papers measure to explain themselves: pure functions of what networks return."""

from seed_jax.analysis.t_stddev import t_stddev

__all__ = ["t_stddev"]
