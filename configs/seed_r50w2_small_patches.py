"""SEED with small patches, the paper's rows marked *: a ResNet-50 of double width (SwAV) and a ResNet-18,
ImageNet, no labels, 800 epochs.

Run:      python main.py --config=configs/seed_r50w2_small_patches.py --workdir=runs/small_patches \\
              --config.teacher.weights=swav_RN50w2_400ep_pretrain.pth.tar --config.data.dir=TFDS_FOLDER
Hardware: 800 epochs of 1.28 million images, each one view of 224 px and six of 96; meant for 8 GPUs or a TPU
  slice. `--plan` prints what it needs. Not run yet: we have no number of our own.
Expected: 63.0 % linear, 55.3 % kNN (paper, Table 1; recalled, not re-read).
Variants: `:smoke` runs anywhere in a minute; `:official_code` does what the released code does where it
  differs from the paper. Other students of Table 1 by --config.student.model.
"""

from seed_jax import config
from seed_jax.configs import seed_r50_to_mbv3


def get_config(variant: str = ""):
    c = seed_r50_to_mbv3.get_config()
    c.teacher.weights = "swav_RN50w2_400ep_pretrain.pth.tar"
    c.teacher.model, c.teacher.options.width = "resnet50", 2.0
    c.student.model = "resnet18"

    c.data.crop_scale = (0.14, 1.0)
    c.data.photometric = "swav"
    c.method.patches = 6
    c.method.patch_size = 96
    c.method.patch_scale = (0.05, 0.14)

    c.train.epochs = 800.0
    c.evals.every_epochs = 10.0

    if variant == "official_code":
        return seed_r50_to_mbv3.official_code(c)
    return config.variant(c, variant)
