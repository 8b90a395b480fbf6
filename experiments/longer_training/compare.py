"""./run.sh compare experiments/longer_training: how many epochs pay, for each way to train."""

import dataclasses

from experiments.da_ranking import setting
from seed_jax.compare import Comparison

DATA, MODEL = "fashion", setting.STUDENTS[0]
EPOCHS = (15, 30, 60, 120)
WAYS = {
    "alone": {"method": "supervised"},
    "KD": {},
    "KD, CutMixPick": {"augment": "cutmix_pick"},
}


def row(way: str, epochs: int) -> str:
    return f"{way}, {epochs} epochs"


def get_comparison(quick: bool = False) -> Comparison:
    epochs = EPOCHS[:2] if quick else EPOCHS
    rows = [setting.teacher(DATA, quick)]
    for way, fields in WAYS.items():
        for count in epochs:
            one = setting.student(row(way, count), DATA, MODEL, quick, **fields)
            length = {} if quick else {"train.epochs": float(count)}
            rows.append(dataclasses.replace(one, overrides=length))
    return Comparison(
        title="Training for longer",
        rows=tuple(rows),
        baseline=row("alone", epochs[1]),
        seeds=(0,) if quick else (0, 1, 2),
        evals=("top1",),
        notes=("Milestones of the learning rate are shares of the epochs.",),
    )
