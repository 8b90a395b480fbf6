"""Be your own teacher on scattered digits: a ResNet-20 with an exit after each stage. No teacher is needed.

Run:      python main.py --config=configs/digits_byot.py --workdir=runs/byot
          python -m seed_jax.exits runs/byot
Hardware: two CPU cores, a few minutes.
Expected: test accuracies of one run, seed 0: exits 97.9, 98.9 and 99.4 %, ensemble 99.0 %.
Variants: `:smoke`; `:deep_supervision` is the baseline; `:journal` has the exits and losses of the
          journal's code.
"""

from seed_jax import config
from seed_jax.configs.digits_classifier import recipe

EPOCHS = 12.0  # about 500 steps


def get_config(variant: str = ""):
    c = recipe("byot", EPOCHS)
    c.student.model = "cifar_resnet20"
    if variant == "deep_supervision":
        c.method.alpha = c.method.feature = 0.0
    elif variant == "journal":
        c.method.form, c.method.alpha, c.method.feature = "journal", 0.3, 0.03
    else:
        return config.variant(c, variant)
    return c
