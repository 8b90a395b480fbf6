"""The quick start's distilled student: the same MobileNetV3-Small, taught by the teacher with SEED.

Run:      python main.py --config=configs/digits_seed.py --workdir=runs/digits_seed \\
              --config.teacher.weights=runs/digits_teacher
Hardware: two CPU cores, about a minute.
Expected: experiments/quickstart/README.md.
"""

from seed_jax import config
from seed_jax.configs.digits_baseline import small_student
from seed_jax.configs.digits_teacher import digits


def get_config(variant: str = ""):
    c = digits("seed")
    small_student(c)
    c.teacher.weights = "runs/digits_teacher"
    return config.variant(c, variant)
