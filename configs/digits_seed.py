"""The quick start's distilled student: the same MobileNetV3-Small taught by the teacher with SEED.

Run:      python main.py --config=configs/digits_seed.py --config.teacher.weights=runs/digits_teacher
  --workdir=runs/digits_seed
Hardware: two CPU cores.
"""

from configs.digits_baseline import small_student
from configs.digits_teacher import digits
from seed_jax import config


def get_config(variant: str = ""):
    c = digits("seed")
    small_student(c)
    c.teacher.weights = "runs/digits_teacher"
    return config.variant(c, variant)
