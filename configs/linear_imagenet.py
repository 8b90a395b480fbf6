"""The linear probe of MoCo and SEED: a classifier on the frozen backbone of another run, ImageNet.

Run:      python main.py --config=configs/linear_imagenet.py --workdir=runs/linear \\
              --config.student.init=runs/seed_r50_to_mbv3 --config.data.dir=TFDS_FOLDER
          then python -m seed_jax.evals runs/linear for the validation set's top-1.
          ResNets: --config.optim.lr=30.0 (MoCo, SEED); MobileNets and EfficientNets: 3, the value here.
Hardware: 100 epochs at 224 px: the backbone forward and one linear layer; meant for one GPU and up.
Batch:    the rate scales with data.batch_size, from its value at 256, as in the released SEED. The released
          MoCo does not scale it: add --config.optim.lr_batch=0 to repeat one of its commands.
Expected: 55.2 % for the run of seed_r50_to_mbv3.py (paper, Table 1; recalled, not re-read).
"""

from seed_jax import config


def get_config(variant: str = ""):
    c = config.default("supervised")
    c.method.freeze = "backbone"
    c.data.source = "tfds:imagenet2012"
    c.data.train, c.data.val, c.data.test = "train[:99%]", "train[99%:]", "validation"
    c.data.batch_size = 256
    c.data.crop_scale = (0.08, 1.0)
    c.data.photometric = "supervised"
    c.student.model = "mobilenetv3_large"
    c.optim.lr, c.optim.lr_batch = 3.0, 256
    c.optim.weight_decay = 0.0
    c.optim.schedule, c.optim.milestones = "steps", (0.6, 0.8)
    c.train.epochs = 100.0
    c.evals.names = ("top1",)
    return config.variant(c, variant)
