"""Attention transfer on CIFAR: a WRN-40-2 teaches a WRN-16-2 where to look.

Run:      python main.py --config=configs/cifar_attention_transfer.py --workdir=runs/cifar_at \\
              --config.teacher.weights=wrn_40_2.pth --config.data.dir=FOLDER_OF_CIFAR100
          The teacher is a file of HobbitLong/RepDistiller or a run of this config's `:teacher`, the folder
          that of cifar-100-python.tar.gz; for the paper's data add --config.data.source=cifar10. To train on
          all 50,000 images and score the test set, as the paper does, add
          --config.data.train=train+val --config.data.val=test.
Hardware: 200 epochs of 50,000 images at 32 px; meant for one GPU. Not run yet: there is no number of our own.
Expected: error on CIFAR-10, median of five runs, from memory of the paper's table 1, not read again. F-ActT
          is FitNet's loss on the same maps.

          student   teacher   student    AT  F-ActT    KD  AT + KD  teacher
          WRN-16-1  WRN-16-2     8.77  7.93    8.51  7.41     7.51     6.31
          WRN-16-1  WRN-40-1     8.77  8.25    8.62  8.39     8.01     6.58
          WRN-16-2  WRN-40-2     6.31  5.85    6.24  6.08     5.71     5.23

          The paper's networks with gradients have no BatchNorm (table 5, from memory): alone 13.5, gradients
          12.1, KD 12.1, symmetry 11.8, activations 11.2.
Variants: `:smoke` runs anywhere; `:gradient` compares pixel gradients instead of maps, `:symmetry`
          those of an image and its mirror image, without a teacher. Their weight, 0.1, has no source: the
          authors have released no code for gradients. `:teacher` trains the WRN-40-2 and
          `:plain` the student, on labels alone.
"""

from seed_jax.configs import cifar100_kd
from seed_jax.configs.cifar100_byot import PLAIN
from seed_jax.configs.cifar100_kd import smoke_or_full


def get_config(variant: str = ""):
    alone = variant in ("teacher", "plain")
    c = recipe(PLAIN if alone else "attention_transfer")
    c.student.model = "wrn_40_2" if variant == "teacher" else "wrn_16_2"
    if alone:
        return c
    if variant in ("gradient", "symmetry"):
        c.method.beta = 0.0
        c.method[variant] = 0.1
    if variant == "symmetry":
        return c
    c.teacher.weights = "wrn_40_2.pth"
    return c if variant == "gradient" else smoke_or_full(c, variant)


def recipe(method: str):
    """The schedule of szagoruyko/attention-transfer, cifar.py, which clears the momentum at each drop."""
    c = cifar100_kd.recipe(method)
    c.data.batch_size = 128
    c.optim.lr, c.optim.factor, c.optim.milestones = 0.1, 0.2, (0.3, 0.6, 0.8)
    c.optim.restart_momentum = True
    c.train.epochs = 200.0
    return c
