"""KD with CutMixPick on CIFAR-100: a ResNet-32x4 of the CRD zoo teaches a ResNet-8x4.

Run:      python main.py --config=configs/cifar100_kd.py --workdir=runs/cifar100_kd \\
              --config.teacher.weights=resnet32x4.pth --config.data.dir=FOLDER_OF_CIFAR100
          The teacher is a file of HobbitLong/RepDistiller or a run of cifar100_teacher.py, the folder that of
          cifar-100-python.tar.gz. To train on all 50,000 images and score the test set, as the papers do, add
          --config.data.train=train+val --config.data.val=test.
Hardware: 240 epochs of 50,000 images at 32 px; meant for one GPU. Not run yet: there is no number of our own.
Pairs:    for another pair, set --config.teacher.weights and --config.student.model. MobileNetV2 and the
          ShuffleNets start at --config.optim.lr=0.01, as in the released code.
Expected: top-1 at the last epoch, mean of three seeds, after 240 epochs or as many as the column says. From
          an earlier version of the paper ("Understanding the success of KD", tables 3 and 10), where
          CutMixPick picks by `kld`. CRD includes KD.

          teacher           student           teacher  student     KD  KD 960  CutMix   Pick  Pick 960    CRD
          wrn_40_2          wrn_16_2            75.61    73.26  74.92   75.68   75.34  75.59     76.41  75.64
          cifar_resnet56    cifar_resnet20      72.34    69.06  70.66   71.79   70.77  70.99     71.66  71.63
          cifar_resnet32x4  cifar_resnet8x4     79.42    72.50  73.33   73.14   74.91  74.78     75.12  75.46
          vgg13             vgg8                74.64    70.36  72.98   74.00   74.16  74.43     75.00  74.29
          vgg13             mobilenetv2_half    74.64    64.60  67.37   68.77   68.79  69.49     70.47  69.94
          resnet50          vgg8                79.34    70.36  73.81   74.04   74.85  74.95     76.13  74.58
          cifar_resnet32x4  shufflenetv2        79.42    71.82  74.45   74.64   76.61  76.90     77.90  76.05

          Test loss of the student, read from the figures of MingSun-Tse/Good-DA-in-KD, where CutMixPick picks
          by the teacher's entropy, as here:

          teacher           student          identity  CutMix   Pick
          wrn_40_2          wrn_16_2            1.098   1.028  0.975
          cifar_resnet56    cifar_resnet20      1.178   1.144  1.092
          vgg13             vgg8                1.186   1.086  0.998
          resnet50          vgg8                1.242   1.116  1.007
Variants: `:smoke` runs anywhere; `:plain` is KD without an augmentation; `:prolong4` has 4 times as many
          epochs, and any whole number works; `:official_code` picks and rounds as MingSun-Tse/Good-DA-in-KD
          does by default: 64 images, or all of the last, smaller pool of an epoch.
"""

import re

from seed_jax import config

MEAN, STD = (0.5071, 0.4867, 0.4408), (0.2675, 0.2565, 0.2761)


def get_config(variant: str = ""):
    c = recipe("kd")
    c.teacher.weights = "resnet32x4.pth"
    c.student.model = "cifar_resnet8x4"
    return distilled(c, variant)


def recipe(method: str):
    """The settings of teachers and students on CIFAR-100 in CRD (HobbitLong/RepDistiller)."""
    c = config.default(method)
    c.data.source = "cifar100"
    c.data.batch_size, c.data.image_size, c.data.resize = 64, 32, 1.0
    c.data.crop, c.data.padding, c.data.photometric, c.data.last = "pad", 4, "none", "keep"
    c.student.options = {"mean": MEAN, "std": STD}
    c.optim.name, c.optim.lr, c.optim.lr_batch = "sgd", 0.05, 0
    c.optim.momentum, c.optim.weight_decay, c.optim.decay = 0.9, 5e-4, "all"
    c.optim.schedule, c.optim.milestones = "steps", (0.625, 0.75, 0.875)  # 150, 180 and 210 epochs of 240
    c.train.epochs = 240.0
    c.train.bn_group, c.train.precision = 0, "fp32"
    c.train.checkpoint_epochs = 10.0
    c.evals.names = ("top1",)
    c.evals.every_epochs = 10.0
    return c


def distilled(c, variant: str):
    """A recipe with the paper's method; the variants are those of the header, for every data set."""
    c.method.losses = {"kd": 0.9}
    c.method.gamma, c.method.temperature = 0.1, 4.0
    c.method.augment = "cutmix_pick"
    if variant == "plain":
        c.method.augment = ""
    elif factor := re.fullmatch(r"prolong([1-9]\d*)", variant):
        c.train.epochs *= int(factor[1])  # milestones are shares of the run
    elif variant == "official_code":
        c.method.criterion, c.method.n_pick, c.method.released = "kld", 64, True
    else:
        return smoke_or_full(c, variant)
    return c


def smoke_or_full(c, variant: str):
    """As `config.variant`; the random teacher of `smoke` gets a classifier of the ten digits."""
    c = config.variant(c, variant)
    if variant == "smoke":
        c.teacher.options = {"num_classes": 10}
    return c
