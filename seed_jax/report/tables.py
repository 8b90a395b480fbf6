"""Tables of results: Markdown for a README, HTML for a report, LaTeX for a paper."""

import dataclasses
import math
import statistics
from collections.abc import Sequence

SCORES = {"knn": "kNN", "linear": "linear probe", "top1": "classifier"}  # headings of columns
_PROSE = 28  # letters; a column with a longer cell is text, not numbers
_LATEX = str.maketrans(
    {
        **{letter: f"\\{letter}" for letter in "&%$#_{}"},
        "\\": r"\textbackslash{}",
        "~": r"\textasciitilde{}",
        "^": r"\textasciicircum{}",
        "<": r"\textless{}",
        ">": r"\textgreater{}",
        "|": r"\textbar{}",
        "[": "{[}",  # after a line break, LaTeX takes these two for an option
        "*": "{*}",
        "±": r"$\pm$",
        "×": r"$\times$",
        "–": "--",
        "\n": " ",
    }
)


def mean_std(values: Sequence[float], digits: int = 1) -> str:
    """Mean and sample standard deviation (n - 1) as text; only the number when there is one value, and only
    the mean when a value is not finite.

    >>> mean_std([92.7, 93.1, 93.5])
    '93.1 ± 0.4'
    >>> mean_std([93.14]), mean_std([93.14, math.inf])
    ('93.1', 'inf')
    """
    mean = f"{statistics.fmean(values):.{digits}f}"
    alone = len(values) == 1 or not all(map(math.isfinite, values))
    return mean if alone else f"{mean} ± {statistics.stdev(values):.{digits}f}"


@dataclasses.dataclass(frozen=True)
class Table:
    """A header and rows of cells.

    A cell is text, an integer, a float (shown with `digits` decimals), a list of floats with one value per
    seed (shown as mean ± standard deviation), or None (shown as a dash).

    >>> print(Table(["network", "kNN"], [["student", [73.0, 75.0]], ["teacher", 76.0]]).markdown())
    | network | kNN |
    | --- | ---: |
    | student | 74.0 ± 1.4 |
    | teacher | 76.0 |
    """

    header: Sequence[str]
    rows: Sequence[Sequence[str | int | float | Sequence[float] | None]]
    digits: int = 1

    def cells(self) -> list[list[str]]:
        """The rows as text."""
        return [[self._cell(value) for value in row] for row in self.rows]

    def prose(self) -> list[bool]:
        """Whether each column is text, aligned to the left and wrapped; the first one always is."""
        columns = zip(*self.cells(), strict=True) if self.rows else [()] * len(self.header)
        return [i == 0 or any(len(cell) > _PROSE for cell in column) for i, column in enumerate(columns)]

    def _cell(self, value) -> str:
        if value is None:
            return "–"
        if isinstance(value, str | int):
            return str(value)
        return mean_std(value if isinstance(value, Sequence) else [value], self.digits)

    def markdown(self) -> str:
        """The table as Markdown; all columns but the first are aligned to the right."""
        rule = ["---" if i == 0 else "---:" for i in range(len(self.header))]
        rows = self._escaped()
        return "\n".join("| " + " | ".join(row) + " |" for row in (rows[0], rule, *rows[1:]))

    def aligned(self) -> str:
        """The table as Markdown whose columns are as wide as their cells, for a terminal.

        >>> print(Table(["network", "kNN"], [["student", [73.0, 75.0]], ["teacher", 76.0]]).aligned())
        | network |        kNN |
        | ------- | ---------: |
        | student | 74.0 ± 1.4 |
        | teacher |       76.0 |
        """
        rows = self._escaped()
        widths = [max(3, *map(len, column)) for column in zip(*rows, strict=True)]
        rows = [[row[0].ljust(widths[0]), *map(str.rjust, row[1:], widths[1:])] for row in rows]
        rule = ["-" * (width - 1) + ":" if i else "-" * width for i, width in enumerate(widths)]
        return "\n".join("| " + " | ".join(row) + " |" for row in (rows[0], rule, *rows[1:]))

    def _escaped(self) -> list[list[str]]:
        """The header and the rows as text of Markdown."""
        return [[cell.replace("|", "\\|") for cell in row] for row in (list(self.header), *self.cells())]

    def latex(self) -> str:
        r"""The table as a LaTeX `tabular` with the rules of the package booktabs.

        >>> print(Table(["net", "kNN, %"], [["a_b", [73.0, 75.0]]]).latex())
        % needs \usepackage{booktabs}
        \begin{tabular}{lr}
        \toprule
        net & kNN, \% \\
        \midrule
        a\_b & 74.0 $\pm$ 1.4 \\
        \bottomrule
        \end{tabular}
        """
        columns = "".join("l" if prose else "r" for prose in self.prose())
        lines = [[cell.translate(_LATEX) for cell in row] for row in (self.header, *self.cells())]
        head, *rows = (" & ".join(line) + r" \\" for line in lines)
        return "\n".join(
            [
                r"% needs \usepackage{booktabs}",
                rf"\begin{{tabular}}{{{columns}}}",
                r"\toprule",
                head,
                r"\midrule",
                *rows,
                r"\bottomrule",
                r"\end{tabular}",
            ]
        )
