"""Write the metrics of a run to disk, and turn them into tables, plots and HTML pages."""

from seed_jax.report.runs import compare, run_report

__all__ = ["compare", "run_report"]
