"""Metrics on disk, and the tables, plots and HTML pages made from them."""

from seed_jax.report.runs import compare, run_report

__all__ = ["compare", "run_report"]
