"""BYOT on CIFAR-100: a ResNet-18 with an exit after each stage, taught by its own deepest classifier.

Run:      python main.py --config=configs/cifar100_byot.py --workdir=runs/cifar100_byot \\
              --config.data.dir=FOLDER_OF_CIFAR100
          python -m seed_jax.exits runs/cifar100_byot
          The folder is that of cifar-100-python.tar.gz. To train on all 50,000 images and score the test set,
          as the papers do, add --config.data.train=train+val --config.data.val=test.
Hardware: 200 epochs of 50,000 images at 32 px; meant for one GPU. Not run yet: there is no number of our own.
Expected: top-1 of the exits 1/4, 2/4, 3/4, of the deepest, and of their ensemble. The paper does not publish
          alpha, lambda and the temperature; these are from luanyunteng/pytorch-be-your-own-teacher, as is the
          schedule. The paper's gain of 2.65 points on average is that of the ensemble; the deepest classifier
          alone gains 1.96.

                                             baseline    1/4    2/4    3/4  deepest  ensemble
          ResNet-18, paper                      77.09  67.85  74.57  78.23    78.64     79.67
          ResNet-50, paper                      77.68  68.23  74.21  75.23    80.56     81.04
          ResNet-18, paper, deep supervision        -  67.23  73.80  77.75    78.38     79.27  (1)
          ResNet-18, that code's readme             -  66.57  74.69  78.04    78.73         -
          ResNet-18, that code's last log           -  67.74  73.12  76.89    77.32         -

          (1) From memory of the paper's table, not read again.
Variants: `:smoke` runs anywhere; `:deep_supervision` is the baseline with labels alone at every exit;
          `:journal` has the attention exits and the losses of the authors' later code
          (ArchipLab-LinfengZhang/pytorch-self-distillation-final), which also augments by AutoAugment and
          Cutout, which we do not; its best checkpoint is the best on the test set. `:plain` is the network
          alone.
"""

from seed_jax import config
from seed_jax.configs import cifar100_kd

PLAIN = "supervised"


def get_config(variant: str = ""):
    c = recipe(PLAIN if variant == "plain" else "byot", (75, 130, 180), epochs=200, weight_decay=5e-4)
    if variant == "deep_supervision":
        c.method.alpha = c.method.feature = 0.0
    elif variant == "journal":
        c.method.form, c.method.alpha, c.method.feature = "journal", 0.3, 0.03
        c.train.epochs, c.optim.milestones = 250.0, tuple(epoch / 250 for epoch in (83, 166, 240))
    elif variant != "plain":
        return config.variant(c, variant)
    return c


def recipe(method: str, milestones, *, epochs: int, weight_decay: float):
    """A ResNet-18 on CIFAR-100 from a rate of 0.1, divided by 10 at each of the `milestones`, in epochs."""
    c = cifar100_kd.recipe(method)
    c.data.batch_size = 128
    c.student.model = "resnet18"
    c.student.options = {"small_stem": True, "mean": cifar100_kd.MEAN, "std": cifar100_kd.STD}
    c.optim.lr, c.optim.weight_decay = 0.1, weight_decay
    c.optim.milestones = tuple(epoch / epochs for epoch in milestones)
    c.train.epochs = float(epochs)
    return c
