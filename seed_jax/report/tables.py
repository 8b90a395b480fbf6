"""Tables of results: the same rows go to a README as Markdown and to a report as HTML."""

import dataclasses
import statistics
from collections.abc import Sequence


def mean_std(values: Sequence[float], digits: int = 1) -> str:
    """`'93.1 ± 0.4'`: mean and sample standard deviation (n - 1); the number alone when there is only one."""
    mean = f"{statistics.fmean(values):.{digits}f}"
    return mean if len(values) == 1 else f"{mean} ± {statistics.stdev(values):.{digits}f}"


@dataclasses.dataclass(frozen=True)
class Table:
    """A header and rows whose cells are text, an integer, a number, or a list of numbers, one a seed.

    Numbers are shown with `digits` decimals, lists as mean ± standard deviation, None as a dash.
    """

    header: Sequence[str]
    rows: Sequence[Sequence[str | int | float | Sequence[float] | None]]
    caption: str = ""
    digits: int = 1

    def cells(self) -> list[list[str]]:
        """The rows as text."""
        return [[self._cell(value) for value in row] for row in self.rows]

    def _cell(self, value) -> str:
        if value is None:
            return "–"
        if isinstance(value, str | int):
            return str(value)
        return mean_std(value if isinstance(value, Sequence) else [value], self.digits)

    def markdown(self) -> str:
        """A Markdown table without the caption, numbers aligned to the right."""
        rule = ["---" if i == 0 else "---:" for i in range(len(self.header))]
        rows = [
            [cell.replace("|", "\\|") for cell in row] for row in (list(self.header), rule, *self.cells())
        ]
        return "\n".join("| " + " | ".join(row) + " |" for row in rows)
