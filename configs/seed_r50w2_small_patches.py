"""SEED with small patches, the paper's rows marked *: a ResNet-50 of double width (SwAV) and a ResNet-18,
ImageNet, no labels, 800 epochs.

Run:      python main.py --config=configs/seed_r50w2_small_patches.py --workdir=runs/small_patches \\
              --config.teacher.weights=swav_RN50w2_400ep_pretrain.pth.tar --config.data.dir=TFDS_FOLDER
Hardware: 800 epochs of 1.28 million images, each one view of 224 px and six of 96; meant for 8 GPUs or a TPU
  slice. `--plan` prints what it needs. Not run yet: we have no number of our own.
Expected: 63.0 % linear, 55.3 % kNN (paper, Table 1; recalled, not re-read).
Batch:    the rate scales with data.batch_size, from 0.03 at 256, as in the released code's distributed runs.
  On one GPU the released code does not scale it: add --config.optim.lr_batch=0 to repeat such a command.
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
        return official_code(c)
    return config.variant(c, variant)


def official_code(c):
    """jacobswan1/SEED as released: as in `seed_r50_to_mbv3.py`, and the teacher's images have the std of the
    student's, .229 in red (tools/utils.py). SwAV trained it with .228 (src/multicropdataset.py)."""
    c = seed_r50_to_mbv3.official_code(c)
    c.teacher.options.std = c.student.options.std = (0.229, 0.224, 0.225)
    return c
