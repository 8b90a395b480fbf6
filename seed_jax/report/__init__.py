"""Write the metrics of a run to disk, and turn them into tables, plots and HTML pages."""

from seed_jax.report.runs import compare, run_report
from seed_jax.report.verdict import answer, probe_line

__all__ = ["answer", "compare", "probe_line", "run_report"]
