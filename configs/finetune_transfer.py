"""Fine-tuning on one of the ten data sets that transfer is measured on.

Run:      python main.py --config=configs/finetune_transfer.py --workdir=runs/cifar10 \\
              --config.student.init=runs/seed_r50_to_mbv3 --config.data.dir=TFDS_FOLDER
          then python -m seed_jax.evals runs/cifar10 --protocol=classifier: top-1 and mean per class; which
          of them papers report is in seed_jax/evals/transfer.py. `:pets_folder` takes a folder with `train`
          and `test` in --config.data.dir. Linear transfer trains nothing:
          python -m seed_jax.evals WEIGHTS --protocol=transfer --data=pets.
Hardware: 20,000 steps at 224 px in batches of 256; meant for one GPU. Not run yet: there is no number of our
          own.
Batch:    the rate is for batches of 256 and is not scaled.
Expected: no number of our own. The recipe is SimCLR's (Chen et al. 2020, arXiv 2002.05709, section B.8.1):
          Nesterov momentum 0.9, half a cosine, crops and mirroring alone. It chooses the rate among seven
          from 0.0001 to 0.1 and the decay among seven from 1e-6 to 1e-3 on a validation split, and trains
          the best one again on both splits; here is one value of each. Choose by data.val and rows of
          `seed-jax compare`.
Variants: `:cifar10` (the default), `:cifar100`, `:sun397`, `:caltech101`, `:dtd`, `:flowers`, `:pets`,
          `:cars`, `:food101` from tensorflow-datasets, which lacks `:aircraft_folder`; each also with
          `_folder`; `:smoke` runs anywhere.
"""

from seed_jax import config
from seed_jax.errors import unknown
from seed_jax.evals.transfer import SETS


def get_config(variant: str = ""):
    name = "cifar10" if variant in ("", "smoke") else variant
    variants = [n for n, known in SETS.items() if known.tfds] + [f"{n}_folder" for n in SETS]
    if name not in variants:
        raise unknown("config variant", variant, ("smoke", *variants))
    known = SETS[name.removesuffix("_folder")]
    c = config.default("supervised")
    if name.endswith("_folder"):
        c.data.source, c.data.train = "", ""  # recognised, with the splits that it has
    else:
        c.data.source = f"tfds:{known.tfds}"
        c.data.train, c.data.val, c.data.test = known.train, known.val, known.test
    c.data.batch_size, c.data.last = 256, "keep"
    c.data.crop_scale, c.data.photometric = (0.08, 1.0), "supervised"
    c.student.model = "mobilenetv3_large"
    c.optim.lr, c.optim.lr_batch, c.optim.nesterov, c.optim.weight_decay = 0.01, 0, True, 1e-4
    c.train.steps, c.train.epochs = 20_000, 0.0
    c.evals.names = ("top1",)
    return config.variant(c, variant if variant == "smoke" else "")
