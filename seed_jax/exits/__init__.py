"""Early exits of a network: what each costs and knows, and answers by the first that is confident."""

from seed_jax.exits.adaptive import Answer, adaptive
from seed_jax.exits.sweep import Policy, confidence, sweep

__all__ = ["Answer", "Policy", "adaptive", "confidence", "sweep"]
