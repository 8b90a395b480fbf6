"""SimReg on ImageNet: a ResNet-18 regresses the features of a ResNet-50 (MoCo-v2), without labels.

Run:      python main.py --config=configs/simreg_r50_to_r18.py --workdir=runs/simreg_r50_to_r18 \\
              --config.teacher.weights=moco_v2_800ep_pretrain.pth.tar --config.data.dir=TFDS_FOLDER
Hardware: 130 epochs of 1.28 million images at 224 px; the authors need 2.5 days on four RTX 2080 Ti. Not run
  yet: we have no number of our own.
Expected: 65.1 % linear, 54.8 % 1-NN on the backbone's feature (UCDvision/simreg, README).
Batch:    the rate scales with data.batch_size, from 0.05 at 256; the released code does not scale it, so
  --config.optim.lr_batch=0 repeats its commands at other sizes.
Variants: `:smoke` runs anywhere; `:official_code` changes the rate once an epoch.
"""

from seed_jax import config


def get_config(variant: str = ""):
    c = config.default("simreg")
    c.data.source = "tfds:imagenet2012"
    c.data.train, c.data.bank = "train[:99%]", "train[:99%]"
    c.data.val, c.data.test = "train[99%:]", "validation"
    c.data.batch_size = 256
    c.data.crop_scale = (0.2, 1.0)
    c.data.photometric = "none"  # run.sh there: --single_aug --weak_weak
    c.teacher.model = "resnet50"
    c.teacher.weights = "moco_v2_800ep_pretrain.pth.tar"
    c.student.model = "resnet18"
    c.optim.lr, c.optim.lr_batch = 0.05, 256
    c.optim.weight_decay = 1e-4
    c.train.epochs = 130.0
    c.train.precision = "bf16"
    c.train.bn_group = 64  # of four GPUs
    c.evals.every_epochs = 5.0
    c.evals.bank_size = 50_000
    if variant == "official_code":
        c.optim.update = "epoch"
        return c
    return config.variant(c, variant)
