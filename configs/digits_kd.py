"""KD with CutMixPick on scattered digits: a ResNet-20 teaches a ResNet-8.

Run:      python main.py --config=configs/digits_kd.py --workdir=runs/digits_kd
          after digits_classifier.py, whose run is the teacher.
Hardware: two CPU cores, a minute or two.
Expected: experiments/da_ranking/README.md, `scattered`, three seeds.
Variants: `:smoke`; `:plain` is KD without an augmentation.
"""

from seed_jax.configs.cifar100_kd import distilled
from seed_jax.configs.digits_classifier import recipe

EPOCHS = 12.0  # about 500 steps


def get_config(variant: str = ""):
    c = recipe("kd", EPOCHS)
    c.teacher.weights = "runs/digits_classifier"
    c.student.model = "cifar_resnet8"
    return distilled(c, variant)
