"""Write the metrics of a run to disk, and turn them into tables, plots and HTML pages."""

from seed_jax.report.runs import run_report
from seed_jax.report.verdict import answer, milestone, probe_line

__all__ = ["answer", "milestone", "probe_line", "run_report"]
