"""./run.sh compare experiments/longer_training: how many epochs pay, for each way to train."""

from experiments.da_ranking import setting
from seed_jax.compare import Comparison

DATA, MODEL = "fashion", setting.STUDENTS[0]
EPOCHS = (6.0, 12.0, 24.0, 48.0)
WAYS = {
    "alone": {"method": "supervised"},
    "KD": {},
    "KD, CutMixPick": {"augment": "cutmix_pick"},
}


def row(way: str, epochs: float) -> str:
    return f"{way}, {epochs:.0f} epochs"


def get_comparison(quick: bool = False) -> Comparison:
    epochs = EPOCHS[:2] if quick else EPOCHS
    rows = [setting.teacher(DATA, quick)]
    for way, fields in WAYS.items():
        for count in epochs:
            rows.append(setting.student(row(way, count), DATA, MODEL, quick, epochs=count, **fields))
    return Comparison(
        title="Training for longer",
        rows=tuple(rows),
        baseline=row("alone", epochs[1]),
        seeds=(0,) if quick else (0, 1, 2),
        evals=("top1",),
        notes=("Milestones of the learning rate are shares of the epochs.",),
    )
