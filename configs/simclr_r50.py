"""SimCLR on ImageNet: a ResNet-50 learns to tell two views of an image from all others of a large batch.

Run:      python main.py --config=configs/simclr_r50.py --workdir=runs/simclr_r50 \\
              --config.data.dir=TFDS_FOLDER
Hardware: 100 epochs at 224 px, two views, a batch of 4,096 with statistics over all of it; meant for a TPU
  slice or 32 GPUs (6 hours on the authors' 32 TPU v3). Not run yet: we have no number of our own.
Expected: about 64.5 % linear (README of google-research/simclr, for the command that this config follows).
Batch:    the rate scales with data.batch_size, from 0.3 at 256. For smaller batches the README scales by the
  square root: --config.optim.lr_batch=0 --config.optim.lr=R with R = 0.075 sqrt(data.batch_size).
Variants: `:smoke` runs anywhere.
Differs from the README's command: the last norm of each residual block starts at 1 and not at 0, the head's
  Linear layers as PyTorch's; crops are resized as in data/images.py, colours changed as in
  data/photometric.py; a hundredth of the training images is kept for probes.
"""

from seed_jax import config


def get_config(variant: str = ""):
    c = config.default("simclr")
    c.data.source = "tfds:imagenet2012"
    c.data.train, c.data.bank = "train[:99%]", "train[:99%]"
    c.data.val, c.data.test = "train[99%:]", "validation"
    c.data.batch_size = 4096
    c.data.crop_scale = (0.08, 1.0)
    c.data.photometric = "simclr"
    c.student.model = "resnet50"
    c.student.options = {"mean": (0.0,) * 3, "std": (1.0,) * 3}
    c.method.temperature = 0.1
    c.optim.name = "lars"
    c.optim.lr, c.optim.lr_batch = 0.3, 256
    c.optim.weight_decay, c.optim.decay = 1e-4, "kernels"
    c.optim.warmup_epochs, c.optim.decay_from = 10.0, "warmup"
    c.train.epochs = 100.0
    c.train.precision = "bf16"
    c.train.bn_group = 0
    c.evals.every_epochs = 5.0
    c.evals.bank_size = 50_000
    return config.variant(c, variant)
