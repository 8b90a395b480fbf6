"""DINO on scattered digits, for two CPU cores: a narrow ResNet-18 teaches itself, without labels.

Run:      python main.py --config=configs/digits_dino.py --workdir=runs/digits_dino
Hardware: two CPU cores; its time on a free machine has not been measured.
Expected: no number yet: it has not been run to its end, and its values have not been tuned.
"""

from seed_jax import config
from seed_jax.configs.digits_teacher import digits


def get_config(variant: str = ""):
    """The crops are smaller than the quick start's: local views must be part of what a global view shows."""
    c = digits("dino")
    c.student.model = "resnet18"
    c.student.options.small_stem = True
    c.student.options.width = 0.25
    c.data.crop_scale = (0.7, 1.0)
    c.method.prototypes = 256
    c.method.hidden, c.method.bottleneck = 256, 64
    c.method.tau_teacher, c.method.tau_warmup_epochs = 0.04, 0
    c.method.momentum = 0.99
    c.method.local_views, c.method.local_size, c.method.local_scale = 2, 8, (0.3, 0.7)
    c.method.photometric_second = c.method.photometric_local = "digits"
    c.optim.name, c.optim.lr, c.optim.lr_batch = "adamw", 2e-3, 0
    c.optim.weight_decay, c.optim.weight_decay_end, c.optim.decay = 0.04, 0.4, "kernels"
    c.optim.clip_norm = 3.0
    c.train.bn_group = 0
    c.train.epochs = 14.0
    return config.variant(c, variant)
