"""Tables 1 and 3 of SEED: any of their teachers with any of their students, ImageNet, no labels.

Run:      python main.py --config=configs/seed_tables.py --workdir=runs/seed_r50_to_r18 \\
              --config.data.dir=TFDS_FOLDER
          with moco_v2_200ep_pretrain.pth.tar in this folder; another pair is
          --config=configs/seed_tables.py:r152-efficientnet_b0 --config.teacher.weights=FILE.
Hardware: 200 epochs of 1.28 million images at 224 px; meant for 8 GPUs or a TPU slice; `--plan` prints what a
  run needs. Not run yet: we have no number of our own.
Expected: top-1 %, linear, in the paper's table 1 (recalled, not re-read; differences printed in its figure 1
  and in its abstract agree with the rows of no teacher and of R-50x2):
              EfficientNet-B0, -B1, MobileNetV3-L, ResNet-18, -34
  no teacher             42.2, 50.7, 36.3, 52.5, 57.4     (MoCo v2)
  r50,   67.4 itself     61.3, 61.4, 55.2, 57.6 to 57.9, 58.5
  r101,  70.3            63.0, 63.4, 59.9, 58.9, 61.6
  r152,  74.2            65.3, 67.3, 61.4, 59.5, 62.7
  r50w2, 77.3 (SwAV)     67.6, 68.0, 68.2, 63.0, 65.7     (small patches, seed_r50w2_small_patches.py)
  Table 3 has a ResNet-50 of MoCo v1, SimCLR, MoCo v2 and SwAV: its numbers are not known to us. Its SimCLR
  teacher was trained for 200 epochs, the published file that is named here for 600.
Batch:    as in seed_r50_to_mbv3.py.
Variants: `:TEACHER-STUDENT`, by default `:r50-resnet18`; `:smoke` runs anywhere in a minute. Teachers of
  table 1 are r50, r101, r152 (MoCo v2) and r50w2; of table 3 moco_v1, simclr, moco_v2_800 and swav. The files
  of r101 and r152 are linked in the README of the released code and have no name here: set teacher.weights.
"""

from typing import NamedTuple

from seed_jax import config
from seed_jax.configs import seed_r50_to_mbv3, seed_r50w2_small_patches
from seed_jax.errors import unknown

STUDENTS = ("efficientnet_b0", "efficientnet_b1", "mobilenetv3_large", "resnet18", "resnet34")


class Teacher(NamedTuple):
    """A teacher and how the released code augments for it: jacobswan1/SEED, tools/utils.py."""

    model: str
    weights: str
    photometric: str = "mocov2"
    crop_scale: tuple[float, float] = (0.2, 1.0)


TEACHERS = {
    "r50": Teacher("resnet50", "moco_v2_200ep_pretrain.pth.tar"),
    "r101": Teacher("resnet101", ""),
    "r152": Teacher("resnet152", ""),
    "moco_v1": Teacher("resnet50", "moco_v1_200ep_pretrain.pth.tar", "mocov1"),
    "simclr": Teacher("resnet50", "resnet50_imagenet_bs2k_epochs600.pth.tar", "mocov1"),
    "moco_v2_800": Teacher("resnet50", "moco_v2_800ep_pretrain.pth.tar"),
    "swav": Teacher("resnet50", "swav_800ep_pretrain.pth.tar", "swav", (0.14, 1.0)),
}


def get_config(variant: str = ""):
    name, _, student = ("r50-resnet18" if variant in ("", "smoke") else variant).partition("-")
    if name not in (known := (*TEACHERS, "r50w2")):
        raise unknown("teacher of seed_tables", name, known)
    if student not in STUDENTS:
        raise unknown("student of seed_tables", student, STUDENTS)
    if name == "r50w2":
        c = seed_r50w2_small_patches.get_config()
    else:
        c = seed_r50_to_mbv3.get_config()
        c.teacher.model, c.teacher.weights, c.data.photometric, c.data.crop_scale = TEACHERS[name]
    c.student.model = student
    return config.smoke(c) if variant == "smoke" else c
