"""MoCo-v2 on ImageNet: the recipe that teachers for SEED are trained with.

Run:      python main.py --config=configs/moco_r50.py --workdir=runs/moco_r50 --config.data.dir=TFDS_FOLDER
          --config.student.model=mobilenetv3_large gives the baseline of SEED's Table 1.
Hardware: 200 epochs at 224 px, two views and an EMA copy; meant for 8 GPUs or a TPU slice. Not run yet:
  we have no number of our own.
Expected: 67.5 +- 0.1 % linear for ResNet-50 (facebookresearch/moco, README, five runs).
Batch:    the rate scales with data.batch_size, from 0.03 at 256. The released code never scales `--lr`: to
  repeat one of its commands at another batch size, add --config.optim.lr_batch=0 --config.optim.lr=LR.
Variants: `:smoke` runs anywhere in a minute; `:official_code` does what the released code does where we
  differ.
"""

from seed_jax import config


def get_config(variant: str = ""):
    c = config.default("moco")
    c.data.source = "tfds:imagenet2012"
    c.data.train, c.data.bank = "train[:99%]", "train[:99%]"
    c.data.val, c.data.test = "train[99%:]", "validation"
    c.data.batch_size = 256
    c.data.photometric = "mocov2"
    c.student.model = "resnet50"
    c.method.temperature = 0.2
    c.method.queue_size = 65_536
    c.optim.lr, c.optim.lr_batch = 0.03, 256
    c.optim.weight_decay = 1e-4
    c.train.epochs = 200.0
    c.train.precision = "bf16"
    c.train.bn_group = 32
    c.evals.every_epochs = 5.0
    c.evals.bank_size = 50_000
    if variant == "official_code":
        return official_code(c)
    return config.variant(c, variant)


def official_code(c):
    """facebookresearch/moco as released: its noise queue (moco/builder.py), and its unscaled rate, set once
    an epoch (main_moco.py with `--mlp --moco-t 0.2 --aug-plus --cos`)."""
    c.method.queue_start = "noise"
    c.optim.update = "epoch"
    c.optim.lr_batch = 0
    return c
