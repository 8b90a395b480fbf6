"""A classifier of scattered digits: the teacher of digits_kd.py. Its images come with scikit-learn.

Run:      python main.py --config=configs/digits_classifier.py --workdir=runs/digits_classifier
          python -m seed_jax.rank_augmentations runs/digits_classifier
Hardware: two CPU cores, a few minutes.
Expected: experiments/da_ranking/README.md, `scattered`, three seeds.
Variants: `:smoke`.
"""

from seed_jax import config

EPOCHS = 40.0  # about 1,600 steps


def get_config(variant: str = ""):
    c = recipe("supervised", EPOCHS)
    c.student.model = "cifar_resnet20"
    return config.variant(c, variant)


def recipe(method: str, epochs: float):
    """CRD's recipe for CIFAR-100, shorter, at 16 pixels; no flip: a mirrored digit is not that digit."""
    c = config.default(method)
    c.data.source = "scattered"
    c.data.batch_size, c.data.image_size, c.data.resize = 64, 16, 1.0
    c.data.crop, c.data.padding, c.data.photometric, c.data.flip = "pad", 2, "none", 0.0
    c.optim.name, c.optim.lr, c.optim.lr_batch = "sgd", 0.05, 0
    c.optim.momentum, c.optim.weight_decay = 0.9, 5e-4
    c.optim.schedule, c.optim.milestones = "steps", (0.625, 0.75, 0.875)
    c.train.epochs = epochs
    c.train.bn_group, c.train.precision = 0, "fp32"
    c.train.checkpoint_epochs = c.evals.every_epochs = 4.0
    c.evals.names = ("top1",)
    c.log.every_steps = 50
    return c
