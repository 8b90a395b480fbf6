"""./run.sh compare experiments/seed_strategies/rates.py: the strategies' learning rates, validation split."""

import dataclasses

from experiments.seed_strategies import setting
from seed_jax.compare import Comparison, Trained

SEEDS = (10,)  # none that the table reports
# Those whose best rate was an end of the grid get one more.
FURTHER = {setting.ALONE: 0.0075, "k-means": 1.92, "CompRess-2q": 0.0075, "DisCo": 0.0075}


def row(name: str, rate: float) -> str:
    return f"{name}, rate {rate:g}"


def get_comparison(quick: bool = False) -> Comparison:
    names = (setting.ALONE, *setting.STRATEGIES)
    names = names[:2] if quick else names
    rows = [Trained(setting.TEACHER, "digits_teacher:smoke" if quick else "digits_teacher")]
    for name in names:
        rates = setting.RATES + ((FURTHER[name],) if name in FURTHER else ())
        for rate in rates[: 1 if quick else None]:
            rows.append(setting.student(name, quick, rate=rate, row=row(name, rate)))
    for name in () if quick else setting.BETWEEN:
        rows.append(setting.student(name, quick))
    return Comparison(
        title="Learning rates of the strategies, validation split",
        rows=tuple(dataclasses.replace(each, overrides={"data.test": "val"}) for each in rows),
        baseline=row(setting.SEED, setting.RATES[0]),
        seeds=SEEDS,
    )
