"""The quick start's teacher: a small ResNet-18 trained with MoCo-v2, without labels, on scikit-learn's
digits.

Run:      python main.py --config=configs/digits_teacher.py --workdir=runs/digits_teacher
Hardware: two CPU cores.
"""

from seed_jax import config


def get_config(variant: str = ""):
    c = digits("moco")
    c.student.model = "resnet18"
    c.student.options.small_stem = True
    c.student.options.width = 0.25
    c.train.epochs = 60.0
    return config.variant(c, variant)


def digits(method: str):
    """What the three runs of the quick start share; no flip, because a mirrored digit is not that digit."""
    c = config.default(method)
    c.data.source = "digits"
    c.data.image_size = 16
    c.data.crop_scale = (0.4, 1.0)
    c.data.flip = 0.0
    c.data.photometric = "digits"
    c.data.batch_size = 128
    c.method.queue_size = 1024
    c.train.checkpoint_epochs = 20.0
    c.evals.every_epochs = 10.0
    c.log.every_steps = 10
    return c
