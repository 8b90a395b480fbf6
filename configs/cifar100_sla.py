"""SLA on CIFAR-100: one network for classes and rotations together, and its distillation to a plain one.

Run:      python main.py --config=configs/cifar100_sla.py --workdir=runs/cifar100_sla \\
              --config.data.dir=FOLDER_OF_CIFAR100
          The folder is that of cifar-100-python.tar.gz. To train on all 50,000 images and score the test set,
          as others do, add --config.data.train=train+val --config.data.val=test. The released code holds
          5,000 training images out and picks its checkpoint on them.
Hardware: 80,000 steps of 128 images, each in four rotations, at 32 px; meant for one GPU. Not run yet: there
          is no number of our own.
Expected: top-1 of ResNet-32, from memory of the paper's tables, not read again.

                      baseline  aggregated (4 forward passes)  SLA-SD (1 pass)
          CIFAR-10       92.39                          94.50            93.26
          CIFAR-100      68.27                          74.14            71.85
Variants: `:smoke` runs anywhere; `:sd` is SLA-SD, which serves a plain network; `:plain` is that network
          alone.
"""

from seed_jax import config
from seed_jax.configs.cifar100_byot import PLAIN, recipe


def get_config(variant: str = ""):
    c = recipe(PLAIN if variant == "plain" else "sla", (100, 150), epochs=200, weight_decay=1e-4)
    c.train.epochs, c.train.steps = 0.0, 80_000
    c.student.model = "cifar_resnet32"
    c.student.options = {"mean": (0.5,) * 3, "std": (0.5,) * 3}
    if variant == "sd":
        c.method.distil = True
        return c
    return c if variant == "plain" else config.variant(c, variant)
