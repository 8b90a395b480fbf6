"""DINO on ImageNet: a ViT-S/16 teaches itself, without labels, for 100 epochs.

Run:      python main.py --config=configs/dino_vits16.py --workdir=runs/dino_vits16 \\
              --config.data.dir=TFDS_FOLDER
Hardware: 100 epochs of 1.28 million images, each two views of 224 px and eight of 96; meant for 8 GPUs or a
  TPU slice (1.75 days on the authors' 8 GPUs). Not run yet: we have no number of our own.
Expected: 69.3 % kNN, 74.0 % linear (README of facebookresearch/dino, "Vanilla DINO training", whose command
  is the defaults of main_dino.py). Their kNN weighs votes by similarity;
  ours counts them.
Batch:    the rate scales with data.batch_size, from 0.0005 at 256; the authors' 8 GPUs had 64 images each. At
  a batch of 256 they recommend a momentum of 0.9995.
Variants: `:smoke` runs anywhere; `:epochs300` warms the teacher's temperature up to 0.07 (README: 73.3 % kNN,
  76.0 % linear, on 16 GPUs and with a trained norm of the last layer, which we do not have); `:resnet50` is
  the README's command for a ResNet-50 and 100 epochs, for which it gives no figures.
Differs from main_dino.py: the gradient is clipped by its global norm, which includes the prototypes, frozen
  in the first epoch; there each parameter's gradient is clipped by its own norm, which cuts less;
  weight decay leaves the position table and the cls token alone; crops are resized as in data/images.py.
"""

from seed_jax import config


def get_config(variant: str = ""):
    c = config.default("dino")
    c.data.source = "tfds:imagenet2012"
    c.data.train, c.data.bank = "train[:99%]", "train[:99%]"
    c.data.val, c.data.test = "train[99%:]", "validation"
    c.data.batch_size = 512
    c.data.crop_scale = (0.4, 1.0)
    c.data.photometric = "dino"
    c.student.model = "vit_small"
    c.student.options.form, c.student.options.patch = "dino", 16
    c.student.options.drop_path = 0.1
    c.method.tau_teacher, c.method.tau_warmup_epochs = 0.04, 0
    c.optim.name = "adamw"
    c.optim.lr, c.optim.lr_batch = 5e-4, 256
    c.optim.lr_min = 5e-7  # 1e-6 at a batch of 512; the released code does not scale it
    c.optim.weight_decay, c.optim.weight_decay_end, c.optim.decay = 0.04, 0.4, "kernels"
    c.optim.warmup_epochs, c.optim.decay_from = 10.0, "warmup"
    c.optim.clip_norm = 3.0
    c.train.epochs = 100.0
    c.train.precision = "bf16"
    c.train.bn_group = 0
    c.evals.every_epochs = 5.0
    c.evals.k = 20
    c.evals.bank_size = 50_000
    if variant == "epochs300":
        c.train.epochs = 300.0
        c.method.tau_teacher, c.method.tau_warmup_epochs = 0.07, 30
        return c
    if variant == "resnet50":
        return resnet50(c)
    return config.variant(c, variant)


def resnet50(c):
    """The README's options for convolutional networks, "ResNet-50 and other convnets trainings"."""
    c.student.model = "resnet50"
    c.student.options = type(c.student.options)()
    c.data.crop_scale, c.method.local_scale = (0.14, 1.0), (0.05, 0.14)
    c.optim.name, c.optim.lr = "sgd", 0.03
    c.optim.weight_decay, c.optim.weight_decay_end = 1e-4, 0.0
    return c
