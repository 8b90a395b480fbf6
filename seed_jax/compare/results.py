"""What a comparison found: one row for each thing compared, and its difference from the baseline."""

import dataclasses
from collections.abc import Mapping, Sequence


@dataclasses.dataclass(frozen=True)
class Cost:
    """What one run cost; None where it was not measured.

    Attributes:
      seconds: of the steps, on the wall clock: without compiling, probes and checkpoints.
      flops: of all steps: teacher's forwards, student's forwards and backwards.
      memory: bytes that a step needs on one device, as `train.plan` computes them.
      teacher_images: forwards of the teacher, in images.
    """

    seconds: float | None = None
    flops: float | None = None
    memory: int | None = None
    teacher_images: int | None = None


@dataclasses.dataclass(frozen=True)
class Row:
    """The finished cells of one row.

    Attributes:
      name: of the row.
      seeds: in the order of the lists below; () for a row that no seed changes, whose lists have one element.
      scores: percent by name of the score, at the last checkpoint, one number for each seed; shares alone.
      best: the same at the checkpoint with the best score on the validation split; {} without training.
      workdirs: of the runs; () without training.
      parameters: of the backbone; None if no cell is finished.
      steps, images: updates, and images seen; None without training.
      cost: mean over the seeds; None without training.
      settings: the config without the seed, flat, by dotted key; {} without training.
      needs: names of the rows that are its teacher, or that it starts from.
      failed: one sentence for each cell without scores.
      notes: one sentence for each difference from the baseline in steps, images or network.
    """

    name: str
    seeds: tuple[int, ...]
    scores: Mapping[str, Sequence[float]]
    best: Mapping[str, Sequence[float]]
    workdirs: tuple[str, ...]
    parameters: int | None
    steps: int | None
    images: int | None
    cost: Cost | None
    settings: Mapping[str, object]
    needs: tuple[str, ...] = ()
    failed: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()


@dataclasses.dataclass(frozen=True)
class Difference:
    """A row minus the baseline in one score, in percentage points.

    Attributes:
      row, score: names.
      points: mean over the seeds that both have.
      low, high: 95 % interval.
      seeds: number of seeds that both have; 1 if no seed changes either.
      images: of the test split.
    """

    row: str
    score: str
    points: float
    low: float
    high: float
    seeds: int
    images: int

    @property
    def shown(self) -> bool:
        """Whether the interval excludes 0."""
        return self.low > 0 or self.high < 0

    def sentence(self) -> str:
        """The difference in words.

        >>> Difference("SEED", "knn", 2.1, 1.2, 3.0, seeds=3, images=352).sentence()
        'better by 2.1 points (1.2 to 3.0, 3 seeds)'
        >>> Difference("SEED", "knn", 0.2, -0.4, 0.9, seeds=3, images=352).sentence()
        'no difference shown (-0.4 to 0.9, 3 seeds)'
        """
        over = f"{self.seeds} seeds" if self.seeds > 1 else f"1 seed, {self.images:,} images"
        interval = f"({self.low:.1f} to {self.high:.1f}, {over})"
        if not self.shown:
            return f"no difference shown {interval}"
        return f"{'better' if self.points > 0 else 'worse'} by {abs(self.points):.1f} points {interval}"


@dataclasses.dataclass(frozen=True)
class Result:
    """A comparison, as the page shows it.

    Attributes:
      title, baseline: of the comparison; `baseline` is the name of a row.
      evals: names of the scores, the deciding one first.
      split: that was scored, and `images` in it.
      rows: in the order of the file.
      differences: of each row from the baseline in each score.
      provenance: facts in words by name: command, commit, versions, hardware, date, data.
      notes: sentences of the file, and about the scores.
    """

    title: str
    baseline: str
    evals: tuple[str, ...]
    split: str
    images: int
    rows: tuple[Row, ...]
    differences: tuple[Difference, ...]
    provenance: Mapping[str, str]
    notes: tuple[str, ...] = ()

    def row(self, name: str) -> Row:
        return next(row for row in self.rows if row.name == name)

    def difference(self, row: str, score: str) -> Difference | None:
        """None for the baseline, for a row without scores, and where a score is one number in all."""
        return next((d for d in self.differences if (d.row, d.score) == (row, score)), None)
