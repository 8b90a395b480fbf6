"""./run.sh compare experiments/response_losses: ten losses, with CutMixPick and without."""

from experiments.da_ranking import setting
from seed_jax.compare import Comparison
from seed_jax.configs import digits_kd

DATA, MODEL = "fashion", setting.STUDENTS[0]
# Weights, and the share of the run that is DKD's warm-up, as their authors publish them for CIFAR-100; gamma
# is the weight of the cross entropy.
LOSSES = {
    "KD": {"losses": {"kd": 0.9}, "gamma": 0.1},
    "KD, standardised": {"losses": {"kd": 9.0}, "gamma": 0.1, "temperature": 2.0, "standardise": True},
    "DKD": {"losses": {"dkd": 1.0}, "gamma": 1.0, "warmup_epochs": digits_kd.EPOCHS * 20 / 240},
    "DIST": {"losses": {"dist": 2.0}, "gamma": 1.0},
    "FitNet": {"losses": {"fitnet": 100.0}, "gamma": 1.0},
    "SP": {"losses": {"sp": 3000.0}, "gamma": 1.0},
    "PKT": {"losses": {"pkt": 30000.0}, "gamma": 1.0},
    "RKD": {"losses": {"rkd": 1.0}, "gamma": 1.0},
    "CRD, queues": {"losses": {"crd": 0.8}, "gamma": 1.0, "queue_size": 2048},
    "CRD, queues + KD": {"losses": {"crd": 0.8, "kd": 1.0}, "gamma": 1.0, "queue_size": 2048},
}


def get_comparison(quick: bool = False) -> Comparison:
    rows = [
        setting.teacher(DATA, quick),
        setting.student("student alone", DATA, MODEL, quick, method="supervised"),
    ]
    for name, fields in LOSSES.items():
        if quick:
            fields = {**fields, **({"queue_size": 64} if "queue_size" in fields else {})}
        rows.append(setting.student(name, DATA, MODEL, quick, **fields))
        if name != "CRD, queues":
            rows.append(
                setting.student(f"{name}, CutMixPick", DATA, MODEL, quick, augment="cutmix_pick", **fields)
            )
    return Comparison(
        title="Losses of responses and of relations",
        rows=tuple(rows),
        baseline="KD",
        seeds=(0,) if quick else (0, 1, 2),
        evals=("top1",),
        notes=(
            "With CutMixPick every loss but CRD's also sees the mixed images; CRD alone has no such row.",
            "CRD has queues of 2,048 past embeddings, of which a tenth are of the same class; the paper's "
            "negatives are of other classes.",
            "The student and its schedule are the same in every row; no row was tuned.",
        ),
    )
