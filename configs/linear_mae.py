"""The linear probe of MAE and MoCo v3's ViTs on ImageNet: a normalised classifier on a frozen backbone, LARS.

Run:      python main.py --config=configs/linear_mae.py --workdir=runs/linear_mae \\
              --config.student.init=mae_pretrain_vit_base.pth --config.data.dir=FOLDER_OF_IMAGENET
          `:fd` probes a student of feature distillation, --config.student.init=runs/fd_dino_b: the mean of
          its normalised patches. For DINO itself add --config.student.options.form=dino and its file.
Hardware: 90 epochs at 224 px in batches of 16,384: the backbone forward and one linear layer; meant for
          eight GPUs and up. Not run yet: there is no number of our own.
Batch:    the rate scales with data.batch_size, from its value at 256.
Expected: no number of our own. Of the students of feature distillation:
          DINO 78.2 (README of facebookresearch/dino, whose own probe is another) -> 76.1 (a reading note on
          arXiv 2205.14141v3). Fine-tuning goes up at the same time, so report both
          (configs/finetune_fd.py).
          The values are those of MAE's FINETUNE.md and main_linprobe.py: BatchNorm without scale and bias,
          LARS, no weight decay, crop and flip alone. LARS multiplies by the rate before momentum, where
          MAE's does it after. Feature-Distillation's main_linear.py ships no values; it probes the mean of
          patches after a norm that was never trained (pool = "mean" in student.options).
Variants: `:fd`; `:smoke` runs anywhere.
"""

from seed_jax import config


def get_config(variant: str = ""):
    c = config.default("supervised")
    c.method.freeze, c.method.batch_norm = "backbone", True
    c.data.source, c.data.val, c.data.test = "imagenet", "val", "val"
    c.data.batch_size = 16_384
    c.data.crop, c.data.crop_scale, c.data.photometric = "random", (0.08, 1.0), "supervised"
    c.student.model, c.student.options = "vit_base", {"form": "deit"}
    c.optim.name, c.optim.lr, c.optim.lr_batch, c.optim.weight_decay = "lars", 0.1, 256, 0.0
    c.optim.schedule, c.optim.warmup_epochs, c.optim.decay_from = "cosine", 10.0, "warmup"
    c.train.epochs, c.train.precision, c.train.bn_group = 90.0, "bf16", 512
    c.evals.names = ("top1",)
    if variant == "fd":
        c.student.model, c.student.options, c.student.init = "fd_vit_base", {}, "runs/fd_dino_b"
        return c
    return config.variant(c, variant)
