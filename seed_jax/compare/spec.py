"""The file of a comparison: its rows, seeds, scores and baseline."""

import dataclasses
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import ml_collections

from seed_jax import config as config_lib
from seed_jax.errors import UserError, unknown
from seed_jax.evals import EVALUATORS
from seed_jax.report import metrics

FUNCTION = "get_comparison"
SEQUENCES = {  # the fields of a comparison with several values, and how they are written
    "rows": "rows=(Trained(…), Untrained(…))",
    "seeds": "seeds=(0, 1, 2)",
    "evals": "evals=('knn', 'linear')",
    "notes": "notes=('A sentence.',)",
}


@dataclasses.dataclass(frozen=True)
class Trained:
    """A row that is trained, once for each seed.

    Attributes:
      name: of the row.
      config: a config file or the name of a packaged config, with `:VARIANT` if wanted; or a `ConfigDict`.
      overrides: values by dotted key, such as `{"optim.lr": 0.1}`.
      teacher: the name of the row whose run, of the same seed, is the teacher.
      start: the name of the row whose run, of the same seed, is `student.init`.
    """

    name: str
    config: str | ml_collections.ConfigDict
    overrides: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    teacher: str = ""
    start: str = ""

    @property
    def needs(self) -> tuple[str, ...]:
        """The rows that must be finished before this one."""
        return tuple(name for name in (self.teacher, self.start) if name)

    def raw(self, seed: int) -> ml_collections.ConfigDict:
        """The config of a seed, without what comes from other rows.

        Raises:
          UserError: there is no such config, or an override is no key of it.
        """
        made = config_lib.load(self.config) if isinstance(self.config, str) else self.config
        raw = ml_collections.ConfigDict(made.to_dict())
        for key, value in {**self.overrides, "train.seed": seed}.items():
            section, _, field = key.partition(".")
            if section not in raw or not field:
                raise unknown(f"key in the overrides of row '{self.name}'", key, config_lib.keys())
            with raw.ignore_type():  # `config.resolve` checks types, with a sentence
                raw[section].update({field: value})
        return raw


@dataclasses.dataclass(frozen=True)
class Untrained:
    """A row that is scored without training.

    Attributes:
      name: of the row.
      weights: 'start', the student of the row `like` before its first step; 'teacher', the teacher of that
        row; 'pixels', the images themselves; or any weights that `seed_jax.load` takes.
      like: the name of the trained row whose data and `evals` section are used.
    """

    name: str
    weights: str
    like: str


@dataclasses.dataclass(frozen=True)
class Comparison:
    """What a comparison file returns.

    Attributes:
      title: of the page.
      rows: in the order of the table.
      baseline: the name of the row that the others are compared with.
      seeds: of the trained rows.
      evals: the scores to report, by name; the first one decides. They are shares of the images, as
        `metrics.is_share` tells: `knn`, `linear`, `top1`, `NAME_top1`, and those of evaluators of your own.
      notes: sentences for the page.

    Raises:
      UserError: a field has a value that is not allowed; the sentence says which one is.
    """

    title: str
    rows: tuple[Trained | Untrained, ...]
    baseline: str
    seeds: tuple[int, ...] = (0, 1, 2)
    evals: tuple[str, ...] = ("knn", "linear")
    notes: tuple[str, ...] = ()

    def __post_init__(self):
        for name, example in SEQUENCES.items():
            value = getattr(self, name)
            if isinstance(value, str) or not isinstance(value, Sequence):
                raise UserError(f"{name} of the comparison is {value!r}: write a tuple, as in {example}.")
            object.__setattr__(self, name, tuple(value))
        self._check()

    def row(self, name: str) -> Trained | Untrained:
        return next(row for row in self.rows if row.name == name)

    def needs(self, name: str) -> tuple[str, ...]:
        """The rows that must be finished before a row."""
        row = self.row(name)
        if isinstance(row, Trained):
            return row.needs
        return self.row(row.like).needs if row.weights in ("start", "teacher") else ()

    def each_seed(self, name: str) -> bool:
        """Whether a row has a cell for each seed; otherwise it has one cell."""
        row = self.row(name)
        if isinstance(row, Trained):
            return True
        like = self.row(row.like)
        raw = like.raw(self.seeds[0])
        of_seed = (row.weights == "start" and not raw.student.init) or bool(raw.data.subset)
        of_seed |= row.weights == "teacher" and raw.teacher.weights == "random"
        return of_seed or (row.weights in ("start", "teacher") and bool(like.needs))

    def in_order(self) -> tuple[str, ...]:
        """The names of the rows, each after the rows that it needs; otherwise in the order of the file.

        Raises:
          UserError: rows need each other in a circle.
        """
        left, done = [row.name for row in self.rows], []
        while left:
            ready = [name for name in left if {*self.needs(name)} <= {*done}]
            if not ready:
                raise UserError(
                    f"The rows {', '.join(left)} need each other: let one of them start by itself."
                )
            done.append(ready[0])
            left.remove(ready[0])
        return tuple(done)

    def _check(self) -> None:
        if wrong := [row for row in self.rows if not isinstance(row, Trained | Untrained)]:
            raise UserError(f"rows has {wrong[0]!r}: write a Trained or an Untrained.")
        names = [row.name for row in self.rows]
        if not names:
            raise UserError("The comparison has no rows: add a Trained or an Untrained.")
        if twice := _twice(names):
            raise UserError(f"Two rows are called '{twice}': give each row a name of its own.")
        if twice := _twice([slug(name) for name in names]):
            raise UserError(f"Two rows would share the folder '{twice}': give them more different names.")
        if not self.seeds:
            raise UserError(f"seeds is empty: name at least one seed, as in {SEQUENCES['seeds']}.")
        if wrong := [seed for seed in self.seeds if not isinstance(seed, int)]:
            raise UserError(f"seeds has {wrong[0]!r}: write whole numbers, as in {SEQUENCES['seeds']}.")
        if twice := _twice([str(seed) for seed in self.seeds]):
            raise UserError(f"Seed {twice} is given twice: name each seed once.")
        if not self.evals:
            raise UserError(f"evals is empty: name at least one score, as in {SEQUENCES['evals']}.")
        for score in self.evals:
            _check_score(score)
        if self.baseline not in names:
            raise unknown("row in baseline", self.baseline, names)
        trained = [row.name for row in self.rows if isinstance(row, Trained)]
        for row in self.rows:
            if isinstance(row, Untrained) and row.like not in trained:
                raise unknown(f"trained row in `like` of '{row.name}'", row.like, trained)
            for needed in row.needs if isinstance(row, Trained) else ():
                if needed not in trained:
                    what = "teacher" if needed == row.teacher else "start"
                    raise unknown(f"trained row as the {what} of '{row.name}'", needed, trained)
        self.in_order()


def _check_score(name: str) -> None:
    """Refuse a score that the final evaluation does not return as a share."""
    unlabelled = {score for score, evaluator in EVALUATORS.items() if not evaluator.needs_labels}
    if not isinstance(name, str) or name in unlabelled or not metrics.is_share(name):
        *others, last = sorted({"linear", *EVALUATORS} - unlabelled)
        raise UserError(
            f"evals of the comparison has {name!r}, which is no share of the test images: use "
            f"{', '.join(others)} or {last}, or, for an evaluator of your own, add a word of its score's "
            "name to SHARES in seed_jax/report/metrics.py."
        )


def slug(name: str) -> str:
    """The folder of a row.

    >>> slug("student, MoCo-v2 alone")
    'student-moco-v2-alone'
    """
    return re.sub(r"[^a-z0-9.]+", "-", name.lower()).strip("-.") or "row"


def load(path: Path, quick: bool = False) -> Comparison:
    """The comparison that a file describes: what its function `get_comparison(quick)` returns.

    Raises:
      UserError: as `config.call`, or the file does not return a `Comparison`.
    """
    made = config_lib.call(path, FUNCTION, quick=quick)
    if not isinstance(made, Comparison):
        raise UserError(f"{path}: {FUNCTION} returned {type(made).__name__}: let it return a Comparison.")
    return made


def _twice(names: list[str]) -> str:
    return next((name for name in names if names.count(name) > 1), "")
