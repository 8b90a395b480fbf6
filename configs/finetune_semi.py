"""Fine-tuning on 1 % or 10 % of ImageNet's labels, with one rate for the backbone and one for the classifier.

Run:      python main.py --config=configs/finetune_semi.py --workdir=runs/semi1 \\
              --config.student.init=runs/seed_r50_to_mbv3 --config.data.dir=FOLDER_OF_IMAGENET \\
              --config.data.subset=1percent.txt
          then python -m seed_jax.evals runs/semi1 for the validation set's top-1. 1percent.txt and
          10percent.txt are SimCLR's lists (google-research/simclr, imagenet_subsets); without
          data.subset=FILE the images are drawn by train.seed, from each class at least one. SEED itself
          trains a classifier on the frozen backbone: python -m seed_jax.evals WEIGHTS --protocol=semi does
          that on features; --config.method.freeze=backbone does it with augmented images.
Hardware: 20 epochs of 12,800 or 128,000 images at 224 px; meant for one GPU. Not run yet: there is no number
          of our own.
Batch:    the rates are for batches of 256 and are not scaled.
Expected: no number of our own. The values are those of facebookresearch/swav, eval_semisup.py and its README:
          rates 0.02 and 5 for 1 %, 0.01 and 0.2 for 10 %, divided by 5 after 12 and 16 epochs, no weight
          decay. It reports the best epoch on the validation set, here the last one is scored; it normalises
          red with SwAV's 0.228.
Variants: `:1percent` (the default), `:10percent`; `:smoke` runs anywhere.
"""

from seed_jax import config
from seed_jax.errors import unknown

RATES = {"1percent": ("1%", 0.02, 5.0), "10percent": ("10%", 0.01, 0.2), "smoke": ("50%", 0.01, 0.2)}


def get_config(variant: str = ""):
    variant = variant or "1percent"
    if variant not in RATES:
        raise unknown("config variant", variant, RATES)
    c = config.default("supervised")
    c.data.source, c.data.val, c.data.test = "imagenet", "val", "val"
    c.data.batch_size = 256
    c.data.crop_scale, c.data.photometric = (0.08, 1.0), "supervised"
    c.data.subset, c.optim.lr, c.optim.parts_lr = RATES[variant]
    c.student.model = "mobilenetv3_large"
    c.optim.lr_batch, c.optim.weight_decay = 0, 0.0
    c.optim.schedule, c.optim.milestones, c.optim.factor = "steps", (0.6, 0.8), 0.2
    c.train.epochs, c.train.bn_group = 20.0, 0
    c.evals.names = ("top1",)
    return config.variant(c, variant if variant == "smoke" else "")
