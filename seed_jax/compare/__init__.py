"""Compare runs: rows, seeds and scores in one command and on one page (docs/experiments.md)."""

from seed_jax.compare.spec import Comparison, Trained, Untrained

__all__ = ["Comparison", "Trained", "Untrained"]
