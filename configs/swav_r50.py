"""SwAV on ImageNet: a ResNet-50 predicts how other crops of an image are assigned to 3,000 prototypes.

Run:      python main.py --config=configs/swav_r50.py --workdir=runs/swav_r50 \\
              --config.data.dir=TFDS_FOLDER
Hardware: 100 epochs of two views of 224 px and six of 96, a batch of 4,096; meant for a TPU slice or many
  GPUs (3 min 40 s per epoch on the authors' 64; at a batch of 256, 52 min on their 4). Not run yet: we have
  no number of our own.
Expected: top-1 linear 72.1 % after 100 epochs, 73.9 after 200, 74.6 after 400, 75.3 after 800; at a batch of
  256, 72.7 after 200 epochs and 74.3 after 400 (README of facebookresearch/swav). The config follows
  scripts/swav_100ep_pretrain.sh; more epochs change --config.train.epochs alone.
Batch:    the rate scales with data.batch_size, from 0.3 at 256; the authors use 0.6 there.
Variants: `:smoke` runs anywhere; `:batch256` is scripts/swav_200ep_bs256_pretrain.sh, with a queue.
Differs from main_swav.py: LARS adapts the rate of kernels alone (the authors' LARC adapts that of vectors,
  too) and applies the rate before momentum; the head's norm takes views of each size apart (methods/swav.py);
  warm-up starts at 0 and not at 0.3; scores are float32; a hundredth of the training images is kept for
  probes, so the epoch in which the prototypes are frozen is a hundredth shorter.
"""

from seed_jax import config


def get_config(variant: str = ""):
    c = config.default("swav")
    c.data.source = "tfds:imagenet2012"
    c.data.train, c.data.bank = "train[:99%]", "train[:99%]"
    c.data.val, c.data.test = "train[99%:]", "validation"
    c.data.batch_size = 4096
    c.data.crop_scale = (0.14, 1.0)
    c.data.photometric = "simclr"
    c.student.model = "resnet50"
    c.student.options.std = (0.228, 0.224, 0.225)
    c.optim.name = "lars"
    c.optim.lr, c.optim.lr_min, c.optim.lr_batch = 0.3, 3e-4, 256
    c.optim.weight_decay = 1e-6
    c.optim.warmup_epochs, c.optim.decay_from = 10.0, "warmup"
    c.train.epochs = 100.0
    c.train.precision = "bf16"
    c.train.bn_group = 512  # 8 GPUs with 64 images each
    c.evals.every_epochs = 5.0
    c.evals.bank_size = 50_000
    if variant == "batch256":
        return batch256(c)
    return config.variant(c, variant)


def batch256(c):
    """The script for 4 GPUs and 200 epochs."""
    c.data.batch_size = 256
    c.optim.lr, c.optim.lr_min, c.optim.warmup_epochs = 0.6, 6e-4, 0.0
    c.method.queue_size, c.method.queue_from = 3840, 15
    c.train.epochs, c.train.bn_group = 200.0, 0
    return c
