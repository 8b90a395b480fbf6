"""./run.sh compare experiments/seed_teachers/rates.py: three learning rates each, validation split."""

from experiments.seed_teachers.compare import METHODS, RATES, teacher_config
from seed_jax.compare import Comparison, Trained

SEEDS = (10,)  # none that the table reports


def row(name: str, rate: float) -> str:
    return f"{name}, rate {rate:g}"


def get_comparison(quick: bool = False) -> Comparison:
    rows = [
        Trained(row(name, rate), teacher_config(name, quick, rate), {"data.test": "val"})
        for name in METHODS
        for rate in RATES[: 1 if quick else None]
    ]
    return Comparison(
        title="Learning rates of the teachers, validation split",
        rows=tuple(rows),
        baseline=rows[0].name,
        seeds=SEEDS,
    )
