"""BINGO on ImageNet: a ResNet-50 (MoCo-v2) teaches a ResNet-18 with each image and one of its neighbours.

Run:      python main.py --config=configs/bingo_r50_to_r18.py --workdir=runs/bingo_r50_to_r18 \\
              --config.teacher.weights=moco_v2_200ep_pretrain.pth.tar --config.data.dir=TFDS_FOLDER
Hardware: 200 epochs of 1.28 million images at 224 px: three forwards and backwards of the student and two
  forwards of the teacher for each. Before training, one teacher forward and a search over all pairs. The
  pooled features are 10 GB, of which the host's memory has two copies at the peak, about 21 GB, and the GPUs
  together one (--config.method.feature=embedding: 0.65 GB). Meant for 8 GPUs. Not run yet: we have no number
  of our own.
Expected: 61.4 % linear in the paper, recalled and not re-read (haohang96/bingo, SR18-TR50.sh).
Batch:    the rate scales with data.batch_size, from 0.03 at 256; the released code does not scale it, so
  --config.optim.lr_batch=0 repeats its command at other sizes.
Variants: `:smoke` runs anywhere; `:efficientnet_b0` has that student and its released values
  (SEffB0-TR50W2.sh, whose teacher is wider; ours stays ResNet-50).
"""

from seed_jax import config


def get_config(variant: str = ""):
    c = config.default("bingo")
    c.data.source = "tfds:imagenet2012"
    c.data.train, c.data.bank = "train[:99%]", "train[:99%]"
    c.data.val, c.data.test = "train[99%:]", "validation"
    c.data.batch_size = 256
    c.data.crop_scale = (0.2, 1.0)
    c.data.photometric = "mocov2"
    c.teacher.model = "resnet50"
    c.teacher.weights = "moco_v2_200ep_pretrain.pth.tar"
    c.student.model = "resnet18"
    c.optim.lr, c.optim.lr_batch = 0.03, 256
    c.optim.weight_decay = 1e-4
    c.optim.update = "epoch"
    c.train.epochs = 200.0
    c.train.precision = "bf16"
    c.train.bn_group = 32
    c.evals.every_epochs = 5.0
    c.evals.bank_size = 50_000
    if variant == "efficientnet_b0":
        c.student.model = "efficientnet_b0"
        c.method.temperature = 0.12
        c.optim.weight_decay = 4e-5
        return c
    return config.variant(c, variant)
