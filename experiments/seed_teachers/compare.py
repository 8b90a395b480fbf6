"""./run.sh compare experiments/seed_teachers: table 3 of SEED in miniature, teachers of five methods."""

from typing import NamedTuple

from seed_jax import config
from seed_jax.compare import Comparison, Trained, Untrained
from seed_jax.configs.digits_teacher import digits

ALONE = "student, MoCo v2 alone"
MODEL = {"small_stem": True, "width": 0.25}
RATES = (0.03, 0.12, 0.48)  # tried for each method, and one more if the best is an end: rates.py


class Pretraining(NamedTuple):
    """How a teacher is trained: method, learning rate, and what differs from the config's own values."""

    method: str
    rate: float
    fields: dict = {}
    optim: dict = {}


SWAV = {"prototypes": 64, "hidden": 256, "queue_size": 512, "queue_from": 4, "local_views": 0}
DINO = {
    "prototypes": 256,
    "hidden": 256,
    "batch_norm": True,
    "bottleneck": 64,
    "momentum": 0.99,
    "tau_teacher": 0.04,
    "tau_warmup_epochs": 0,
    "local_views": 0,
    "photometric_second": "digits",
}
CENTRED_FIRST = {"warmup_epochs": 3.0, "clip_norm": 3.0}  # a tenth of the run and 3, as main_dino.py has them
METHODS = {
    "MoCo v2": Pretraining("moco", 0.03, {"momentum": 0.99}),
    "SimCLR": Pretraining("simclr", 0.12, {"temperature": 0.2}),
    "SwAV": Pretraining("swav", 0.12, SWAV),
    "DINO": Pretraining("dino", 0.12, DINO, CENTRED_FIRST),
    "SimSiam": Pretraining("simsiam", 0.48, {"dim": 128, "bottleneck": 32}),
}


def teacher(method: str) -> str:
    return f"teacher, {method}"


def taught(method: str) -> str:
    return f"student, SEED from {method}"


def get_comparison(quick: bool = False) -> Comparison:
    rows = [Trained(teacher(name), teacher_config(each, quick)) for name, each in METHODS.items()]
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


def teacher_config(p: Pretraining, quick: bool, rate: float = 0.0):
    """The quick start's teacher, trained otherwise for as many epochs; `rate` 0 is the method's.

    Only MoCo has BatchNorm in groups: the others' papers take statistics over the whole batch.
    """
    c = digits(p.method)
    c.student.model, c.student.options = "resnet18", MODEL
    c.method.update(p.fields)
    c.optim.update(p.optim)
    c.optim.lr = rate or p.rate
    c.train.epochs = 26.0
    if p.method != "moco":
        c.train.bn_group = 0
    return config.smoke(c) if quick else c
