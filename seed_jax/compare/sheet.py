"""The rows of a comparison as CSV: plain numbers, for a spreadsheet or a program."""

import csv
import io
import statistics

from seed_jax.compare.results import Cost, Result, Row


def text(result: Result) -> str:
    """One line for each row below the headings, each of which ends with a line feed.

    The columns are row and parameters; mean and sample standard deviation over the seeds of each score, in
    percent; the difference from the baseline in the deciding score with its 95 % interval, in points, and the
    seeds that both have; and the cost. A cell is empty where a number is not known.
    """
    lines = [_line(result, row) for row in result.rows]
    output = io.StringIO()
    writer = csv.DictWriter(output, list(lines[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(lines)
    return output.getvalue()


def _line(result: Result, row: Row) -> dict[str, str | int | float | None]:
    line = {"row": row.name, "parameters": row.parameters}
    for name in result.evals:
        values = row.scores.get(name, ())
        line[f"{name}_mean"] = statistics.fmean(values) if values else None
        line[f"{name}_std"] = statistics.stdev(values) if len(values) > 1 else None
    deciding, cost = result.evals[0], row.cost or Cost()
    found = result.difference(row.name, deciding)
    line[f"{deciding}_difference"] = found and found.points
    line[f"{deciding}_low"] = found and found.low
    line[f"{deciding}_high"] = found and found.high
    line["seeds"] = found and found.seeds
    return line | {
        "seconds": cost.seconds,
        "flop": cost.flops,
        "memory_bytes": cost.memory,
        "teacher_images": cost.teacher_images,
    }
