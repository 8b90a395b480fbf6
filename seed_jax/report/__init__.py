"""Write the metrics of a run to disk, and turn them into tables, plots and HTML pages."""

from seed_jax.report.runs import run_report
from seed_jax.report.verdict import answer, milestones, probe_line

__all__ = ["answer", "milestones", "probe_line", "run_report"]
