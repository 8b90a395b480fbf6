"""./run.sh compare experiments/seed_teachers: table 3 of SEED in miniature, teachers of five methods."""

from seed_jax import config
from seed_jax.compare import Comparison, Trained, Untrained
from seed_jax.configs.digits_teacher import digits

ALONE = "student, MoCo v2 alone"
METHODS = {  # what each method of a teacher has instead of its own values, and its learning rate
    "MoCo v2": ("moco", {"momentum": 0.99}, 0.12),
    "SimCLR": ("simclr", {"temperature": 0.2}, 0.12),
    "SwAV": (
        "swav",
        {"prototypes": 64, "hidden": 256, "queue_size": 512, "queue_from": 4, "local_views": 0},
        0.12,
    ),
    "DINO": (
        "dino",
        {
            "prototypes": 256,
            "hidden": 256,
            "bottleneck": 64,
            "momentum": 0.99,
            "tau_teacher": 0.04,
            "tau_warmup_epochs": 0,
            "local_views": 0,
            "photometric_second": "digits",
        },
        0.12,
    ),
    "SimSiam": ("simsiam", {}, 0.12),
}


def teacher(method: str) -> str:
    return f"teacher, {method}"


def taught(method: str) -> str:
    return f"student, SEED from {method}"


def get_comparison(quick: bool = False) -> Comparison:
    names = ("MoCo v2", "SwAV") if quick else tuple(METHODS)
    rows = [Trained(teacher(name), _teacher(name, quick)) for name in names]
    rows.append(Trained(ALONE, f"digits_baseline{':smoke' if quick else ''}"))
    rows += [
        Trained(taught(name), f"digits_seed{':smoke' if quick else ''}", teacher=teacher(name))
        for name in names
    ]
    rows.append(Untrained("raw pixels", "pixels", like=ALONE))
    return Comparison(
        title="The same student from teachers of several methods",
        rows=tuple(rows),
        baseline=ALONE,
        seeds=(0,) if quick else (0, 1, 2),
    )


def _teacher(name: str, quick: bool):
    """The quick start's teacher, trained by another method for as many epochs."""
    method, fields, rate = METHODS[name]
    c = digits(method)
    c.student.model, c.student.options = "resnet18", {"small_stem": True, "width": 0.25}
    c.method.update(fields)
    c.optim.lr = rate
    c.train.epochs = 26.0
    return config.smoke(c) if quick else c
