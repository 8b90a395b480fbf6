"""A teacher for tiny_imagenet_kd.py: ResNet-32x4 trained on the labels of Tiny ImageNet.

Run:      python main.py --config=configs/tiny_imagenet_teacher.py --workdir=runs/tiny_imagenet_teacher \\
              --config.data.dir=tiny-imagenet-200
          then set --config.teacher.weights=runs/tiny_imagenet_teacher in tiny_imagenet_kd.py.
Hardware: 240 epochs of 100,000 images at 64 px; meant for one GPU. Not run yet: there is no number of our
          own.
Expected: top-1 of the paper's teachers: cifar_resnet32x4 64.41, wrn_40_2 61.28, vgg13 62.59, cifar_resnet56
          58.37, and 68.20 of resnet50, which needs the option `small_stem` (from tiny_imagenet_kd.py).
Variants: `:smoke` runs anywhere.
"""

from seed_jax import config
from seed_jax.configs.tiny_imagenet_kd import recipe


def get_config(variant: str = ""):
    c = recipe("supervised")
    c.student.model = "cifar_resnet32x4"
    return config.variant(c, variant)
