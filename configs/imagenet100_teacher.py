"""A teacher for imagenet100_kd.py: ResNet-34 trained on the labels of ImageNet-100.

Run:      python main.py --config=configs/imagenet100_teacher.py --workdir=runs/imagenet100_teacher \\
              --config.data.dir=imagenet/imagenet100.txt
          then set --config.teacher.weights=runs/imagenet100_teacher in imagenet100_kd.py, whose header says
          what the text file is. A teacher of all 1,000 classes does not fit: the classes must be the same.
Hardware: 100 epochs of about 128,000 images at 224 px; meant for one GPU and up. Not run yet: there is no
          number of our own.
Variants: `:smoke` runs anywhere.
"""

from seed_jax import config
from seed_jax.configs.imagenet_kd import recipe


def get_config(variant: str = ""):
    c = recipe("supervised")
    c.data.dir = "imagenet/imagenet100.txt"
    c.student.model = "resnet34"
    return config.variant(c, variant)
