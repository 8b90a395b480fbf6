"""SAD on CIFAR-100: the stages of a ResNet-18 imitate where the next stage looks.

Run:      python main.py --config=configs/cifar100_sad.py --workdir=runs/cifar100_sad \\
              --config.data.dir=FOLDER_OF_CIFAR100
          The folder is that of cifar-100-python.tar.gz. To train on all 50,000 images and score the test set,
          as others do, add --config.data.train=train+val --config.data.val=test.
Hardware: 200 epochs of 50,000 images at 32 px; meant for one GPU. Not run yet: there is no number of our own.
Expected: next to nothing for classification: SAD was made for lanes. winycg/Self-KD-Lib reports 76.40 on its
          baseline of 76.24; FRSKD's table 1, from memory, 74.65 on 73.80 with ResNet-18 and 70.31 on 70.42
          with WRN-16-2.
Variants: `:smoke` runs anywhere; `:plain` is the network alone.
"""

from seed_jax import config
from seed_jax.configs.cifar100_byot import PLAIN, recipe


def get_config(variant: str = ""):
    c = recipe(PLAIN if variant == "plain" else "sad", (100, 150), epochs=200, weight_decay=5e-4)
    return c if variant == "plain" else config.variant(c, variant)
