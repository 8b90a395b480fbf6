"""FunMatch on ImageNet with the method `kd`: a ResNet-152 teaches a ResNet-50 on mixed images.

Run:      python main.py --config=configs/funmatch_kd.py --workdir=runs/funmatch_kd \\
              --config.teacher.weights=resnet152-f82ba261.pth --config.data.dir=FOLDER_OF_IMAGENET
          The teacher is torchvision's file, the folder that of ImageNet's train and val. No label is used.
Hardware: 1,200 epochs of 1.28 million images at 224 px in batches of 4,096; meant for a TPU slice. Not run
          yet: there is no number of our own.
Batch:    the rate is 0.03 whatever data.batch_size is; --config.optim.lr_batch=4096 scales it.
Expected: unknown for this pair. The paper has top-1 82.8 for a ResNet-50 and 83.0 for its teacher, a
          ResNet-152 of twice the width, both with GroupNorm (Beyer et al., "Knowledge distillation: A good
          teacher is patient and consistent", arXiv 2106.05237; read in google-research/big_vision,
          configs/proj/distill/README.md, which does not say after how many epochs).
          The values here are those of bit_i1k.py there. We differ in the networks; in the partners of Mixup,
          a random permutation; in Adam's first moment, bfloat16 there; and in the 2 % of the training images
          that it holds out.
Variants: `:smoke` runs anywhere.
"""

from seed_jax.configs.cifar100_kd import smoke_or_full
from seed_jax.configs.imagenet_kd import recipe


def get_config(variant: str = ""):
    c = recipe("kd")
    c.teacher.weights = "resnet152-f82ba261.pth"
    c.student.model = "resnet50"
    c.method.losses, c.method.gamma, c.method.temperature = {"kd": 1.0}, 0.0, 1.0
    c.method.augment, c.method.both = "mixup", False
    c.data.batch_size, c.data.crop_scale, c.data.last = 4096, (0.05, 1.0), "drop"
    c.optim.name, c.optim.lr, c.optim.schedule = "adamw", 0.03, "cosine"
    c.optim.weight_decay, c.optim.decay = 0.01, "kernels"  # times the rate: 3e-4 at its peak
    c.optim.warmup_epochs, c.optim.decay_from = 16.0, "warmup"  # 5,000 steps
    c.optim.clip_norm = 1.0
    c.train.epochs = 1200.0
    c.train.checkpoint_epochs = c.evals.every_epochs = 10.0
    return smoke_or_full(c, variant)
