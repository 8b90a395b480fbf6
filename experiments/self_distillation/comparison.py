"""What the comparisons of `fashion` and `scattered` share: everything but the images."""

import dataclasses

from experiments.da_ranking import setting
from seed_jax.compare import Comparison

MODEL, EPOCHS = setting.STUDENTS[0], 24.0
PROBES = 6.0  # epochs between the checkpoints of which the best one is reported, too
FEW = {"fashion": "2%", "scattered": "40%"}  # about 1,000 labelled images
PLAIN, ENSEMBLE = "plain", "ensemble_top1"
# Weights: README.md says where each is from.
METHODS = {
    PLAIN: {"method": "supervised"},
    "label smoothing": {"method": "supervised", "smoothing": 0.1},
    "virtual teacher": {"method": "supervised", "virtual_teacher": 0.1},
    "deep supervision": {"method": "byot", "alpha": 0.0, "feature": 0.0},
    "BYOT": {"method": "byot"},
    "BYOT, journal": {"method": "byot", "form": "journal", "alpha": 0.3, "feature": 0.03},
    "FRSKD": {"method": "frskd"},
    "FRSKD\\F": {"method": "frskd", "beta": 0.0},
    "FRSKD, alpha 0.5": {"method": "frskd", "alpha": 0.5},
    "FRSKD, code": {"method": "frskd", "detach": "code"},
    "FRSKD + SLA": {"method": "frskd", "rotations": 4},
    "SLA": {"method": "sla"},
    "SLA-SD": {"method": "sla", "distil": True},
    "SAD": {"method": "sad"},
    "CS-KD": {"method": "cs_kd"},
    "DDGSD": {"method": "ddgsd"},
    "AT, maps": {"method": "attention_transfer"},
    "AT, gradients": {"method": "attention_transfer", "beta": 0.0, "gradient": 0.1},
    "AT, symmetry": {"method": "attention_transfer", "beta": 0.0, "symmetry": 0.1},
}
MIXED = (PLAIN, "BYOT", "SLA-SD")  # SLA-SD was best, and of BYOT and its equals BYOT has exits
for mix in ("mixup", "cutmix"):
    METHODS |= {f"{name}, {mix}": METHODS[name] | {"mix": mix} for name in MIXED}


def of(data: str, quick: bool) -> Comparison:
    rows = [setting.teacher(data, quick)]
    for name, fields in METHODS.items():
        rows.append(setting.student(name, data, MODEL, quick, epochs=EPOCHS, probes=PROBES, **fields))
    if not quick:
        rows = [
            dataclasses.replace(row, overrides={**row.overrides, "data.subset": FEW[data]}) for row in rows
        ]
    return Comparison(
        title=f"Networks that teach themselves: {data}",
        rows=tuple(rows),
        baseline=PLAIN,
        seeds=(0,) if quick else (0, 1, 2),
        evals=("top1", "exit1_top1", "exit2_top1", ENSEMBLE, "aggregated_top1"),
        notes=(
            "No row was tuned. Weights are those that papers or codes publish, SAD's for lanes; alpha 0.5 is"
            " ours, and those of AT by gradients and by symmetry have no source.",
            "SLA's top1 sees the image alone, its aggregated_top1 all four rotations of it.",
        ),
    )
