"""What the comparisons share: the quick start's images, teacher and student, and the strategies."""

from typing import NamedTuple

from seed_jax import config
from seed_jax.compare import Trained
from seed_jax.configs.digits_baseline import small_student
from seed_jax.configs.digits_teacher import digits

TEACHER, ALONE, SEED = "teacher (MoCo v2)", "MoCo v2 alone", "SEED"
RATES = (0.03, 0.12, 0.48)  # tried for each strategy, and one more if the best is an end: rates.py
KEY_MOMENTUM = 0.99  # of moving averages of the student: 0.999 is too slow for so few steps
SMALL_QUEUE = 1024  # as in the quick start, less than half of the training images


class Strategy(NamedTuple):
    """A way to learn from the teacher: a method, its learning rate, and what differs from its own values."""

    method: str
    rate: float
    fields: dict = {}


# All heads have one hidden layer as wide as the pooled feature, but for SimReg's, which is deeper by design.
WIDTH = 1024
QUEUE = {"queue_size": SMALL_QUEUE}
HEAD = {"hidden": WIDTH}
OWN_QUEUE = {**QUEUE, "momentum": KEY_MOMENTUM}
L2 = {"target": "embedding", "layers": 2, "batch_norm": False}
STRATEGIES = {
    SEED: Strategy("seed", 0.12, {**QUEUE, **HEAD}),
    "SEED + MoCo v2": Strategy("seed_moco", 0.12, {**OWN_QUEUE, **HEAD}),
    "binary contrastive": Strategy("seed", 0.12, {**QUEUE, **HEAD, "strategy": "binary"}),
    "online clustering": Strategy("online_clustering", 0.12, {**QUEUE, **HEAD, "prototypes": 256}),
    "k-means": Strategy("kmeans", 1.92, {"clusters": 256}),
    "l2": Strategy("simreg", 0.12, {**L2, **HEAD}),
    "SimReg": Strategy("simreg", 0.12),
    "CompRess-1q": Strategy("compress", 0.12, {**QUEUE, "queues": 1}),
    "CompRess-2q": Strategy("compress", 0.03, {**OWN_QUEUE, "queues": 2}),
    "DisCo": Strategy("disco", 0.03, {**OWN_QUEUE, **HEAD}),
    "BINGO": Strategy("bingo", 0.12, {**QUEUE, **HEAD, "intra_epochs": 2.0}),
}


# From SimReg to l2 in three steps, the last of which leaves out the BatchNorms.
BETWEEN = {
    "SimReg, 2 layers": Strategy("simreg", 0.12, {"layers": 2, **HEAD}),
    "SimReg, 2 layers, embedding": Strategy("simreg", 0.12, {"layers": 2, "target": "embedding", **HEAD}),
}


def student(name: str, quick: bool, *, rate: float = 0.0, row: str = "") -> Trained:
    """The quick start's student, taught by a strategy or MoCo v2 alone.

    Args:
      rate: learning rate; 0 for the strategy's.
      row: the name of the row; '' for that of the strategy.
    """
    strategy = Strategy("moco", 0.03, OWN_QUEUE) if name == ALONE else (STRATEGIES | BETWEEN)[name]
    c = digits(strategy.method)
    small_student(c)
    c.method.update(strategy.fields)
    c.optim.lr = rate or strategy.rate
    c.train.checkpoint_epochs = c.evals.every_epochs = c.train.epochs
    return Trained(row or name, config.smoke(c) if quick else c, teacher="" if name == ALONE else TEACHER)
