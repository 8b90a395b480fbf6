"""A teacher for cifar100_kd.py: ResNet-32x4 trained on the labels of CIFAR-100, as CRD trains its teachers.

Run:      python main.py --config=configs/cifar100_teacher.py --workdir=runs/cifar100_teacher \\
              --config.data.dir=FOLDER_OF_CIFAR100
          then set --config.teacher.weights=runs/cifar100_teacher in cifar100_kd.py. To train on all 50,000
          images, as CRD does, add --config.data.train=train+val --config.data.val=test to both.
Hardware: 240 epochs of 50,000 images at 32 px; meant for one GPU. Not run yet: there is no number of our own.
Expected: top-1 of CRD's teachers: cifar_resnet32x4 79.42, wrn_40_2 75.61, vgg13 74.64, cifar_resnet56 72.34,
          and 79.34 of resnet50, which needs the option `small_stem` (from cifar100_kd.py).
Variants: `:smoke` runs anywhere.
"""

from seed_jax import config
from seed_jax.configs.cifar100_kd import recipe


def get_config(variant: str = ""):
    c = recipe("supervised")
    c.student.model = "cifar_resnet32x4"
    return config.variant(c, variant)
