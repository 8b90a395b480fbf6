"""Feature distillation and fine-tuning on CIFAR-100: DINO's ViT-B/16 teaches a small ViT with patches of 4.

Run:      python main.py --config=configs/fd_cifar100.py --workdir=runs/fd_cifar100 \\
              --config.teacher.weights=dino_vitbase16_pretrain.pth --config.data.dir=FOLDER_OF_CIFAR100
          then python main.py --config=configs/fd_cifar100.py:finetune --workdir=runs/finetune_cifar100 \\
              --config.data.dir=FOLDER_OF_CIFAR100
          which starts from runs/fd_cifar100. `:scratch` is the same fine-tuning from random weights, the
          baseline. The folder is that of cifar-100-python.tar.gz.
Hardware: 300 epochs of 45,000 images at 32 px, which the teacher sees at 128 px; fine-tuning 100 epochs;
          meant for one GPU. Not run yet.
Expected: unknown: there is no published number for this pair, and no number of our own. Compare `:finetune`
          with `:scratch`.
          The student's 8 x 8 patches are those of the teacher's 128 px, so that tokens pair up. The values
          are those of fd_clip_b.py and finetune_fd.py, in smaller batches, with RandAugment and without
          erasing, which at 32 px leaves little of an object.
Variants: `:finetune`; `:scratch`; `:smoke` runs anywhere, and so does `:finetune_smoke`.
"""

from seed_jax import config
from seed_jax.configs import fd_clip_b, finetune_fd


def get_config(variant: str = ""):
    if variant in ("finetune", "scratch", "finetune_smoke"):
        return finetune(variant)
    c = fd_clip_b.recipe("fd_vit_small", drop_path=0.1, patch=4, image_size=32)
    c.data.update(cifar())
    c.teacher.model, c.teacher.weights = "vit_base", "dino_vitbase16_pretrain.pth"
    c.teacher.image_size = 128
    c.evals.bank_size = 0
    if variant != "smoke":
        return config.variant(c, variant)
    c = config.smoke(c)
    c.teacher.image_size = 0
    c.student.options = {"drop_path": 0.1, "image_size": 32}
    return c


def finetune(variant: str):
    """The second half: the student, or the same network from random weights, learns the labels."""
    c = finetune_fd.recipe()
    c.data.update(cifar())
    c.data.policy, c.data.erase = "timm_rand_augment", 0.0
    c.student.model, c.student.init = "fd_vit_small", "runs/fd_cifar100"
    c.student.options = {"patch": 4, "image_size": 32, "drop_path": 0.1}
    c.student.options.update(pool="mean", positions="layer", truncated=False)
    c.optim.lr, c.optim.lr_min, c.optim.layer_decay = 1.25e-3, 2.5e-7, 0.65
    c.train.epochs, c.optim.warmup_epochs = 100.0, 20.0
    if variant == "scratch":
        c.student.init, c.optim.layer_decay = "", 1.0
    return finetune_fd.smoke_of(c) if variant == "finetune_smoke" else c


def cifar() -> dict:
    """The data of both halves."""
    return {
        "source": "cifar100",
        "val": "val",
        "test": "test",
        "batch_size": 512,
        "image_size": 32,
        "crop": "random",
        "crop_scale": (0.2, 1.0),
        "resize": 1.0,
    }
