"""./run.sh compare experiments/seed_teachers: table 3 of SEED in miniature, teachers of five methods."""

from seed_jax import config
from seed_jax.compare import Comparison, Trained, Untrained
from seed_jax.configs.digits_teacher import digits

ALONE = "student, MoCo v2 alone"
MODEL = {"small_stem": True, "width": 0.25}
RATES = (0.03, 0.12, 0.48)  # that are tried for each method: rates.py
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
    "SimSiam": ("simsiam", {"dim": 128, "bottleneck": 32}, 0.12),
}


def teacher(method: str) -> str:
    return f"teacher, {method}"


def taught(method: str) -> str:
    return f"student, SEED from {method}"


def get_comparison(quick: bool = False) -> Comparison:
    rows = [Trained(teacher(name), teacher_config(name, quick)) for name in METHODS]
    rows.append(Trained(ALONE, f"digits_baseline{':smoke' if quick else ''}"))
    rows += [
        Trained(taught(name), f"digits_seed{':smoke' if quick else ''}", teacher=teacher(name))
        for name in METHODS
    ]
    rows.append(Untrained("raw pixels", "pixels", like=ALONE))
    return Comparison(
        title="The same student from teachers of several methods",
        rows=tuple(rows),
        baseline=taught("MoCo v2"),
        seeds=(0,) if quick else (0, 1, 2),
    )


def teacher_config(name: str, quick: bool, rate: float = 0.0):
    """The quick start's teacher, trained by another method for as many epochs; `rate` 0 is the method's.

    Only MoCo has BatchNorm in groups: the others' papers take statistics over the whole batch.
    """
    method, fields, own = METHODS[name]
    c = digits(method)
    c.student.model, c.student.options = "resnet18", MODEL
    c.method.update(fields)
    c.optim.lr = rate or own
    c.train.epochs = 26.0
    if method != "moco":
        c.train.bn_group = 0
    return config.smoke(c) if quick else c
