"""The quick start's teacher: a narrow ResNet-18 trained with MoCo-v2, without labels, on scattered digits.

Run:      python main.py --config=configs/digits_teacher.py --workdir=runs/digits_teacher
Hardware: two CPU cores, about two minutes.
Expected: experiments/quickstart/README.md.
"""

from seed_jax import config


def get_config(variant: str = ""):
    c = digits("moco")
    c.student.model = "resnet18"
    c.student.options.small_stem = True
    c.student.options.width = 0.25
    c.method.momentum = 0.99
    c.train.epochs = 26.0
    return config.variant(c, variant)


def digits(method: str):
    """What all runs on the scattered digits share, in the quick start and in experiments.

    No flip, because a mirrored digit is not that digit. Crops are mild, because smaller ones do not say which
    digit it is (experiments/quickstart/trials.md). The queue holds less than half of the training images.
    """
    c = config.default(method)
    c.data.source = "scattered"
    c.data.image_size = 16
    c.data.resize = 1.0  # a digit may touch the border
    c.data.crop_scale = (0.85, 1.0)
    c.data.flip = 0.0
    c.data.photometric = "digits"
    c.data.batch_size = 128
    if "queue_size" in c.method:
        c.method.queue_size = 1024
    c.optim.lr = 0.12
    c.train.bn_group = 32
    c.train.checkpoint_epochs = 4.0
    c.evals.every_epochs = 4.0
    c.log.every_steps = 10
    return c
