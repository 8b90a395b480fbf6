"""CompRess on ImageNet: a ResNet-18 imitates the image similarities of a ResNet-50 (MoCo-v2), without labels.

Run:      python main.py --config=configs/compress_r50_to_r18.py --workdir=runs/compress_r50_to_r18 \\
              --config.teacher.weights=moco_v2_800ep_pretrain.pth.tar --config.data.dir=TFDS_FOLDER
Hardware: 130 epochs of 1.28 million images at 224 px, with a second forward of the student; the two queues
  are 1.3 GB. Meant for 8 GPUs. Not run yet: we have no number of our own.
Expected: 61.7 % linear, 53.4 % 1-NN on the backbone's feature (UMBCvision/CompRess, Readme.md).
Batch:    the rate scales with data.batch_size, from 0.01 at 256; the released code does not scale it, so
  --config.optim.lr_batch=0 repeats its commands at other sizes.
Variants: `:smoke` runs anywhere; `:one_queue` is CompRess-1q.
"""

from seed_jax import config


def get_config(variant: str = ""):
    c = config.default("compress")
    c.data.source = "tfds:imagenet2012"
    c.data.train, c.data.bank = "train[:99%]", "train[:99%]"
    c.data.val, c.data.test = "train[99%:]", "validation"
    c.data.batch_size = 256
    c.data.crop_scale = (0.08, 1.0)
    c.data.photometric = "none"
    c.teacher.model = "resnet50"
    c.teacher.weights = "moco_v2_800ep_pretrain.pth.tar"
    c.student.model = "resnet18"
    c.optim.lr, c.optim.lr_batch = 0.01, 256
    c.optim.weight_decay = 1e-4
    c.optim.schedule, c.optim.milestones, c.optim.factor = "steps", (90.0, 120.0), 0.2
    c.train.epochs = 130.0
    c.train.precision = "bf16"
    c.train.bn_group = 64
    c.evals.every_epochs = 5.0
    c.evals.bank_size = 50_000
    if variant == "one_queue":
        c.method.queues = 1
        return c
    return config.variant(c, variant)
