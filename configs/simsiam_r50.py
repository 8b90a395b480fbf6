"""SimSiam on ImageNet: a ResNet-50 predicts its own embedding of another view, without negatives.

Run:      python main.py --config=configs/simsiam_r50.py --workdir=runs/simsiam_r50 \\
              --config.data.dir=TFDS_FOLDER
Hardware: 100 epochs of two views of 224 px at a batch of 512; the authors have 8 GPUs. Not run yet: we have
  no number of our own.
Expected: 68.1 % linear with a predictor whose rate does not decay (README of facebookresearch/simsiam, whose
  command has `--fix-pred-lr`). Ours decays; the README gives no figure for that.
Batch:    the rate scales with data.batch_size, from 0.05 at 256; the README has 68.3 % there.
Variants: `:smoke` runs anywhere.
Differs from main_simsiam.py: the predictor's rate; the last norm of each residual block starts at 1 and not
  at 0; the rate changes with every step and not with every epoch; crops are resized as in data/images.py;
  a hundredth of the training images is kept for probes.
"""

from seed_jax import config


def get_config(variant: str = ""):
    c = config.default("simsiam")
    c.data.source = "tfds:imagenet2012"
    c.data.train, c.data.bank = "train[:99%]", "train[:99%]"
    c.data.val, c.data.test = "train[99%:]", "validation"
    c.data.batch_size = 512
    c.data.photometric = "mocov2"
    c.student.model = "resnet50"
    c.optim.lr, c.optim.lr_batch = 0.05, 256
    c.optim.weight_decay = 1e-4
    c.train.epochs = 100.0
    c.train.precision = "bf16"
    c.train.bn_group = 0
    c.evals.every_epochs = 5.0
    c.evals.bank_size = 50_000
    return config.variant(c, variant)
