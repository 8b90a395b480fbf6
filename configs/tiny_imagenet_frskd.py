"""FRSKD on Tiny ImageNet, at 32 pixels as in its paper, or at 64.

Run:      python main.py --config=configs/tiny_imagenet_frskd.py --workdir=runs/tiny_imagenet_frskd \\
              --config.data.dir=tiny-imagenet-200
          The folder is what tiny-imagenet-200.zip unpacks to. The validation images are scored, as in the
          paper: those of the test set have no labels.
Hardware: 200 epochs of 100,000 images; meant for one GPU. Not run yet: there is no number of our own.
Expected: top-1 at 32 px, from memory of the paper's table 1, not read again. The released code crops and
          resizes to 32 pixels, so do not compare these numbers with results at 64.

                          WRN-16-2  ResNet-18
          baseline           51.05      54.60
          BYOT               50.33      56.61
          SLA-SD             50.78      58.48
          FRSKD\\F            52.91      59.50
          FRSKD              53.08      59.61
          FRSKD + SLA        51.97      63.58
Variants: `:px64` has 64 pixels; the others are those of cifar100_frskd.py.
"""

from seed_jax.configs import cifar100_frskd, tiny_imagenet_kd
from seed_jax.configs.cifar100_byot import PLAIN, recipe
from seed_jax.models import IMAGENET_MEAN, IMAGENET_STD


def get_config(variant: str = ""):
    plain = variant.startswith("plain")
    c = recipe(PLAIN if plain else "frskd", (100, 150), epochs=200, weight_decay=1e-4)
    data = tiny_imagenet_kd.recipe(PLAIN).data
    c.data.source, c.data.val, c.data.test = data.source, data.val, data.test
    c.data.image_size, c.data.crop, c.data.crop_scale = 32, "random", (0.08, 1.0)
    c.student.options = {"small_stem": True, "mean": IMAGENET_MEAN, "std": IMAGENET_STD}
    if not plain:
        c.method.alpha = 3.0
    if variant == "px64":
        c.data.image_size = 64
        return c
    return cifar100_frskd.varied(c, variant)
