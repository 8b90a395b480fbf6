"""K-means on ImageNet: a ResNet-18 learns the clusters of a ResNet-50's (MoCo-v2) embeddings, without labels.

Run:      python main.py --config=configs/kmeans_r50_to_r18.py --workdir=runs/kmeans_r50_to_r18 \\
              --config.teacher.weights=moco_v2_200ep_pretrain.pth.tar --config.data.dir=TFDS_FOLDER
Hardware: 200 epochs of 1.28 million images at 224 px of the student alone, after one forward of the teacher
  over them and k-means of 1.28 million x 128 numbers. Meant for 8 GPUs. Not run yet: we have no number of
  our own.
Expected: 51.0 % linear in SEED's table 4, recalled and not re-read; SEED itself has 57.9 there. The number of
  clusters is SwAV's: the paper's is not known to us.
Batch:    the rate scales with data.batch_size, from 0.03 at 256: the recipe is that of `seed_strategies`.
Variants: `:smoke` runs anywhere.
"""

from seed_jax import config


def get_config(variant: str = ""):
    c = config.default("kmeans")
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
    return config.variant(c, variant)
