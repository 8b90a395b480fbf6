"""Attention transfer on ImageNet: torchvision's ResNet-34 teaches a ResNet-18 where to look.

Run:      python main.py --config=configs/imagenet_attention_transfer.py --workdir=runs/imagenet_at \\
              --config.teacher.weights=resnet34-b627a593.pth --config.data.dir=FOLDER_OF_IMAGENET
          The teacher is torchvision's file, the folder that of ImageNet's train and val. Probes during
          training look at the validation images, too, as in the paper.
Hardware: 100 epochs of 1.28 million images at 224 px; meant for 8 GPUs or a TPU slice. Not run yet: there is
          no number of our own.
Expected: top-1 and top-5 error of ResNet-18: 30.4 and 10.8 alone, 29.3 and 10.0 with attention transfer
          (szagoruyko/attention-transfer, README). Others have not reached this with the released code
          (its issues 27 and 38), whose two GPUs double beta: `:official_code`.
Variants: `:smoke` runs anywhere; `:official_code` has beta 2000; `:plain` is the student alone.
"""

from seed_jax.configs.cifar100_byot import PLAIN
from seed_jax.configs.cifar100_kd import smoke_or_full
from seed_jax.configs.imagenet_kd import recipe


def get_config(variant: str = ""):
    c = recipe(PLAIN if variant == "plain" else "attention_transfer")
    c.optim.milestones = (0.3, 0.6)
    c.student.model = "resnet18"
    if variant == "plain":
        return c
    c.teacher.weights = "resnet34-b627a593.pth"
    if variant == "official_code":
        c.method.beta = 2000.0
        return c
    return smoke_or_full(c, variant)
