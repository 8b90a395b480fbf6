"""A comparison that runs in seconds: a MoCo teacher, SEED from it, and rows without training."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent))

import tiny

from seed_jax.compare import Comparison, Trained, Untrained


def config(method):
    c = tiny.get_config(method)
    c.data.resize = 1.0
    c.evals.bank_size, c.evals.names = 64, ("knn",)
    return c


def get_comparison(quick: bool = False) -> Comparison:
    return Comparison(
        title="Toys",
        rows=(
            Trained("SEED", config("seed"), teacher="teacher"),
            Trained("MoCo", config("moco")),
            Trained("teacher", config("moco"), {"optim.lr": 0.05}),
            Untrained("untrained", "start", like="MoCo"),
            Untrained("pixels", "pixels", like="MoCo"),
        ),
        baseline="MoCo",
        seeds=(0,) if quick else (0, 1),
    )
