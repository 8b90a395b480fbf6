"""KD with CutMixPick on CIFAR-100: a ResNet-32x4 of the CRD zoo teaches a ResNet-8x4.

Run:      python main.py --config=configs/cifar100_kd.py --workdir=runs/cifar100_kd \\
              --config.teacher.weights=resnet32x4.pth --config.data.dir=FOLDER_OF_CIFAR100
          The teacher is a file of HobbitLong/RepDistiller, the folder that of cifar-100-python.tar.gz. To
          train on all 50,000 images and score the test set, as the papers do, add
          --config.data.train=train+val --config.data.val=test.
Hardware: 240 epochs of 50,000 images at 32 px; meant for one GPU. Not run yet: there is no number of our own.
Expected: top-1, last epoch, means of three seeds: KD 73.33, with CutMix 74.91, with CutMixPick 74.78, and
          75.12 after 960 epochs; the teacher has 79.42, the student alone 72.50 (the paper's earlier
          version, "Understanding the success of KD", tables 3 and 10, where CutMixPick picks by `kld`).
Variants: `:smoke` runs anywhere; `:plain` is KD without an augmentation; `:prolonged` has 960 epochs;
          `:official_code` draws, picks and rounds as MingSun-Tse/Good-DA-in-KD does by default.
"""

from seed_jax import config

MEAN, STD = (0.5071, 0.4867, 0.4408), (0.2675, 0.2565, 0.2761)


def get_config(variant: str = ""):
    c = config.default("kd")
    c.data.source = "cifar100"
    c.data.batch_size, c.data.image_size, c.data.resize = 64, 32, 1.0
    c.data.crop, c.data.padding, c.data.photometric, c.data.last = "pad", 4, "none", "keep"

    c.teacher.weights = "resnet32x4.pth"
    c.student.model = "cifar_resnet8x4"
    c.student.options = {"mean": MEAN, "std": STD}

    c.method.losses = {"kd": 0.9}
    c.method.gamma, c.method.temperature = 0.1, 4.0
    c.method.augment = "cutmix_pick"

    c.optim.name, c.optim.lr, c.optim.lr_batch = "sgd", 0.05, 0
    c.optim.momentum, c.optim.weight_decay = 0.9, 5e-4
    c.optim.schedule, c.optim.milestones = "steps", (0.625, 0.75, 0.875)
    c.train.epochs = 240.0
    c.train.bn_group, c.train.precision = 0, "fp32"
    c.evals.names = ("top1",)
    c.evals.every_epochs = 10.0

    if variant == "plain":
        c.method.augment = ""
        return c
    if variant == "prolonged":
        c.train.epochs = 960.0
        return c
    if variant == "official_code":
        c.method.criterion, c.method.n_pick, c.method.released = "kld", 64, True
        return c
    c = config.variant(c, variant)
    if variant == "smoke":
        c.teacher.options = {"num_classes": 10}
    return c
