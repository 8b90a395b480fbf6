"""KD with CutMixPick on ImageNet: torchvision's ResNet-34 teaches a ResNet-18.

Run:      python main.py --config=configs/imagenet_kd.py --workdir=runs/imagenet_kd \\
              --config.teacher.weights=resnet34-b627a593.pth --config.data.dir=FOLDER_OF_IMAGENET
          The teacher is torchvision's file, the folder that of ImageNet's train and val. Probes during
          training look at the validation images, too, as in the paper.
Hardware: 100 epochs of 1.28 million images at 224 px; meant for 8 GPUs or a TPU slice. Not run yet: there is
          no number of our own.
Batch:    the rate is 0.1 whatever data.batch_size is; --config.optim.lr_batch=256 scales it. We leave out the
          last batch of an epoch, 143 images, which several devices cannot share; the released code keeps it.
Pairs:    for another pair, set --config.teacher.weights and --config.student.model.
Expected: top-1 and top-5, from an earlier version of the paper ("Understanding the success of
          KD", table 5), where CutMixPick picks by `kld`. At 100 epochs picking is worse than CutMix alone
          there: add --config.method.augment=cutmix. That version does not state the weight decay; 1e-4 is
          that of megvii-research/mdistiller.

          teacher             73.31  91.42      CutMix                  71.05  90.36
          student             69.75  89.97      CutMixPick              70.78  90.04
          KD                  70.66  89.88      CutMixPick, 200 epochs  71.76  90.58
          KD, 200 epochs      71.38  90.59      CRD                     71.38  90.49

          KD elsewhere scores 71.03 (mdistiller) to 71.37 (torchdistill), with other weights and temperatures.
Variants: `:smoke`, `:plain`, `:prolong2` and `:official_code`, as in cifar100_kd.py. The last picks 64 of 512
          images, as the released code does unless it is told otherwise; that version of the paper picks half.
"""

from seed_jax import config
from seed_jax.configs.cifar100_kd import distilled


def get_config(variant: str = ""):
    c = recipe("kd")
    c.teacher.weights = "resnet34-b627a593.pth"
    c.student.model = "resnet18"
    return distilled(c, variant)


def recipe(method: str):
    """The settings of teachers and students on ImageNet, torchvision's of old."""
    c = config.default(method)
    c.data.source = "imagenet"
    c.data.val, c.data.test = "val", "val"
    c.data.batch_size, c.data.image_size = 256, 224
    c.data.crop, c.data.crop_scale = "random", (0.08, 1.0)
    c.data.photometric, c.data.last = "none", "drop"
    c.optim.name, c.optim.lr, c.optim.lr_batch = "sgd", 0.1, 0
    c.optim.momentum, c.optim.weight_decay, c.optim.decay = 0.9, 1e-4, "all"
    c.optim.schedule, c.optim.milestones = "steps", (0.3, 0.6, 0.9)
    c.train.epochs = 100.0
    c.train.bn_group, c.train.precision = 0, "fp32"
    c.train.checkpoint_epochs = 2.0
    c.evals.names = ("top1",)
    c.evals.every_epochs = 2.0
    return c
