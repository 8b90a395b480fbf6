"""Distil big vision networks into small ones, in JAX."""
