"""FRSKD on CIFAR-100: a ResNet-18 learns from a self-teacher that refines its own feature maps.

Run:      python main.py --config=configs/cifar100_frskd.py --workdir=runs/cifar100_frskd \\
              --config.data.dir=FOLDER_OF_CIFAR100
          The folder is that of cifar-100-python.tar.gz. To train on all 50,000 images and score the test set,
          as the paper does, add --config.data.train=train+val --config.data.val=test.
Hardware: 200 epochs of 50,000 images at 32 px; meant for one GPU. Not run yet: there is no number of our own.
Expected: top-1. Compare with `:plain` of the same schedule: published baselines of ResNet-18 differ by more
          than the gain (73.80 there, 76.24 in winycg/Self-KD-Lib, 77.09 in BYOT), mostly by weight decay.

                                 WRN-16-2   ResNet-18
          baseline                  70.42       73.80  (1)
          FRSKD\\F                   73.12       77.64  (1)
          FRSKD                     73.27       77.71  (2)
          FRSKD + SLA               75.43       82.04  (1)
          CutMix, with FRSKD            -  79.23, 80.49
          FRSKD, Self-KD-Lib            -       76.60, weight decay 5e-4, its baseline 76.24

          (1) From memory of the paper's table 1, not read again.
          (2) ResNet-18 also in an earlier readme of Self-KD-Lib; WRN-16-2 as (1).
Variants: `:smoke` runs anywhere; `:wrn_16_2` is the other backbone of the paper; `:without_features` is
          FRSKD\\F; `:mixup` and `:cutmix` mix images; `:sla` adds rotations; `:plain`, `:plain_wrn_16_2`,
          `:plain_mixup` and `:plain_cutmix` are the network alone; `:official_code` lets the
          self-teacher's cross entropy train the backbone, as MingiJi/FRSKD does.
"""

from seed_jax import config
from seed_jax.configs.cifar100_byot import PLAIN, recipe


def get_config(variant: str = ""):
    plain = variant.startswith("plain")
    c = recipe(PLAIN if plain else "frskd", (100, 150), epochs=200, weight_decay=1e-4)
    return varied(c, variant)


def varied(c, variant: str):
    """The variants of the header, for every data set."""
    if variant in ("wrn_16_2", "plain_wrn_16_2"):
        c.student.model = "wrn_16_2"
        c.student.options = {name: c.student.options[name] for name in ("mean", "std")}
    elif variant == "without_features":
        c.method.beta = 0.0
    elif variant in ("mixup", "cutmix", "plain_mixup", "plain_cutmix"):
        c.method.mix = variant.removeprefix("plain_")
    elif variant == "sla":
        c.method.rotations = 4
    elif variant == "official_code":
        c.method.detach = "code"
    elif variant != "plain":
        return config.variant(c, variant)
    return c
