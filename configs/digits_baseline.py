"""The quick start's baseline: MobileNetV3-Small by MoCo-v2 alone, for as many steps as the distilled one.

Run:      python main.py --config=configs/digits_baseline.py --workdir=runs/digits_baseline
Hardware: two CPU cores, about a minute.
Expected: experiments/quickstart/README.md.
"""

from seed_jax import config
from seed_jax.configs.digits_teacher import digits


def get_config(variant: str = ""):
    c = digits("moco")
    small_student(c)
    c.method.momentum = 0.99
    c.optim.lr = 0.03
    return config.variant(c, variant)


def small_student(c):
    """The student and the budget that the baseline and the distilled run share.

    No dropout, because MoCo-v2 alone needs that (experiments/quickstart/trials.md).
    """
    c.student.model = "mobilenetv3_small"
    c.student.options.small_stem = True
    c.student.options.width = 0.5
    c.student.options.dropout = 0.0
    c.train.epochs = 24.0
