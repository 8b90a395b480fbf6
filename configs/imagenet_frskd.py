"""FRSKD on ImageNet: a ResNet-18 or ResNet-34 learns from a self-teacher.

Run:      python main.py --config=configs/imagenet_frskd.py --workdir=runs/imagenet_frskd \\
              --config.data.dir=FOLDER_OF_IMAGENET
          The folder is that of ImageNet's train and val. Probes during training look at the validation
          images, too, as in the paper.
Hardware: 90 epochs of 1.28 million images at 224 px; meant for 8 GPUs or a TPU slice. Not run yet: there is
          no number of our own.
Expected: top-1, baseline and FRSKD: ResNet-18 69.76 and 70.17, ResNet-34 73.31 and 73.75 (the paper's
          table 3). Milestones and weight decay are torchvision's; the paper does not state others.
Variants: `:smoke` runs anywhere; `:resnet34`; `:plain` and `:plain_resnet34` are the networks alone.
"""

from seed_jax import config
from seed_jax.configs.cifar100_byot import PLAIN
from seed_jax.configs.imagenet_kd import recipe


def get_config(variant: str = ""):
    plain = variant.startswith("plain")
    c = recipe(PLAIN if plain else "frskd")
    c.train.epochs, c.optim.milestones = 90.0, (1 / 3, 2 / 3)
    c.student.model = "resnet34" if variant.endswith("resnet34") else "resnet18"
    if not plain:
        c.method.alpha = 3.0
    return c if plain or variant == "resnet34" else config.variant(c, variant)
