"""Distil big vision networks into small ones, in JAX."""

__version__ = "0.1.0"
