"""Fine-tuning on one of the ten data sets that transfer is measured on.

Run:      python main.py --config=configs/finetune_transfer.py:pets --workdir=runs/pets \\
              --config.student.init=runs/seed_r50_to_mbv3 --config.data.dir=TFDS_FOLDER
          then python -m seed_jax.evals runs/pets --protocol=classifier: top-1, or the mean per class where
          that is the custom (seed_jax/evals/transfer.py). For a folder add --config.data.source=imagefolder.
          Linear transfer trains nothing:
          python -m seed_jax.evals WEIGHTS --protocol=transfer --data=pets.
Hardware: 20,000 steps at 224 px in batches of 256; meant for one GPU. Not run yet: there is no number of our
          own.
Batch:    the rate is for batches of 256 and is not scaled.
Expected: no number of our own. The recipe is SimCLR's (Chen et al. 2020, arXiv 2002.05709, section B.8.1):
          Nesterov momentum 0.9, half a cosine, crops and mirroring alone. It chooses the rate among seven
          from 0.0001 to 0.1 and the decay among seven from 1e-6 to 1e-3 on a validation split, and trains
          the best one again on both splits; here are values from the middle. Choose by data.val and rows of
          `seed-jax compare`.
Variants: `:cifar10` (the default), `:cifar100`, `:sun397`, `:caltech101`, `:dtd`, `:flowers`, `:pets`,
          `:cars`, `:aircraft` (a folder: tensorflow-datasets lacks it), `:food101`; `:smoke` runs anywhere.
"""

from seed_jax import config
from seed_jax.errors import unknown
from seed_jax.evals.transfer import SETS


def get_config(variant: str = ""):
    name = "cifar10" if variant in ("", "smoke") else variant
    if name not in SETS:
        raise unknown("config variant", variant, ("smoke", *SETS))
    known = SETS[name]
    c = config.default("supervised")
    if known.tfds:
        c.data.source = f"tfds:{known.tfds}"
        c.data.train, c.data.val, c.data.test = known.train, known.val, known.test
    else:
        c.data.source = "imagefolder"
    c.data.batch_size, c.data.last = 256, "keep"
    c.data.crop_scale, c.data.photometric = (0.08, 1.0), "supervised"
    c.student.model = "mobilenetv3_large"
    c.optim.lr, c.optim.lr_batch, c.optim.nesterov, c.optim.weight_decay = 0.01, 0, True, 1e-4
    c.train.steps, c.train.epochs = 20_000, 0.0
    c.evals.names = ("top1",)
    return config.variant(c, variant if variant == "smoke" else "")
