"""KD with CutMixPick on Tiny ImageNet: a ResNet-32x4 of the CRD zoo teaches a ResNet-8x4.

Run:      python main.py --config=configs/tiny_imagenet_kd.py --workdir=runs/tiny_imagenet_kd \\
              --config.teacher.weights=runs/tiny_imagenet_teacher --config.data.dir=tiny-imagenet-200
          The teacher is a run of tiny_imagenet_teacher.py, the folder what tiny-imagenet-200.zip unpacks to.
          The validation images are scored, as in the paper: those of the test set have no labels.
Hardware: 240 epochs of 100,000 images at 64 px; meant for one GPU. Not run yet: there is no number of our
          own.
Pairs:    for another pair, set --config.teacher.weights and --config.student.model. MobileNetV2 and the
          ShuffleNets start at --config.optim.lr=0.01, as in the released code.
Expected: top-1 at the last epoch, mean of three seeds, after 240 epochs or as many as the column says. From
          an earlier version of the paper ("Understanding the success of KD", table 4), where
          CutMixPick picks by `kld`. CRD includes KD, and KD with CutMixPick is behind it in all rows but one.

          teacher           student           teacher  student     KD  KD 480  CutMix   Pick  Pick 480    CRD
          wrn_40_2          wrn_16_2            61.28    58.23  58.65   59.20   59.06  59.22     60.07  60.79
          cifar_resnet56    cifar_resnet20      58.37    52.53  53.58   54.23   53.77  53.66     54.25  55.34
          cifar_resnet32x4  cifar_resnet8x4     64.41    55.41  55.67   55.49   56.41  56.82     57.54  59.28
          vgg13             vgg8                62.59    56.67  61.48   61.72   62.17  62.32     62.60  62.92
          vgg13             mobilenetv2_half    62.59    58.20  59.28   59.27   60.48  60.53     60.66  62.38
          resnet50          vgg8                68.20    56.67  60.39   60.10   61.12  61.40     61.95  62.03
          cifar_resnet32x4  shufflenetv2        64.41    62.07  66.34   65.81   67.01  67.08     67.35  67.33

          Test loss of the student, read from the figures of MingSun-Tse/Good-DA-in-KD, where CutMixPick picks
          by the teacher's entropy, as here:

          teacher           student          identity  CutMix   Pick
          wrn_40_2          wrn_16_2            1.768   1.730  1.685
          cifar_resnet56    cifar_resnet20      1.946   1.914  1.882
          vgg13             vgg8                1.838   1.726  1.624
          resnet50          vgg8                1.977   1.823  1.672
Variants: `:smoke`, `:plain`, `:prolong2` and `:official_code`, as in cifar100_kd.py.
"""

from seed_jax.configs import cifar100_kd
from seed_jax.models import IMAGENET_MEAN, IMAGENET_STD


def get_config(variant: str = ""):
    c = recipe("kd")
    c.teacher.weights = "runs/tiny_imagenet_teacher"
    c.student.model = "cifar_resnet8x4"
    return cifar100_kd.distilled(c, variant)


def recipe(method: str):
    """The settings of teachers and students on Tiny ImageNet: those of CIFAR-100 at 64 pixels."""
    c = cifar100_kd.recipe(method)
    c.data.source = "tiny_imagenet"
    c.data.val, c.data.test = "val", "val"
    c.data.image_size, c.data.padding = 64, 8
    c.student.options = {"mean": IMAGENET_MEAN, "std": IMAGENET_STD}
    return c
