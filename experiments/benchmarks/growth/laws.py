"""How a measured quantity grows: the law that is expected, fitted, and how far the points are from it."""

import dataclasses
from collections.abc import Sequence

import numpy as np

STRAIGHT = 0.2  # largest relative distance of a point from a law that it is said to follow
TERMS = {"constant": None, "linear": lambda x: x, "inverse": lambda x: 1 / x}


@dataclasses.dataclass(frozen=True)
class Fit:
    """The law `fixed + slope * term(x)` through some points.

    Attributes:
      law: a key of `TERMS`.
      fixed, slope: in the unit of the values; the slope of a constant is 0.
      worst: the largest distance of a point from the law, as a share of the point.
      exponent: slope of the points in the upper half on logarithmic axes: 0 for a constant, and towards 1
        for a line and -1 for an inverse the smaller the fixed part.
    """

    law: str
    fixed: float
    slope: float
    worst: float
    exponent: float

    @property
    def straight(self) -> bool:
        return self.worst <= STRAIGHT

    def __call__(self, x) -> np.ndarray:
        x = np.asarray(x, float)
        term = TERMS[self.law]
        return self.fixed + self.slope * (term(x) if term else np.zeros_like(x))

    def __str__(self):
        signs = {"constant": "", "linear": " x", "inverse": " / x"}
        return f"{self.fixed:.3g}" + (f" + {self.slope:.3g}{signs[self.law]}" if TERMS[self.law] else "")


def fit(law: str, xs: Sequence[float], ys: Sequence[float]) -> Fit:
    """Fit a law by least squares of the relative distances.

    Args:
      law: a key of `TERMS`.
      xs, ys: at least two positive numbers each; xs ascending.
    """
    x, y = np.asarray(xs, float), np.asarray(ys, float)
    term = TERMS[law]
    columns = np.stack([np.ones_like(x), *([term(x)] if term else [])], axis=1)
    solved = np.linalg.lstsq(columns / y[:, None], np.ones_like(y))[0]
    worst = np.abs(columns @ solved / y - 1).max()
    upper = slice(min(len(x) // 2, len(x) - 2), None)
    exponent = np.polyfit(np.log(x[upper]), np.log(y[upper]), 1)[0]
    return Fit(law, solved[0], solved[1] if term else 0.0, float(worst), float(exponent))
