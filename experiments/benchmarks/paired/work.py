"""The work that both sides of the paired benchmark do; neither JAX nor torch is needed to describe it."""

import dataclasses
from pathlib import Path

import numpy as np

DIM = 128
TAU_STUDENT, TAU_TEACHER = 0.2, 0.01
RATE, RATE_BATCH, MOMENTUM, DECAY = 0.03, 256, 0.9, 1e-4
PARTS = ("step", "teacher forward", "student forward + backward", "loss and its gradient")
LOSSES = 2  # losses of the first steps that are compared: the second one depends on the update and the queue


@dataclasses.dataclass(frozen=True)
class Work:
    """One size of the step, without dropout and photometrics, so that the losses can be compared.

    Attributes:
      base: channels of the first stage of ResNets, 64 as published.
    """

    teacher: str
    student: str
    size: int
    batch: int
    queue: int
    base: int = 64

    def __str__(self):
        return (
            f"{self.teacher} to {self.student}, {self.size} px, batch {self.batch}, K = {self.queue:,}, fp32"
        )


FULL = (
    Work("resnet50", "mobilenetv3_large", 224, 16, 65_536),
    Work("resnet50", "mobilenetv3_large", 64, 64, 65_536),
)
TINY = (Work("resnet18", "resnet18", 32, 8, 64, base=8),)


def images(work: Work) -> np.ndarray:
    """uint8 `[B, size, size, 3]`, noise."""
    shape = (work.batch, work.size, work.size, 3)
    return np.random.default_rng(0).integers(0, 256, shape, np.uint8)


def queue(work: Work) -> np.ndarray:
    """float32 `[K, DIM]`, noise with rows of length 1."""
    rows = np.random.default_rng(1).standard_normal((work.queue, DIM), np.float32)
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


def files(folder: Path, work: Work) -> tuple[Path, Path]:
    """Where the weights of the teacher and of the student are."""
    return tuple(folder / f"{part}_{getattr(work, part)}_{work.base}.pth" for part in ("teacher", "student"))
