"""MoCo v3 on ImageNet: a ViT-S/16 must find another view of each image among a batch of 1,024.

Run:      python main.py --config=configs/mocov3_vits16.py --workdir=runs/mocov3_vits16 \\
              --config.data.dir=TFDS_FOLDER
Hardware: 300 epochs of two views of 224 px, each through the network and through its average; the authors'
  8 GPUs with 32 GB hold the batch. Not run yet: we have no number of our own.
Expected: 73.2 % linear at a batch of 4,096 (CONFIG.md of facebookresearch/moco-v3). It gives no figure for
  the command with 1,024 that this config follows; for 4,096 add --config.data.batch_size=4096.
Batch:    the rate scales with data.batch_size, from 0.00015 at 256.
Variants: `:smoke` runs anywhere; `:resnet50` is the command for a ResNet-50, a batch of 4,096 and 100 epochs
  (68.9 % linear).
Differs from main_moco.py: bf16 and not fp16; crops are resized as in
  data/images.py. With `:resnet50`, the last norm of each residual block starts at 1 and not at 0, and LARS
  applies the rate before momentum. A hundredth of the training images is kept for probes.
"""

from seed_jax import config


def get_config(variant: str = ""):
    c = config.default("mocov3")
    c.data.source = "tfds:imagenet2012"
    c.data.train, c.data.bank = "train[:99%]", "train[:99%]"
    c.data.val, c.data.test = "train[99%:]", "validation"
    c.data.batch_size = 1024
    c.data.crop_scale = (0.08, 1.0)
    c.data.photometric = "dino"
    c.student.model = "vit_small"
    c.student.options = {"heads": 12, "mocov3_init": True}
    c.optim.name = "adamw"
    c.optim.lr, c.optim.lr_batch = 1.5e-4, 256
    c.optim.weight_decay = 0.1
    c.optim.warmup_epochs, c.optim.decay_from = 40.0, "warmup"
    c.train.epochs = 300.0
    c.train.precision = "bf16"
    c.train.bn_group = 0
    c.evals.every_epochs = 5.0
    c.evals.bank_size = 50_000
    if variant == "resnet50":
        return resnet50(c)
    return config.variant(c, variant)


def resnet50(c):
    """CONFIG.md, "ResNet-50, 100-epoch pre-training", with the defaults of main_moco.py."""
    c.data.batch_size, c.data.crop_scale = 4096, (0.2, 1.0)
    c.student.model, c.student.options = "resnet50", {}
    c.method.temperature, c.method.layers, c.method.predictor_norm = 1.0, 2, False
    c.optim.name, c.optim.lr = "lars", 0.6
    c.optim.weight_decay, c.optim.decay, c.optim.warmup_epochs = 1e-6, "kernels", 10.0
    c.train.epochs = 100.0
    return c
