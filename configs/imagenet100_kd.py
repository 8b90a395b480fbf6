"""KD with CutMixPick on ImageNet-100: a ResNet-34 trained on these classes teaches a ResNet-18.

Run:      python main.py --config=configs/imagenet100_kd.py --workdir=runs/imagenet100_kd \\
              --config.teacher.weights=runs/imagenet100_teacher --config.data.dir=imagenet/imagenet100.txt
          The teacher is a run of imagenet100_teacher.py. The text file lists the classes, one a line, and is
          beside ImageNet's train and val. The paper's classes are the names in data/imagenet100.zip of
          MingSun-Tse/Good-DA-in-KD:
          unzip -Z1 imagenet100.zip | grep -o 'train/n[0-9]*' | cut -c7- > imagenet/imagenet100.txt
Hardware: 100 epochs of about 128,000 images at 224 px; meant for one GPU and up. Not run yet: there is no
          number of our own.
Pairs:    for another pair, set --config.teacher.weights and --config.student.model.
Expected: unknown. The paper has figures for ImageNet-100 that we have not read. Its released code has neither
          pair nor schedule; these are those of imagenet_kd.py.
Variants: `:smoke`, `:plain`, `:prolong2` and `:official_code`, as in cifar100_kd.py.
"""

from seed_jax.configs.cifar100_kd import distilled
from seed_jax.configs.imagenet_kd import recipe


def get_config(variant: str = ""):
    c = recipe("kd")
    c.data.dir = "imagenet/imagenet100.txt"
    c.teacher.weights = "runs/imagenet100_teacher"
    c.student.model = "resnet18"
    return distilled(c, variant)
