"""One file per run. In a clone they are in `configs/`; installed, they are the package `seed_jax.configs`."""
