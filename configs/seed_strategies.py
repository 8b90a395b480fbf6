"""The strategies of SEED's table 4: a ResNet-50 (MoCo-v2, 200 epochs) teaches a ResNet-18 in six ways.

Run:      python main.py --config=configs/seed_strategies.py --workdir=runs/seed_r50_to_r18 \\
              --config.teacher.weights=moco_v2_200ep_pretrain.pth.tar --config.data.dir=TFDS_FOLDER
          is SEED itself; the others are variants.
Hardware: 200 epochs of 1.28 million images at 224 px each; meant for 8 GPUs. Not run yet: we have no number
  of our own.
Expected: top-1 % linear in the paper, recalled and not re-read: SEED 57.9, `:moco` 57.6, `:binary` 57.4,
  `:online_clustering` 56.4, `:l2` 55.3, `:kmeans` 51.0.
Variants: `:smoke`; `:l2` regresses the embedding at length 1 (`simreg`), `:binary` is `method.strategy`,
  `:moco` adds MoCo's loss (`seed_moco`), `:online_clustering` has SwAV's assignments, `:kmeans` the teacher's
  clusters, as many as SwAV has: the paper's number is not known to us. The released code has none of them:
  the docstrings of the methods say what is ours. All share SEED's recipe, and all but `:kmeans` its head.
"""

from seed_jax import config

METHODS = {
    "l2": "simreg",
    "moco": "seed_moco",
    "online_clustering": "online_clustering",
    "kmeans": "kmeans",
}


def get_config(variant: str = ""):
    c = config.default(METHODS.get(variant, "seed"))
    c.data.source = "tfds:imagenet2012"
    c.data.train, c.data.bank = "train[:99%]", "train[:99%]"
    c.data.val, c.data.test = "train[99%:]", "validation"
    c.data.batch_size = 256
    c.data.crop_scale = (0.2, 1.0)
    c.data.photometric = "mocov2"
    c.teacher.model = "resnet50"
    c.teacher.weights = "moco_v2_200ep_pretrain.pth.tar"
    c.student.model = "resnet18"
    c.optim.lr, c.optim.lr_batch = 0.03, 256
    c.optim.weight_decay = 1e-4
    c.train.epochs = 200.0
    c.train.precision = "bf16"
    c.train.bn_group = 32
    c.evals.every_epochs = 5.0
    c.evals.bank_size = 50_000
    if variant == "l2":
        c.method.update(target="embedding", layers=2, hidden=512, batch_norm=False)
    elif variant == "binary":
        c.method.strategy = "binary"
    elif variant not in METHODS:
        return config.variant(c, variant)
    return c
